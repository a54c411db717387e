//! Completions in a real shell, man pages in the real formatter.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::run::Run;
use crate::site::{Place, report_skip};
use crate::turn::{self, Turn};

#[test]
fn bash_completes_commands_flags_and_values() {
    let _turn = turn::wait_for(Turn::Shared);
    if Command::new("bash").arg("--version").output().is_err() {
        return report_skip("completions::bash", "no `bash` on the search path");
    }
    for (words, expected) in [
        ("rttscope pro", vec!["probe"]),
        ("rttscope s", vec!["serve", "service"]),
        ("rttscope probe --interv", vec!["--interval"]),
        ("rttscope check --io ", vec!["auto", "uring", "poll"]),
        ("rttscope doctor --js", vec!["--json"]),
        ("rttscope completions fi", vec!["fish"]),
    ] {
        // As bash calls it (bash(1), "Programmable Completion"): the words, the one to complete,
        // and the function with the command, that word and the one before it.
        let script = format!(
            "eval \"$({binary} completions bash)\"\n\
             read -ra COMP_WORDS <<< '{words}'\n\
             [[ '{words}' == *' ' ]] && COMP_WORDS+=('')\n\
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             function=$(complete -p rttscope | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
             \"$function\" rttscope \"${{COMP_WORDS[COMP_CWORD]}}\" \
             \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            binary = env!("CARGO_BIN_EXE_rttscope")
        );
        let output = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        let (reply, complaint) =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).into();
        assert_eq!(reply.lines().collect::<Vec<_>>(), expected, "{words}: {complaint}");
        assert_eq!(complaint, "", "{words}");
    }
}

#[test]
fn every_page_passes_the_formatter() {
    let _turn = turn::wait_for(Turn::Shared);
    let page = |command: &str| {
        let ending = Run::start(&Place::Here, &format!("man {command}")).wait();
        assert_eq!((ending.code, ending.stderr.len()), (Some(0), 0), "{command}");
        ending.stdout.join("\n") + "\n"
    };
    let program = page("");
    let commands: Vec<String> = program
        .lines()
        .filter_map(|line| line.strip_prefix("rttscope\\-")?.strip_suffix("(1)"))
        .map(str::to_owned)
        .collect();
    assert!(commands.len() >= 8, "{program}");
    if Command::new("groff").arg("--version").output().is_err() {
        return report_skip("completions::formatter", "no `groff` on the search path");
    }
    for command in commands.iter().map(String::as_str).chain([""]) {
        let mut groff = Command::new("groff")
            // -P-cbou: plain letters, neither bold nor underlined.
            .args(["-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=80n"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        groff.stdin.take().unwrap().write_all(page(command).as_bytes()).unwrap();
        let output = groff.wait_with_output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        // Narrow columns of long words cannot be spread nicely, which says nothing about the page.
        let serious = complaint.lines().filter(|line| !line.contains("cannot adjust line"));
        assert_eq!(serious.collect::<Vec<_>>(), Vec::<&str>::new(), "{command}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("SYNOPSIS"), "{command}");
    }
}
