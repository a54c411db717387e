//! `file_sd`: files of target groups. Paths in, the targets of all files out, each time somebody
//! asks.
//!
//! Contents are read and compared every few seconds. Notifications of the kernel would be sooner,
//! but are silent on network file systems, and have to be set up anew at each of the renames and
//! links by which Kubernetes and editors replace a file. Reading some MB from the page cache takes
//! less time than one scrape.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};

use super::{Answer, Labels, check_count, group_labels, one_line};
use crate::config::discovery::{FilePattern, FileSd, TargetGroup};
use crate::config::limits::TARGETS_FILE_BYTES_MAX;

/// The files of one source.
#[derive(Debug)]
pub(super) struct Files {
    settings: FileSd,
    known: BTreeMap<PathBuf, Known>,
    /// A reading that did not end in time: nothing else is begun before it does.
    late: Option<JoinHandle<Reading>>,
}

/// The last good contents of a file.
#[derive(Clone, Debug)]
struct Known {
    fingerprint: u64,
    targets: Vec<Labels>,
}

/// What was found.
#[derive(Debug, Default)]
struct Reading {
    /// Files that are there, and their contents if they changed.
    files: BTreeMap<PathBuf, Option<Known>>,
    /// Folders that could not be listed: what is known of their files stays.
    unlisted: Vec<PathBuf>,
    errors: Vec<String>,
}

impl Files {
    pub(super) const fn new(settings: FileSd) -> Self {
        Self { settings, known: BTreeMap::new(), late: None }
    }

    /// Looks at all files.
    pub(super) async fn ask(&mut self) -> Answer {
        let wait = self.settings.refresh_interval.min(LOOK);
        let mut reading = self.late.take().unwrap_or_else(|| {
            let patterns = self.settings.files.clone();
            let known = self.known.iter();
            let prints = known.map(|(path, known)| (path.clone(), known.fingerprint)).collect();
            spawn_blocking(move || read_all(&patterns, &prints))
        });
        let reading = match tokio::time::timeout(READ_TIMEOUT, &mut reading).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(_)) => {
                let error = Some("reading the files failed".to_owned());
                return Answer { targets: None, error, wait };
            }
            Err(_) => {
                self.late = Some(reading);
                let error = format!("the files cannot be read within {READ_TIMEOUT:?}");
                return Answer { targets: None, error: Some(error), wait };
            }
        };
        let changed = self.take_over(&reading);
        let targets =
            changed.then(|| self.known.values().flat_map(|known| known.targets.clone()).collect());
        let error = (!reading.errors.is_empty()).then(|| one_line(&reading.errors.join("; ")));
        Answer { targets, error, wait }
    }

    /// Whether any file's targets may be others now.
    fn take_over(&mut self, reading: &Reading) -> bool {
        let before = self.known.len();
        self.known.retain(|path, _| {
            let folder = path.parent().unwrap_or_else(|| Path::new(""));
            reading.files.contains_key(path) || reading.unlisted.iter().any(|it| it == folder)
        });
        let mut changed = self.known.len() != before;
        for (path, known) in &reading.files {
            if let Some(known) = known {
                self.known.insert(path.clone(), known.clone());
                changed = true;
            }
        }
        changed
    }
}

fn read_all(patterns: &[FilePattern], prints: &BTreeMap<PathBuf, u64>) -> Reading {
    let mut reading = Reading::default();
    for pattern in patterns {
        match matches(pattern.path()) {
            Ok(paths) => {
                for path in paths {
                    let print = prints.get(&path).copied();
                    let contents = read(&path, print).unwrap_or_else(|why| {
                        reading.errors.push(format!("{}: {why}", path.display()));
                        None
                    });
                    reading.files.insert(path, contents);
                }
            }
            Err((folder, why)) => {
                reading.errors.push(format!("{}: {why}", folder.display()));
                reading.unlisted.push(folder);
            }
        }
    }
    reading
}

