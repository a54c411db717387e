//! The addresses of `check`, from the command line and from a file or standard input, one a line.
//! Texts in, good addresses out, and a complaint for each bad one: a list of thousands is not
//! given up because of a slip in one line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{Place, UsageError, shown};
use crate::config::limits::{ADDRESSES_MAX, TARGETS_FILE_BYTES_MAX};
use crate::config::{BadValue, HostPort};

/// Addresses and complaints so far.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    good: Vec<HostPort>,
    complaints: Vec<UsageError>,
    /// Complaints beyond `COMPLAINTS_MAX`.
    more_complaints: usize,
}

impl Addresses {
    /// An address of the command line.
    pub(super) fn add(&mut self, text: &str) {
        match text.parse() {
            Ok(address) => self.good.push(address),
            Err(bad) => self.complain(UsageError::at(Place::Target, text, &bad)),
        }
    }

    /// Every address of a file; `-` is standard input.
    pub(super) fn add_file(&mut self, path: &Path) {
        let name = shown(&path.to_string_lossy());
        let read = if path == Path::new("-") {
            read(io::stdin().lock())
        } else {
            File::open(path).map_err(unreadable).and_then(read)
        };
        match read {
            Ok(bytes) => self.add_lines(&name, &bytes),
            Err(why) => self.complain(UsageError::new(format!("--file {name}: {why}"))),
        }
    }

    fn add_lines(&mut self, name: &str, bytes: &[u8]) {
        // A byte-order mark is what Windows editors put first.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut empty = true;
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let line = String::from_utf8_lossy(line);
            let text = line.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            empty = false;
            match text.parse() {
                Ok(address) => self.good.push(address),
                Err(BadValue { why, instead }) => self.complain(UsageError::new(format!(
                    "--file {name}, line {number}: {}: {why}; write e.g. {instead}",
                    shown(text)
                ))),
            }
        }
        if empty {
            let line = format!("--file {name}: has no address; {EXAMPLE}");
            self.complain(UsageError::new(line));
        }
    }

    fn complain(&mut self, complaint: UsageError) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        } else {
            self.more_complaints += 1;
        }
    }

    /// The good addresses, at least one, and the complaints.
    pub(super) fn finish(mut self) -> Result<(Vec<HostPort>, Vec<UsageError>), UsageError> {
        if self.good.len() > ADDRESSES_MAX {
            let given = self.good.len();
            let why = format!("{given} addresses: must be at most {ADDRESSES_MAX}; write fewer");
            return Err(UsageError::new(why));
        }
        if self.more_complaints > 0 {
            let line = format!("{} more addresses are bad in such ways", self.more_complaints);
            self.complaints.push(UsageError::new(line));
        }
        match (self.good.is_empty(), self.complaints.is_empty()) {
            (false, _) => Ok((self.good, self.complaints)),
            (true, false) => Err(UsageError::all(&self.complaints)),
            (true, true) => {
                Err(UsageError::new("check: no address; write e.g. rttscope check 10.0.0.1:80"))
            }
        }
    }
}

fn read(from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(TARGETS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > TARGETS_FILE_BYTES_MAX {
        let mib = TARGETS_FILE_BYTES_MAX / 1024 / 1024;
        return Err(format!("is larger than {mib} MiB; write fewer addresses"));
    }
    Ok(bytes)
}

#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` wants")]
fn unreadable(error: io::Error) -> String {
    format!("cannot be read ({error}); {EXAMPLE}")
}

const EXAMPLE: &str = "write a file with an address a line, e.g. 10.0.0.1:80";
/// Complaints that are printed.
const COMPLAINTS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    fn check(content: &[u8], good: &[&str], complaints: &[&str]) {
        let mut list = Addresses::default();
        list.add_lines("x", content);
        let shown: Vec<String> = list.good.iter().map(ToString::to_string).collect();
        assert_eq!(shown, good);
        let told: Vec<String> = list.complaints.iter().map(ToString::to_string).collect();
        let expected: Vec<String> =
            complaints.iter().map(|line| format!("rttscope: --file x{line}")).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn lines_comments_and_mistakes() {
        check(
            b"\xef\xbb\xbf# ours\r\n10.0.0.1:80\r\n\n  [::1]:443  # spare\n:22",
            &["10.0.0.1:80", "[::1]:443", "localhost:22"],
            &[],
        );
        check(
            b"db:0\na:1\nb\nc\xff:1\n1.2.3.4:65536",
            &["a:1"],
            &[
                ", line 1: db:0: has port 0, on which nobody can listen; write e.g. db:4000",
                ", line 3: b: has no port; write e.g. b:4000",
                ", line 4: c\u{fffd}:1: has a name that is not ASCII; \
                 write e.g. xn--bcher-kva.example:1",
                ", line 5: 1.2.3.4:65536: has port 65536, but 65535 is the last; \
                 write e.g. 1.2.3.4:4000",
            ],
        );
        let empty = ": has no address; write a file with an address a line, e.g. 10.0.0.1:80";
        for content in ["", "\n\n", "# nothing\n", "\u{feff}"] {
            check(content.as_bytes(), &[], &[empty]);
        }
    }

    #[test]
    fn not_every_complaint_of_very_many_is_printed() {
        let mut list = Addresses::default();
        list.add_lines("x", &b"bad\n".repeat(1_000));
        list.add("10.0.0.1:80");
        let (good, complaints) = list.finish().unwrap();
        assert_eq!((good.len(), complaints.len()), (1, COMPLAINTS_MAX + 1));
        let last = complaints.last().unwrap().to_string();
        assert_eq!(last, "rttscope: 980 more addresses are bad in such ways");
    }

    #[test]
    fn no_more_than_the_limit() {
        let mut list = Addresses::default();
        list.add_lines("x", &b"a:1\n".repeat(ADDRESSES_MAX + 1));
        assert_eq!(
            list.finish().unwrap_err().to_string(),
            "rttscope: 100001 addresses: must be at most 100000; write fewer"
        );
    }
}
