//! `cargo test`, and once more, alone, each of a few tests that fail: what holds for every kernel's
//! guest holds here. Packets, clocks and other programs are real in these tests, and a machine
//! of two cores that does something else at the wrong moment must not hold up a change. Words for
//! cargo flow in; the names of tests that passed only alone flow out, to be told at the end.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::shell;

/// Runs `cargo test` with these words. What comes back are the tests that failed and then passed.
///
/// # Errors
///
/// A test fails twice, more than [`AGAIN_MAX`] fail, a test binary dies, or nothing compiles.
pub fn run(words: &[&str], set_up: impl Fn(&mut Command)) -> Result<Vec<String>> {
    let mut first = shell::cargo(words.iter().copied().chain(["--no-fail-fast"]));
    set_up(&mut first);
    let (succeeded, said) = shell::run_and_hear(&mut first)?;
    if succeeded {
        return Ok(Vec::new());
    }
    let failed = failed(&said);
    ensure!(!failed.is_empty(), "the tests did not run, or a test binary died");
    let count = failed.len();
    ensure!(count <= AGAIN_MAX, "{count} tests failed, too many for chance (at most {AGAIN_MAX})");
    for name in &failed {
        println!("\nagain, alone: {name}");
        let mut again = shell::cargo(words.iter().copied().chain(["--", "--exact", name]));
        set_up(&mut again);
        shell::run(&mut again)?;
    }
    Ok(failed)
}

/// The tests that failed, by name; none if a test binary began and did not end, since nobody
/// knows then what else would have failed.
fn failed(said: &[String]) -> Vec<String> {
    let count = |start: &str| said.iter().filter(|line| line.starts_with(start)).count();
    if count("running ") != count("test result: ") {
        return Vec::new();
    }
    let name = |line: &String| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.to_owned())
    };
    said.iter().filter_map(name).collect()
}

/// More failures than these are no chance.
const AGAIN_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_failed_is_named() {
        let said = "running 2 tests\ntest a::b ... FAILED\ntest c ... ok\ntest result: FAILED. 1\n\
                    running 1 test\ntest d - e (line 3) ... FAILED\ntest result: FAILED. 0\n";
        assert_eq!(failed(&lines(said)), ["a::b", "d - e (line 3)"]);
    }

    #[test]
    fn a_binary_that_dies_is_no_test_that_failed() {
        let said = "running 2 tests\ntest a ... FAILED\ntest result: FAILED. 1\n\
                    running 9 tests\ntest c ... ok\n";
        assert!(failed(&lines(said)).is_empty());
        assert!(failed(&lines("")).is_empty());
    }
}
