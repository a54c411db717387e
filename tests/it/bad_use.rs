//! Bad use: one line on standard error that says what is wrong and what to write instead, exit
//! code 2, and nothing was started. What is good but impossible here ends with 3.

use std::io::Write;
use std::net::TcpListener;

use crate::run::Run;
use crate::site::{Io, Place, Site};
use crate::turn::{self, Turn};

/// Command lines, and a word that the complaint must contain.
const BAD: [(&str, &str); 76] = [
    ("", "write"),
    ("porbe", "probe"),
    ("serve extra", "extra"),
    ("probe", "target"),
    ("probe host", "port"),
    ("probe host:", "port"),
    ("probe host:0", "port"),
    ("probe host:65536", "port"),
    ("probe host:-1", "port"),
    ("probe host:http", "port"),
    ("probe ::1:4000", "["),
    ("probe [::1]", "port"),
    ("probe [::1:4000", "["),
    ("probe 1.2.3.4:5 1.2.3.4:5", "name"),
    ("probe a=h:1 a=h:2", "name"),
    ("probe h:1 --interval=0", "interval"),
    ("probe h:1 --interval=-1s", "interval"),
    ("probe h:1 --interval=fast", "interval"),
    ("probe h:1 --interval=10", "interval"),
    ("probe h:1 --interval=1ns", "interval"),
    ("probe h:1 --interval=99999999h", "interval"),
    ("probe h:1 --timeout=0s", "timeout"),
    ("probe h:1 --interval=10us --timeout=1h", "timeout"),
    ("probe h:1 --count=0", "count"),
    ("probe h:1 --count=many", "count"),
    ("probe h:1 --window=0", "window"),
    ("probe h:1 --duration=0s", "duration"),
    ("probe h:1 --wire=v4", "v3"),
    ("probe h:1 --padding=70000", "padding"),
    ("probe h:1 --dscp=64", "dscp"),
    ("probe h:1 --ttl=0", "ttl"),
    ("probe h:1 --source=nonsense", "source"),
    ("probe h:1 --intervall=1s", "--interval"),
    ("probe h:1 -interval=1s", "--interval"),
    ("probe h:1 --io=epoll", "poll"),
    ("probe h:1 --clock=atomic", "kernel"),
    ("probe h:1 --tcp-info=some", "default"),
    ("probe h:1 --check --tcp-info=all", "--tcp-info"),
    ("probe h:1 --threads=0", "threads"),
    ("probe h:1 --log.level=loud", "info"),
    ("probe h:1 --slo=1ms:99%:atomic", "kernel"),
    ("probe h:1 --clock=application --slo=1ms:99%:kernel", "application"),
    ("rules --slo=1ms", "slo"),
    ("probe --targets=/nonexistent/targets.json", "targets"),
    ("run", "--config.file"),
    ("run --config.file=/nonexistent/rttscope.yaml", "cannot be read"),
    ("info", "info 10.0.0.1:443"),
    ("info host", "port"),
    ("info a:1 b:1", "b:1"),
    ("info a:1 --timeout=0s", "timeout"),
    ("load", "load 10.0.0.1:4000"),
    ("load h:1 --plot=a.png", "a.svg"),
    ("load h:1 --rate=0", "--rate"),
    ("load h:1 --connect --size=5", "--size"),
    ("load --scenario=/nonexistent/load_test.toml", "cannot be read"),
    ("check", "check 10.0.0.1:80"),
    ("check host", "port"),
    ("check host:0", "port"),
    ("check host:65536", "65535"),
    ("check --file=/nonexistent/addresses.txt", "--file"),
    ("check --file=/dev/null", "--file"),
    ("check h:1 -t 0", "timeout-ms"),
    ("check h:1 -t 1s", "timeout-ms"),
    ("check h:1 --timeout=1", "timeout"),
    ("check h:1 -n 0", "requests"),
    ("check h:1 -c 0", "concurrency"),
    ("check h:1 -c 1000000", "concurrency"),
    ("check h:1 --method=raw", "quickack"),
    ("check h:1 --web.listen-address=:1", "no such flag"),
    ("serve --listen=4000", ":4000"),
    ("serve --listen=nonsense:port", "listen"),
    ("serve --max-connections=0", "max-connections"),
    ("probe h:1 --web.config.file=web.yml", "--web.listen-address"),
    ("both --web.config.file=/nonexistent/web.yml", "cannot be read"),
    ("-mode=sideways", "both"),
    ("-mode=client -target=:4000 -interval=soon", "interval"),
];

#[test]
fn bad_use_is_one_helpful_line() {
    let _turn = turn::wait_for(Turn::Shared);
    for (words, hint) in BAD {
        check_complaint(words, hint);
    }
}

