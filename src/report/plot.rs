//! Latencies by percentile as an SVG picture. Histograms in, the text of one file out; pure. The
//! percentiles' axis is that of the nines (each nine as wide as the one before it), since the rare
//! ones matter; the latencies' axis is logarithmic.

use std::fmt::Write;

use super::units::time_text;
use crate::histogram::HistogramSnapshot;
use crate::time::seconds;

/// One line of the picture.
#[derive(Clone, Copy, Debug)]
pub struct Curve<'a> {
    /// What the legend calls it.
    pub name: &'a str,
    /// Its latencies.
    pub latency: &'a HistogramSnapshot,
}

/// Where things are, in the units of the picture.
struct Frame {
    /// Nines shown.
    nines: f64,
    /// Powers of ten of the lowest and the highest latency, in seconds.
    low: f64,
    high: f64,
}

/// The picture. Without any latency it has axes only.
#[must_use]
pub fn svg(title: &str, curves: &[Curve<'_>]) -> String {
    let frame = Frame::around(curves);
    let named = curves.len().min(LEGEND_MAX);
    let rest = usize::from(curves.len() > named);
    let rows = u32::try_from(if curves.len() > 1 { named + rest } else { 0 }).unwrap_or(0);
    let height = BOTTOM + 60.0 + 20.0 * f64::from(rows);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        title = escaped(title),
    );
    text(&mut out, (LEFT, 28.0), "start", &format!("Latency by percentile: {title}"));
    frame.draw_grid(&mut out);
    for (index, curve) in curves.iter().enumerate() {
        frame.draw_curve(&mut out, curve, COLOURS[index % COLOURS.len()]);
    }
    if curves.len() > 1 {
        draw_legend(&mut out, &curves[..named], curves.len() - named);
    }
    out.push_str("</svg>\n");
    out
}

impl Frame {
    fn around(curves: &[Curve<'_>]) -> Self {
        let filled = || curves.iter().filter(|curve| curve.latency.count > 0);
        let count = filled().map(|curve| curve.latency.count).max().unwrap_or(1);
        let lowest = filled().filter_map(|curve| curve.latency.quantile(0.0)).min();
        let highest = filled().map(|curve| curve.latency.max_ns).max();
        let (lowest, highest) = (lowest.unwrap_or(10_000), highest.unwrap_or(1_000_000));
        Self {
            nines: nines(1, count).clamp(1.0, NINES_MAX),
            low: log(step_below(lowest.max(1))),
            high: log(step_above(highest.max(2))),
        }
    }

    /// The place of a share of this many nines.
    fn x(&self, nines: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * nines / self.nines
    }

    fn y(&self, ns: u64) -> f64 {
        let part = (log(ns.max(1)) - self.low) / (self.high - self.low).max(0.01);
        BOTTOM - (BOTTOM - TOP) * part.clamp(0.0, 1.0)
    }

    fn draw_grid(&self, out: &mut String) {
        for (label, nines) in PERCENTILES {
            if nines <= self.nines {
                let x = self.x(nines);
                line(out, (x, TOP), (x, BOTTOM));
                text(out, (x, BOTTOM + 18.0), "middle", label);
            }
        }
        // Three labels a decade, or one if there are many decades.
        let sparse = self.high - self.low > 3.0;
        for ns in steps().filter(|&ns| log(ns) > self.low - 0.01 && log(ns) < self.high + 0.01) {
            let y = self.y(ns);
            line(out, (LEFT, y), (RIGHT, y));
            let is_decade = 10_u64.pow(ns.ilog10()) == ns;
            if is_decade || !sparse {
                text(out, (LEFT - 8.0, y + 4.0), "end", &time_text(Some(ns)));
            }
        }
        text(out, (f64::midpoint(LEFT, RIGHT), BOTTOM + 40.0), "middle", "percentile");
    }

    fn draw_curve(&self, out: &mut String, curve: &Curve<'_>, colour: &str) {
        let latency = curve.latency;
        if latency.count == 0 {
            return;
        }
        let end = nines(1, latency.count).min(self.nines);
        let mut points = String::new();
        for step in 0..=POINTS {
            let place = end * f64::from(step) / f64::from(POINTS);
            // The last one is the longest, which is known exactly.
            let q = if step == POINTS { 1.0 } else { 1.0 - 10_f64.powf(-place) };
            let ns = latency.quantile(q).unwrap_or(0);
            push(&mut points, format_args!("{:.1},{:.1} ", self.x(place), self.y(ns)));
        }
        push(
            out,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\">\
                 <title>{}</title></polyline>\n",
                points.trim_end(),
                escaped(curve.name),
            ),
        );
    }
}

fn draw_legend(out: &mut String, curves: &[Curve<'_>], more: usize) {
    let mut y = BOTTOM + 64.0;
    for (index, curve) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        push(
            out,
            format_args!(
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"20\" height=\"4\" fill=\"{colour}\"/>\n",
                y - 6.0
            ),
        );
        let quantile = |q| time_text(curve.latency.quantile(q));
        let words = format!("{}: p50 {}, p99 {}", curve.name, quantile(0.5), quantile(0.99));
        text(out, (LEFT + 28.0, y), "start", &words);
        y += 20.0;
    }
    if more > 0 {
        text(out, (LEFT + 28.0, y), "start", &format!("… and {more} more"));
    }
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    push(
        out,
        format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>\n"
        ),
    );
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escaped(words);
    push(
        out,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n"),
    );
}