/// Paths that a pattern means. A name without a star means itself, even if nothing is there: that
/// is an error of reading then, and what is known of the file stays.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>, (PathBuf, String)> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else { return Ok(vec![pattern.to_owned()]) };
    let folder = pattern.parent().unwrap_or_else(|| Path::new(""));
    let listed = if folder == Path::new("") { Path::new(".") } else { folder };
    let fail = |why: String| (folder.to_owned(), why);
    let entries = fs::read_dir(listed).map_err(|error| fail(error.to_string()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| fail(error.to_string()))?.file_name();
        let Some(text) = name.to_str() else { continue };
        let long_enough = text.len() >= start.len() + end.len();
        // As a shell: a star does not begin a hidden file's name.
        let hidden = start.is_empty() && text.starts_with('.');
        if long_enough && !hidden && text.starts_with(start) && text.ends_with(end) {
            paths.push(folder.join(text));
        }
        if paths.len() > FILES_MAX {
            return Err(fail(format!("more than {FILES_MAX} files match {name:?}")));
        }
    }
    Ok(paths)
}

/// The contents, unless they are those of the fingerprint.
fn read(path: &Path, print: Option<u64>) -> Result<Option<Known>, String> {
    let text = read_text(path).map_err(|error| error.to_string())?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let fingerprint = hasher.finish();
    if print == Some(fingerprint) {
        return Ok(None);
    }
    let is_json = path.extension().is_some_and(|it| it.eq_ignore_ascii_case("json"));
    let groups: Vec<TargetGroup> = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        let options = serde_saphyr::options! { with_snippet: false };
        let groups: Option<_> = serde_saphyr::from_str_with_options(&text, options)
            .map_err(|error| error.to_string())?;
        groups.unwrap_or_default()
    };
    check_count(&groups)?;
    let targets = group_labels(&groups, &[("__meta_filepath", &path.to_string_lossy())]);
    Ok(Some(Known { fingerprint, targets }))
}

