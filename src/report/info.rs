//! What `info` says of one connection: a JSON line for scripts, a table for people, a grid that
//! fits a terminal for those who watch. The kernel's bytes in, lines out.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::json::append;
use super::table::cut;
use super::units::time_text;
use crate::tcp_info::{CaState, FastOpenFailure, MEMBERS, Member, Options, Raw, State, Unit};

/// One look.
#[derive(serde::Serialize)]
struct Line<'a> {
    address: &'a str,
    kernel: &'a str,
    length: usize,
    fields: Fields<'a>,
}

/// Every member in the order of the kernel's struct, by its name: times in ns, sizes in bytes,
/// `null` for what is not there or has no value.
struct Fields<'a>(&'a Raw);

/// Appends the line of one look to `buffer`, newline included.
pub fn append_json(buffer: &mut Vec<u8>, address: &str, kernel: &str, raw: &Raw) {
    let line = Line { address, kernel, length: raw.length(), fields: Fields(raw) };
    append(buffer, &line);
}

/// One member a line, with what it is; what this kernel does not fill is marked.
#[must_use]
pub fn table(address: &str, kernel: &str, raw: &Raw) -> Vec<String> {
    let mut lines = vec![header(address, kernel, raw)];
    for member in MEMBERS {
        let value = value_text(raw, member);
        let note = if raw.fills(member) {
            member.help.to_owned()
        } else {
            format!("Not filled by this kernel; Linux {} is the first that has it.", member.since)
        };
        lines.push(format!("{:NAME_WIDTH$}  {value:>VALUE_WIDTH$}  {note}", member.name));
    }
    lines
}

/// The same without words, in as many columns as fit, and no more lines than fit.
#[must_use]
pub fn grid(address: &str, kernel: &str, raw: &Raw, width: usize, lines: usize) -> Vec<String> {
    let cell = NAME_WIDTH + 2 + VALUE_WIDTH;
    let columns = ((width + GAP) / (cell + GAP)).max(1);
    let rows = MEMBERS.len().div_ceil(columns);
    let mut grid = vec![header(address, kernel, raw)];
    for row in 0..rows.min(lines.saturating_sub(1)) {
        let cells = (0..columns).filter_map(|column| MEMBERS.get(column * rows + row));
        let cells: Vec<String> = cells
            .map(|member| {
                let value = value_text(raw, member);
                format!("{:NAME_WIDTH$}  {value:>VALUE_WIDTH$}", member.name)
            })
            .collect();
        grid.push(cells.join(&" ".repeat(GAP)));
    }
    grid.into_iter().map(|line| cut(&line, width)).collect()
}

fn header(address: &str, kernel: &str, raw: &Raw) -> String {
    format!("{address}  kernel {kernel}, {} bytes of TCP_INFO", raw.length())
}

/// A value with its unit; `-` for what this kernel does not fill.
fn value_text(raw: &Raw, member: &Member) -> String {
    if !raw.fills(member) {
        return "-".to_owned();
    }
    let Some(number) = raw.number(member) else {
        return member.none.map_or("-", |(_, word)| word).to_owned();
    };
    match member.unit {
        Unit::State => State::new(byte(number)).to_string(),
        Unit::CaState => CaState::new(byte(number)).to_string(),
        Unit::FastOpenFailure => FastOpenFailure::new(byte(number)).to_string(),
        Unit::Options => {
            let names: Vec<&str> = Options::new(byte(number)).short_names().collect();
            if names.is_empty() { "none".to_owned() } else { names.join(" ") }
        }
        Unit::Flag => if number == 0 { "no" } else { "yes" }.to_owned(),
        Unit::Micros | Unit::Millis => time_text(member.unit.ns(number)),
        Unit::Bytes => format!("{number} B"),
        Unit::BytesPerSecond => format!("{number} B/s"),
        Unit::Code | Unit::Count | Unit::Segments => number.to_string(),
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(MEMBERS.len()))?;
        for member in MEMBERS {
            map.serialize_key(member.name)?;
            let Some(number) = self.0.number(member) else {
                map.serialize_value(&())?;
                continue;
            };
            match member.unit {
                Unit::State => map.serialize_value(&State::new(byte(number)).to_string())?,
                Unit::CaState => map.serialize_value(&CaState::new(byte(number)).to_string())?,
                Unit::FastOpenFailure => {
                    map.serialize_value(&FastOpenFailure::new(byte(number)).to_string())?;
                }
                Unit::Options => {
                    let names: Vec<&str> = Options::new(byte(number)).names().collect();
                    map.serialize_value(&names)?;
                }
                Unit::Flag => map.serialize_value(&(number != 0))?,
                unit => map.serialize_value(&unit.ns(number).unwrap_or(number))?,
            }
        }
        map.end()
    }
}

