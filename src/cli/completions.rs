//! `completions`: a script that teaches a shell the commands and flags, made from their definition.
//! The shell's name in, the script out.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::args::Cli;

#[derive(Debug, Args)]
pub(super) struct CompletionsCommand {
    /// Which shell.
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish", "powershell", "elvish"])]
    pub(super) shell: String,
}

pub(super) fn script(command: &CompletionsCommand) -> String {
    let shell: Shell = command.shell.parse().expect("clap lets its own shells through only");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    String::from_utf8(script).expect("names and help are UTF-8")
}

const NAME: &str = "rttscope";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_command_and_flag() {
        for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
            let script = script(&CompletionsCommand { shell: shell.to_owned() });
            assert!(script.ends_with('\n'), "{shell}");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
                for long in command.get_arguments().filter_map(|flag| flag.get_long()) {
                    // fish has no dashes: `-l interval`.
                    assert!(script.contains(long), "{shell}: --{long}");
                }
            }
            assert!(!script.contains("-mode"), "{shell} knows flags of the seed");
        }
    }
}