#[test]
fn bad_target_files_are_one_helpful_line() {
    let _turn = turn::wait_for(Turn::Shared);
    for (content, hint) in [
        (&b""[..], "write"),
        (b"[]", "write"),
        (b"{}", "write"),
        (b"[{\"name\":\"a\"}]", "address"),
        (b"[{\"name\":\"a\",\"address\":\"nowhere\"}]", "port"),
        (b"\xff\xfe\x00nonsense", "write"),
        (b"[{\"name\":\"a\",\"address\":\"h:1\"},{\"name\":\"a\",\"address\":\"h:2\"}]", "a"),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let path = file.path().to_str().unwrap();
        check_complaint(&format!("probe --targets={path}"), hint);
        check_complaint(&format!("-mode=client -targets={path}"), hint);
    }
}

#[test]
fn arguments_that_are_no_text_are_one_helpful_line() {
    use std::os::unix::ffi::OsStrExt;
    let _turn = turn::wait_for(Turn::Shared);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rttscope"));
    command.arg("probe").arg(std::ffi::OsStr::from_bytes(b"h\xff:1"));
    let ending = Run::spawn(&Place::Here, command, "probe <no UTF-8>".to_owned()).wait();
    assert_eq!((ending.code, ending.stderr.len()), (Some(2), 1), "{:?}", ending.stderr);
    // A newline in an argument does not make two lines of one.
    let ending = Run::start_with(&Place::Here, &["probe", "a\nb:1", "--interval=x\ny"]).wait();
    assert_eq!((ending.code, ending.stderr.len()), (Some(2), 1), "{:?}", ending.stderr);
}

#[test]
fn help_and_version_are_not_bad_use() {
    let _turn = turn::wait_for(Turn::Shared);
    for words in
        ["--help", "-h", "--version", "serve --help", "probe --help", "both --help", "check --help"]
    {
        let ending = Run::start(&Place::Here, words).wait();
        assert_eq!(ending.code, Some(0), "{words}: {:?}", ending.stderr);
        assert!(!ending.stdout.is_empty() && ending.stderr.is_empty(), "{words}");
    }
}

on_each_io! {
    what_is_taken_or_not_ours_ends_with_a_reason,
    socket_options_that_cannot_work_end_with_a_reason,
}

fn what_is_taken_or_not_ours_ends_with_a_reason(site: &Site) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let io = site.io.name();
    for words in [
        format!("serve --io={io} --listen={address} --web.listen-address=127.0.0.1:0"),
        format!("serve --io={io} --listen=127.0.0.1:0 --web.listen-address={address}"),
        // Nobody's address (RFC 5737).
        format!("serve --io={io} --listen=192.0.2.1:4000 --web.listen-address=127.0.0.1:0"),
        format!("both --io={io} --listen={address} --web.listen-address=127.0.0.1:0"),
    ] {
        let ending = Run::start(&Place::Here, &words).wait();
        assert_eq!(ending.code, Some(3), "{words}: {:?}", ending.stderr);
        let text = ending.stderr.join("\n");
        let named = words.contains(&address.to_string()) && text.contains(&address.to_string());
        assert!(named || text.contains("192.0.2.1:4000"), "which address? {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    assert!(matches!(site.io, Io::Uring | Io::Poll));
}

fn socket_options_that_cannot_work_end_with_a_reason(site: &Site) {
    for (words, option) in [
        ("127.0.0.1:1 --interface=nosuch0", "--interface nosuch0: No such device"),
        ("localhost:1 --interface=nosuch0", "--interface nosuch0: No such device"),
        // Nobody's address (RFC 5737).
        ("127.0.0.1:1 --source=192.0.2.1", "--source 192.0.2.1: Cannot assign"),
        ("localhost:1 --source=192.0.2.1", "--source 192.0.2.1: "),
        ("[::1]:1 --source=127.0.0.1", "--source 127.0.0.1: "),
        ("127.0.0.1:1 [::1]:1 --source=127.0.0.1", "--source 127.0.0.1: "),
    ] {
        let words = format!("probe {words} --io={} --log.level=error", site.io.name());
        let ending = Run::start(&Place::Here, &words).wait();
        assert_eq!(ending.code, Some(3), "{words}: {:?}", ending.stderr);
        assert_eq!(ending.stderr.len(), 1, "{words}: {:?}", ending.stderr);
        let line = &ending.stderr[0];
        assert!(line.contains(option) && line.contains("; write"), "{words}: {line}");
    }
    // Good for one of the families that a name may have.
    let words = "probe localhost:1 --source=127.0.0.1 --count=1 --interval=10ms --timeout=10ms";
    let ending = Run::start(&Place::Here, &format!("{words} --io={}", site.io.name())).wait();
    assert_eq!(ending.code, Some(1), "{:?}", ending.stderr);
}

fn check_complaint(words: &str, hint: &str) {
    let ending = Run::start(&Place::Here, words).wait();
    assert_eq!(ending.code, Some(2), "`{words}`: {ending:?}");
    assert_eq!(ending.stdout, Vec::<String>::new(), "`{words}`");
    assert_eq!(ending.stderr.len(), 1, "`{words}`: {:?}", ending.stderr);
    let line = &ending.stderr[0];
    assert!(line.contains(hint), "`{words}` does not mention `{hint}`: {line}");
    assert!(!line.contains("panicked"), "{line}");
}
