//! Many targets that are one responder: how many and its port flow in, a file for `--targets` flows
//! out.

use std::io::{self, Write};

/// A file of that many targets behind a responder's port, over a few addresses of this host: the
/// ports of one pair of addresses would not be enough for all.
pub(crate) fn targets_file(targets: usize, port: u16) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    let entry = |number: usize| {
        let host = number % 4 + 1;
        format!(r#"{{"name": "target-{number}", "address": "127.0.0.{host}:{port}"}}"#)
    };
    let entries: Vec<String> = (0..targets).map(entry).collect();
    write!(file, "[{}]", entries.join(",\n"))?;
    file.flush()?;
    Ok(file)
}