fn push(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("writing to memory cannot fail");
}

/// XML's own characters by name, and those that it forbids by a mark.
fn escaped(words: &str) -> String {
    let mut safe = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// How many nines the share has that `beyond` of `count` exceed.
#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn nines(beyond: u64, count: u64) -> f64 {
    (count.max(1) as f64 / beyond.max(1) as f64).log10()
}

fn log(ns: u64) -> f64 {
    seconds(ns).log10()
}

/// 1, 2, 5, 10, … ns.
fn steps() -> impl Iterator<Item = u64> {
    (0..=12).flat_map(|power| [1, 2, 5].map(|step| step * 10_u64.pow(power)))
}

fn step_below(ns: u64) -> u64 {
    steps().take_while(|&step| step <= ns).last().unwrap_or(1)
}

fn step_above(ns: u64) -> u64 {
    steps().find(|&step| step > ns).unwrap_or(10_u64.pow(13))
}

const WIDTH: f64 = 800.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 770.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 410.0;
/// Points of a curve: as fine as the histogram.
const POINTS: u32 = 400;
/// A histogram of more than 10^7 has no more to show.
const NINES_MAX: f64 = 7.0;
/// Curves in the legend.
const LEGEND_MAX: usize = 16;

/// Marks of the axis: how many nines each is.
const PERCENTILES: [(&str, f64); 9] = [
    ("0", 0.0),
    ("50", std::f64::consts::LOG10_2),
    ("90", 1.0),
    ("99", 2.0),
    ("99.9", 3.0),
    ("99.99", 4.0),
    ("99.999", 5.0),
    ("99.9999", 6.0),
    ("99.99999", 7.0),
];

/// Eight colours that most people can tell apart (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442"];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::sync::Arc;

    use super::*;
    use crate::histogram::{Boundaries, Histogram};

    fn latencies(us: impl IntoIterator<Item = u64>) -> HistogramSnapshot {
        let histogram = Histogram::new(Arc::new(Boundaries::new(&[])));
        us.into_iter().for_each(|us| histogram.record(us * 1_000));
        histogram.snapshot()
    }

    /// Elements are closed in order, and no character is left that XML reserves. Returns how many
    /// elements of this name there are.
    fn check_well_formed(svg: &str, name: &str) -> usize {
        let mut open = Vec::new();
        let mut count = 0;
        let mut rest = svg;
        while let Some((before, after)) = rest.split_once('<') {
            assert!(!before.contains('>'), "{before}");
            let (tag, after) = after.split_once('>').unwrap();
            let word = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            match tag.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop(), Some(closed)),
                None if tag.ends_with('/') => count += usize::from(word == name),
                None => {
                    count += usize::from(word == name);
                    open.push(word);
                }
            }
            assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
            rest = after;
        }
        assert!(open.is_empty(), "{open:?}");
        assert_eq!(rest, "\n");
        count
    }

    /// The points of the curves.
    fn points(svg: &str) -> Vec<Vec<(f64, f64)>> {
        let lists = svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let number = |text: &str| text.parse::<f64>().unwrap();
        let point = |text: &str| {
            let (x, y) = text.split_once(',').unwrap();
            (number(x), number(y))
        };
        lists.map(|list| list.split(' ').map(point).collect()).collect()
    }

    #[test]
    fn a_curve_rises_inside_its_frame() {
        let latency = latencies((1..=10_000).map(|us| us * us / 1_000 + 5));
        let svg = svg("a <b> & \"c\"", &[Curve { name: "one", latency: &latency }]);
        assert_eq!(check_well_formed(&svg, "polyline"), 1);
        assert!(svg.contains("a &lt;b&gt; &amp; &quot;c&quot;"), "{svg}");
        let [curve] = &points(&svg)[..] else { panic!("{svg}") };
        assert_eq!(curve.len(), 401);
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1));
        assert!(
            curve.iter().all(|&(x, y)| (LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y))
        );
        assert!((curve[400].0 - RIGHT).abs() < 0.1, "10,000 have four nines");
        for label in [">50<", ">99.99<", ">100µs<", ">100ms<"] {
            assert!(svg.contains(label), "{label}: {svg}");
        }
        assert!(!svg.contains(">99.999<"), "of 10,000 nobody knows it");
    }

    #[test]
    fn several_curves_have_a_legend() {
        let latency = latencies([10, 20, 30]);
        for (curves, named) in [(2, 2), (40, 16)] {
            let names: Vec<String> = (0..curves).map(|index| format!("run {index}")).collect();
            let list: Vec<_> = names.iter().map(|name| Curve { name, latency: &latency }).collect();
            let svg = svg("t", &list);
            assert_eq!(check_well_formed(&svg, "polyline"), curves);
            assert_eq!(svg.matches("p50 2").count(), named, "{svg}");
            assert_eq!(svg.contains("… and 24 more"), curves > named);
        }
    }

    #[test]
    fn odd_histograms_are_drawn_all_the_same() {
        let huge = latencies([u64::MAX / 1_000]);
        for latency in [latencies([]), latencies([0]), latencies([7]), latencies([1; 30]), huge] {
            let svg = svg("t", &[Curve { name: "x", latency: &latency }]);
            assert_eq!(check_well_formed(&svg, "polyline"), usize::from(latency.count > 0));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        check_well_formed(&svg("nothing", &[]), "svg");
    }
}
