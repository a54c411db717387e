//! Logs: tracing events to a writer (standard error, or the live view's, which keeps its table
//! whole), as text or JSON lines. Settings in; the process's one subscriber is set.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogSection;

/// Sets the subscriber of this process. `colour` should be true only for a terminal that wants it
/// ([`colour_on_stderr`]); JSON has none. Fails if there is a subscriber already.
pub fn install<W>(section: &LogSection, writer: W, colour: bool) -> anyhow::Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing::subscriber::set_global_default(subscriber(section, writer, colour))?;
    Ok(())
}

/// Whether standard error is a terminal that wants colours (`NO_COLOR`, `CLICOLOR`).
#[must_use]
pub fn colour_on_stderr() -> bool {
    console::colors_enabled_stderr()
}

fn subscriber<W>(
    section: &LogSection,
    writer: W,
    colour: bool,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(section.level))
        .with_writer(writer)
        .with_target(false);
    if section.json {
        Box::new(builder.json().flatten_event(true).finish())
    } else {
        Box::new(builder.with_ansi(colour).finish())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: tracing::Level, json: bool, colour: bool) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let section = LogSection { level, json };
        let subscriber = subscriber(&section, move || writer.clone(), colour);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target_name = "db", "connection lost");
            tracing::debug!("detail");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_plain_unless_colour_is_wanted() {
        let text = logged(tracing::Level::INFO, false, false);
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with(" WARN connection lost target_name=\"db\"\n"), "{text:?}");
        assert!(!text.contains('\x1b'));
        assert!(logged(tracing::Level::INFO, false, true).contains('\x1b'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(tracing::Level::DEBUG, true, true);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "connection lost");
        assert_eq!(lines[0]["target_name"], "db");
        assert_eq!(lines[1]["level"], "DEBUG");
    }

    #[test]
    fn the_level_is_the_least_severe_one_written() {
        assert_eq!(logged(tracing::Level::ERROR, false, false), "");
    }
}