/// Words are of one byte in the kernel's struct.
fn byte(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

const NAME_WIDTH: usize = 25;
const VALUE_WIDTH: usize = 19;
/// Between two columns of the grid.
const GAP: usize = 4;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use crate::tcp_info::{Kernel, members};

    /// As Linux 6.1 would tell of a connection.
    fn raw() -> Raw {
        let mut raw = Raw::decode(&[0; 232], Kernel::parse("6.1"));
        for (member, number) in [
            (&members::state, 1),
            (&members::options, 0b111),
            (&members::rtt, 1_234),
            (&members::last_data_sent, 20),
            (&members::snd_mss, 1_448),
            (&members::pacing_rate, u64::MAX),
            (&members::delivery_rate, 5_000_000),
            (&members::delivery_rate_app_limited, 1),
        ] {
            raw.set(member, number);
        }
        raw
    }

    #[test]
    fn a_table_has_units_and_marks_what_is_not_filled() {
        let lines = table("db:1", "6.1.2", &raw());
        assert_eq!(lines[0], "db:1  kernel 6.1.2, 232 bytes of TCP_INFO");
        assert_eq!(lines.len(), 1 + MEMBERS.len());
        let check = |name: &str, value: &str, note: &str| {
            let row = lines.iter().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            let rest = row[NAME_WIDTH..].trim_start().to_owned();
            assert!(rest.starts_with(&format!("{value}  ")), "{row}");
            assert!(rest.contains(note), "{row}");
        };
        check("state", "established", "State");
        check("options", "ts sack wscale", "Options");
        check("delivery_rate_app_limited", "yes", "limited");
        check("rtt", "1.23ms", "Smoothed");
        check("last_data_sent", "20.0ms", "data was sent");
        check("snd_mss", "1448 B", "Largest");
        check("pacing_rate", "unlimited", "How fast");
        check("delivery_rate", "5000000 B/s", "arrived");
        check("lost", "0", "lost");
        check("rcv_wnd", "-", "Not filled by this kernel; Linux 6.2 is the first");
    }

    #[test]
    fn a_grid_fits_the_terminal() {
        for (width, lines) in [(80, 24), (160, 50), (200, 24), (10, 5), (1_000, 1_000)] {
            let grid = grid("db:1", "6.1.2", &raw(), width, lines);
            assert!(grid.len() <= lines, "{width}x{lines}");
            assert!(grid.iter().all(|line| line.chars().count() <= width), "{width}x{lines}");
        }
        let wide = grid("db:1", "6.1.2", &raw(), 1_000, 1_000).join("\n");
        assert!(MEMBERS.iter().all(|member| wide.contains(member.name)));
    }

    #[test]
    fn json_has_every_field_in_order_and_null_for_none() {
        let mut line = Vec::new();
        append_json(&mut line, "db:1", "6.1.2", &raw());
        let line = String::from_utf8(line).unwrap();
        let start = "{\"address\":\"db:1\",\"kernel\":\"6.1.2\",\"length\":232,\"fields\":{\
                     \"state\":\"established\",\"ca_state\":\"open\",\"retransmits\":0,";
        assert!(line.starts_with(start), "{line}");
        assert!(line.ends_with("\"options2\":null}}\n"), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let fields = value["fields"].as_object().unwrap();
        assert_eq!(fields.len(), MEMBERS.len());
        assert_eq!(fields["rtt"], 1_234_000);
        assert_eq!(fields["last_data_sent"], 20_000_000);
        assert_eq!(fields["options"].as_array().unwrap().len(), 3);
        assert_eq!(fields["delivery_rate_app_limited"], true);
        assert!(fields["pacing_rate"].is_null() && fields["rcv_wnd"].is_null());
    }
}
