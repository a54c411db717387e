//! `man`: manual pages made from the definition of the command line. A command's name in, its page
//! in roff out (man(7)); without a name, the page of the program, which names the other ones.

use clap::{Args, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::Cli;

#[derive(Debug, Args)]
pub(super) struct ManCommand {
    /// Of this command; of the program if left out.
    #[arg(value_name = "COMMAND", value_parser = super::COMMANDS)]
    pub(super) command: Option<String>,
}

pub(super) fn page(command: &ManCommand) -> String {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let of = match &command.command {
        Some(name) => program.find_subcommand(name).expect("clap lets commands through only"),
        None => &program,
    };
    let mut page = Vec::new();
    render(of, &mut page).expect("memory takes everything");
    let text = String::from_utf8(page).expect("names and help are UTF-8");
    // groff reads bytes, and only man(1) tells it of UTF-8 (groff_char(7)).
    let ascii = |c: char| {
        if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) }
    };
    text.chars().map(ascii).collect()
}

/// Every section; clap_mangen's own rendering would call the notes "EXTRA" and join their lines.
fn render(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let man = Man::new(command.clone())
        // An empty date would be left out, and everything after it take the wrong place.
        .date(" ")
        .source(concat!("rttscope ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    let mut notes = Roff::default();
    if let Some(text) = command.get_after_help() {
        notes.control("SH", ["NOTES"]);
        for line in text.to_string().lines() {
            notes.text([roman(line)]);
            notes.control("br", []);
        }
    }
    if command.get_name() != NAME {
        notes.control("SH", ["SEE ALSO"]);
        notes.text([roman(format!("{NAME}(1)"))]);
    }
    notes.to_writer(page)
}

const NAME: &str = "rttscope";

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(name: Option<&str>) -> String {
        // As a reader sees them: dashes are escaped in roff.
        page(&ManCommand { command: name.map(str::to_owned) }).replace("\\-", "-")
    }

    #[test]
    fn the_page_of_each_command_has_every_visible_flag() {
        let program = Cli::command();
        for command in program.get_subcommands() {
            let name = command.get_name();
            let page = page_of(Some(name));
            let version = env!("CARGO_PKG_VERSION");
            let title = format!("{name} 1 \" \" \"rttscope {version}\" \"User Commands\"\n");
            assert!(page.contains(&format!(".TH rttscope-{title}")), "{page}");
            let visible = command.get_arguments().filter(|flag| !flag.is_hide_set());
            for flag in visible {
                if let Some(long) = flag.get_long() {
                    assert!(page.contains(&format!("--{long}")), "{name} lacks --{long}");
                }
                let help = flag.get_help().expect("every flag has help").to_string();
                let begin = help.split(['-', '\'', '.', '\\']).next().expect("one part at least");
                assert!(page.contains(begin), "{name} lacks `{begin}`");
            }
            assert!(page.contains("Example: "), "{name} has no example");
        }
    }

    #[test]
    fn the_page_of_the_program_names_every_command() {
        let page = page_of(None);
        assert!(page.contains(".TH rttscope 1"), "{page}");
        for name in crate::cli::COMMANDS {
            assert!(page.contains(&format!("rttscope-{name}(1)")), "{name} in {page}");
        }
        assert!(page.contains("Exit codes: 0 good"), "{page}");
        assert!(!page.contains("rttscope-help"), "{page}");
        assert!(page.is_ascii() && page.contains("\\[u2026]"), "{page}");
    }

    #[test]
    fn the_list_of_commands_is_that_of_the_command_line() {
        let program = Cli::command();
        let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names, crate::cli::COMMANDS);
    }
}