fn read_text(path: &Path) -> io::Result<String> {
    // A pipe would be waited for without end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is no file"));
    }
    let mut text = String::new();
    File::open(path)?.take(TARGETS_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > TARGETS_FILE_BYTES_MAX {
        return Err(io::Error::other(format!("is larger than {TARGETS_FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Longest time between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// How long reading all files may take before it counts as a failure.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Files that one pattern may match.
const FILES_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    fn files(folder: &Path, pattern: &str) -> Files {
        let pattern: FilePattern = pattern.to_owned().try_into().unwrap();
        let files = vec![pattern.in_folder(folder)];
        Files::new(FileSd { files, refresh_interval: LOOK })
    }

    fn addresses(files: &Files) -> Vec<&str> {
        let targets = files.known.values().flat_map(|known| &known.targets);
        targets.map(|labels| labels["__address__"].as_str()).collect()
    }

    #[tokio::test]
    async fn json_and_yaml_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let json = r#"[{"targets": ["a:1", "b:2"], "labels": {"rack": "r"}}]"#;
        let yaml = "- targets: ['a:1', 'b:2']\n  labels:\n    rack: r\n";
        for (name, text) in [("t.json", json), ("t.yml", yaml), ("t.yaml", yaml), ("t.YML", json)] {
            fs::write(folder.path().join(name), text).unwrap();
            let mut files = files(folder.path(), name);
            let answer = files.ask().await;
            assert_eq!(answer.error, None);
            let path = folder.path().join(name).to_string_lossy().into_owned();
            let labels = |address: &str| {
                let pairs = [("__address__", address), ("__meta_filepath", &path), ("rack", "r")];
                Labels::from(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())))
            };
            assert_eq!(answer.targets.unwrap(), [labels("a:1"), labels("b:2")]);
            assert!(files.ask().await.targets.is_none(), "unchanged");
        }
    }

    #[tokio::test]
    async fn a_bad_file_is_one_error_and_keeps_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let other = folder.path().join("b.json");
        let good = r#"[{"targets": ["a:1"]}]"#;
        fs::write(&path, good).unwrap();
        let mut files = files(folder.path(), "*.json");
        assert_eq!(files.ask().await.error, None);
        let many = format!("[{{\"targets\": [{}\"\"]}}]", "\"\",".repeat(100_000));
        let names = (0..300).map(|it| format!("{{\"labels\": {{\"l{it}\": \"\"}}}}"));
        let names = format!("[{}]", names.collect::<Vec<_>>().join(","));
        for (number, (bad, complaint)) in [
            (&good[..10], "EOF"),
            ("", "EOF"),
            ("{}", "expected"),
            (r#"[{"target": []}]"#, "unknown field `target`"),
            (r#"[{"targets": [1]}]"#, "expected a string"),
            (r#"[{"targets": [], "labels": {"a b": ""}}]"#, "no label's name"),
            (&many, "100001 targets, more than 100000"),
            (&names, "300 names of labels, more than 256"),
            (&"[".repeat(100_000), "expected a string"),
        ]
        .into_iter()
        .enumerate()
        {
            fs::write(&path, bad).unwrap();
            // Those beside it go on changing.
            fs::write(&other, format!(r#"[{{"targets": ["b:{number}"]}}]"#)).unwrap();
            let error = files.ask().await.error.unwrap();
            assert!(error.contains(complaint) && error.contains("a.json"), "{error}");
            assert!(!error.contains('\n') && error.chars().count() <= 400, "{error}");
            assert_eq!(addresses(&files), ["a:1", &format!("b:{number}")]);
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(files.ask().await.error.unwrap().contains("UTF-8"));
        File::create(&path).unwrap().set_len(TARGETS_FILE_BYTES_MAX + 1).unwrap();
        assert!(files.ask().await.error.unwrap().contains("larger than"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(files.ask().await.error.unwrap().contains("is no file"));
        assert_eq!(addresses(&files)[0], "a:1");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, r#"[{"targets": ["c:1"]}]"#).unwrap();
        let answer = files.ask().await;
        assert_eq!((answer.error, answer.targets.unwrap().len()), (None, 2));
    }

    #[tokio::test]
    async fn hostile_yaml_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yml");
        let mut files = files(folder.path(), "a.yml");
        fs::write(&path, "- targets: ['a:1']").unwrap();
        assert_eq!(files.ask().await.error, None);
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let item = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![item; 10].join(", "));
        }
        let items = ["*a"; 9].join(", ");
        let groups = format!("- targets: &a [x, y]\n- targets: [{items}]\n");
        for bad in ["- targets: [a", "- {targets: [a], target: b}", "a: b", &bomb, &groups] {
            fs::write(&path, bad).unwrap();
            assert!(files.ask().await.error.is_some(), "{bad}");
            assert_eq!(addresses(&files), ["a:1"]);
        }
        fs::write(&path, "# nothing\n").unwrap();
        let answer = files.ask().await;
        assert_eq!((answer.error, answer.targets), (None, Some(Vec::new())));
    }

    #[tokio::test]
    async fn a_star_loses_files_and_a_name_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            fs::write(folder.path().join(name), r#"[{"targets": ["a:1"]}]"#).unwrap();
        };
        for name in ["x-1.json", "x-2.json", "x.json", "y-1.json", ".x-3.json"] {
            write(name);
        }
        let mut star = files(folder.path(), "x-*.json");
        let mut name = files(folder.path(), "x-1.json");
        assert_eq!(star.ask().await.targets.unwrap().len(), 2);
        assert_eq!(name.ask().await.targets.unwrap().len(), 1);
        assert_eq!(files(folder.path(), "*.json").ask().await.targets.unwrap().len(), 4);
        fs::remove_file(folder.path().join("x-1.json")).unwrap();
        let answer = star.ask().await;
        assert_eq!((answer.error, answer.targets.unwrap().len()), (None, 1));
        let answer = name.ask().await;
        assert!(answer.error.is_some() && answer.targets.is_none());
        // The folder is gone, as on a lost network file system: its files' targets stay.
        folder.close().unwrap();
        let answer = star.ask().await;
        assert!(answer.error.is_some() && answer.targets.is_none());
        assert_eq!(addresses(&star), ["a:1"]);
    }
}
