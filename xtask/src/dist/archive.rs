//! Files as one archive whose bytes depend on nothing but them: no clock, no owner, no order of a
//! folder. Entries flow in, bytes flow out.

use std::io::{Cursor, Write};

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use zip::write::SimpleFileOptions;

/// A file of an archive.
#[derive(Clone)]
pub struct Entry {
    /// Its name there, with slashes.
    pub path: String,
    /// Whether it can be run.
    pub mode: Mode,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What may be done with a file.
#[derive(Clone, Copy)]
pub enum Mode {
    /// Read.
    Plain,
    /// Read and run.
    Program,
}

impl Entry {
    /// A file that is read.
    pub fn text(path: &str, text: String) -> Self {
        Self { path: path.to_owned(), mode: Mode::Plain, bytes: text.into_bytes() }
    }
}

impl Mode {
    const fn bits(self) -> u32 {
        match self {
            Self::Plain => 0o644,
            Self::Program => 0o755,
        }
    }
}

/// For Unix.
pub fn tar_gz(entries: &[Entry]) -> Result<Vec<u8>> {
    // The time and the system in the header of gzip stay unset.
    let packed = GzBuilder::new().write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(packed);
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(entry.bytes.len())?);
        header.set_mode(entry.mode.bits());
        // 1980: tools of Windows know nothing older.
        header.set_mtime(315_532_800);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, &entry.path, entry.bytes.as_slice())?;
    }
    Ok(tar.into_inner()?.finish()?)
}

/// For Windows.
pub fn zip(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(entry.mode.bits());
        archive.start_file(&entry.path, options)?;
        archive.write_all(&entry.bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::io::Read;

    use super::*;

    fn entries() -> Vec<Entry> {
        let program = vec![7; 100_000];
        vec![
            Entry { path: "a/rttscope".to_owned(), mode: Mode::Program, bytes: program },
            Entry::text("a/README.md", "read me".to_owned()),
        ]
    }

    #[test]
    fn a_tar_gives_back_what_went_in_and_the_same_bytes_again() {
        let packed = tar_gz(&entries()).unwrap();
        assert_eq!(packed, tar_gz(&entries()).unwrap());
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        for (unpacked, entry) in tar.entries().unwrap().zip(entries()) {
            let mut unpacked = unpacked.unwrap();
            assert_eq!(unpacked.path().unwrap().to_str().unwrap(), entry.path);
            assert_eq!(unpacked.header().mode().unwrap(), entry.mode.bits());
            let mut bytes = Vec::new();
            unpacked.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, entry.bytes);
        }
    }

    #[test]
    fn a_zip_gives_back_what_went_in_and_the_same_bytes_again() {
        let packed = zip(&entries()).unwrap();
        assert_eq!(packed, zip(&entries()).unwrap());
        let mut archive = zip::ZipArchive::new(Cursor::new(packed)).unwrap();
        for entry in entries() {
            let mut unpacked = archive.by_name(&entry.path).unwrap();
            assert_eq!(unpacked.unix_mode().unwrap() & 0o777, entry.mode.bits());
            let mut bytes = Vec::new();
            unpacked.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, entry.bytes);
        }
    }
}
