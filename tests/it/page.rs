//! The status page in a real Chromium, on a running prober whose targets answer, refuse and have no
//! address: it lives, it turns when a responder dies, it says when it hears nothing any more, and
//! everybody can use it. Screenshots stay in `target/screenshots`. Without the browser these tests
//! are skipped.

use rustix::process::Signal;

use crate::api::{Both, HOSTILE};
use crate::browser::Browser;
use crate::site::report_skip;
use crate::turn::{self, Turn};

#[test]
fn the_page_lives_and_turns_when_a_responder_dies() {
    let _turn = turn::wait_for(Turn::Shared);
    if !Browser::is_installed() {
        return report_skip("page::lives", "no `chromium` or `chromedriver` on the search path");
    }
    let Both { responder, prober, .. } = &mut Both::start();
    let browser = Browser::start();
    browser.show_as(1_400, 900, false);
    browser.open(&format!("http://{}/", prober.http_address()));
    browser.wait_for("document.querySelectorAll('#rows tr').length === 4");
    browser.wait_for("document.getElementById('live').dataset.live === 'live'");
    browser.keep_screenshot("list-light");

    // What is shown changes, and nobody asked for it.
    let of_good = "[...document.querySelectorAll('#rows tr')]\
                   .find((row) => row.querySelector('a').textContent === 'good')";
    browser.wait_for(&format!("{of_good}.querySelector('.state').dataset.state === 'up'"));
    let rtt = format!("{of_good}.querySelector('.number').textContent");
    let before = browser.run(&format!("return {rtt}"));
    assert!(before.as_str().is_some_and(|rtt| rtt.ends_with('s')), "{before}");
    browser.wait_for(&format!("{rtt} !== {before}"));

    // Whatever a target is called, it is called so, and nothing else happens.
    let names =
        browser.run("return [...document.querySelectorAll('#rows a')].map((a) => a.innerText)");
    assert!(
        names.as_array().is_some_and(|names| names.iter().any(|name| name == HOSTILE)),
        "{names}"
    );
    assert_eq!(browser.run("return document.querySelectorAll('main script, main img').length"), 0);

    // Search, and what it finds nothing for.
    browser.keys("#search", "goo");
    browser.wait_for("document.querySelectorAll('#rows tr').length === 1");
    browser.keys("#search", "gle");
    browser.wait_for("document.getElementById('empty').innerText.includes('google')");
    browser.open(&format!("http://{}/#/?sort=name", prober.http_address()));
    browser.wait_for("document.querySelectorAll('#rows tr').length === 4");

    browser.run(&format!("{of_good}.querySelector('a').click()"));
    browser.wait_for("document.querySelector('#detail h1')?.innerText === 'good'");
    browser.wait_for("document.querySelector('#detail .state').dataset.state === 'up'");
    browser.click("#detail summary");
    browser
        .wait_for("document.querySelectorAll('#detail .scroll[role=region] tbody tr').length > 20");
    browser.keys("#detail .probes", ARROW_LEFT);
    browser.wait_for("document.getElementById('readout').innerText.startsWith('#')");
    let words = browser.text("#readout");
    assert!(words.contains("round trip") && words.contains("lag"), "{words}");
    browser.keep_screenshot("target-light");

    responder.signal(Signal::KILL);
    browser.wait_for("document.querySelector('#detail .state').dataset.state === 'down'");
    let refused = "[...document.querySelectorAll('#detail th[scope=row]')]\
                   .some((cell) => cell.innerText.startsWith('refused'))";
    browser.wait_for(refused);
    browser.show_as(1_400, 1_000, true);
    browser.keep_screenshot("target-down-dark");
    browser.click("#detail a");
    browser.wait_for(&format!("{of_good}?.querySelector('.state').dataset.state === 'down'"));
    assert_eq!(browser.errors(), Vec::<String>::new(), "the console says nothing");

    // The prober itself is gone: what is shown is old, and says so.
    prober.signal(Signal::KILL);
    browser.wait_for("!document.getElementById('banner').hidden");
    assert!(browser.text("#banner").contains("connection to rttscope is lost"));
    browser.keep_screenshot("connection-lost-dark");
}

#[test]
fn everybody_can_use_the_page() {
    let _turn = turn::wait_for(Turn::Shared);
    if !Browser::is_installed() {
        return report_skip("page::usable", "no `chromium` or `chromedriver` on the search path");
    }
    let both = Both::start();
    let browser = Browser::start();
    let list = format!("http://{}/", both.prober.http_address());
    browser.show_as(1_400, 900, false);
    browser.open(&list);
    browser.wait_for("document.querySelectorAll('#rows tr').length === 4");
    let id = browser.run("return document.querySelector('#rows a').getAttribute('href')");
    let detail = format!("{list}{}", id.as_str().unwrap());
    for (page, url) in [("list", &list), ("target", &detail)] {
        for (device, width, height) in [("desktop", 1_400, 900), ("phone", 390, 844)] {
            for (scheme, dark) in [("light", false), ("dark", true)] {
                browser.show_as(width, height, dark);
                browser.open("about:blank");
                browser.open(url);
                browser.wait_for("document.querySelector('#rows tr, #detail h1') !== null");
                browser.wait_for("document.getElementById('live').dataset.live === 'live'");
                let what = format!("{page}-{device}-{scheme}");
                browser.keep_screenshot(&what);
                let wide = browser.run("return document.documentElement.scrollWidth > innerWidth");
                assert_eq!(wide, false, "{what} does not fit the screen");
                let faint = browser.run(FAINT_TEXTS);
                assert_eq!(faint, serde_json::json!([]), "{what} has text that is hard to read");
            }
        }
        let controls = "a, button, input, select, summary, [tabindex='0'], [role='img'], table";
        let names = browser.names(controls);
        // What is not shown has no role.
        let mut shown = names.iter().filter(|(_, role)| role != "none");
        assert!(shown.all(|(name, _)| !name.is_empty()), "nameless on the {page}: {names:?}");
        assert!(names.len() > 10, "{names:?}");
        let structure = browser.run(
            "return [document.documentElement.lang, document.querySelectorAll('main').length, \
             [...document.querySelectorAll('h1')].filter((h1) => h1.checkVisibility()).length, \
             document.querySelectorAll('[role=status], [role=alert]').length, \
             [...document.querySelectorAll('[tabindex]')].filter((it) => it.tabIndex > 0).length]",
        );
        assert_eq!(structure, serde_json::json!(["en", 1, 1, 2, 0]), "{page}");
    }
    assert_eq!(browser.errors(), Vec::<String>::new(), "the console says nothing");
}

/// U+E012, as WebDriver names keys.
const ARROW_LEFT: &str = "\u{e012}";

/// Texts with less contrast to what is behind them than WCAG 2.2 wants (1.4.3, level AA).
const FAINT_TEXTS: &str = "
    const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
    const light = (rgb) => {
        const [r, g, b] = rgb.map((part) => part / 255).map((part) =>
            part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        for (let at = node; at !== null; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.5) return colour.slice(0, 3);
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        const hidden = node.closest('.unseen, .skip, noscript, :disabled') !== null;
        if (!own || hidden || !node.checkVisibility()) continue;
        const style = getComputedStyle(node);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const [a, b] = [light(parse(style.color).slice(0, 3)), light(behind(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < (large ? 3 : 4.5)) {
            faint.push([node.tagName, node.className, contrast, node.innerText].join(' '));
        }
    }
    return faint;";
