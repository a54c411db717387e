//! What a confined program can do and what it cannot: files, programs, sockets, and privileges.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rttscope::host::Capability;
use rttscope::sys::sandbox::{Permits, Sandbox, SandboxChoice, possible};
use rustix::process::Signal;

use crate::http;
use crate::kernel;
use crate::run::Run;
use crate::site::{Place, Site, report_skip};
use crate::turn::{self, Turn};

on_each_io! {
    every_thread_of_every_mode_is_confined_and_without_privileges,
    a_program_that_is_not_to_be_confined_is_not,
}

/// The folder in which the other process may read one folder.
const FOLDER: &str = "RTTSCOPE_SANDBOX_FOLDER";
const TARGETS: &str = r#"[{"name": "a", "address": "127.0.0.1:9"}]"#;
const DONE: &str = "nothing else was possible";

#[test]
fn what_was_not_permitted_is_forbidden_for_good() {
    let _turn = turn::wait_for(Turn::Shared);
    if let Some(missing) = gap() {
        return report_skip("sandbox::files", &missing);
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("inside", "may be read"), ("outside", "a secret")] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("file"), text).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::another_process", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains(DONE), "{said}");
    // Nothing was written.
    for name in ["inside", "outside"] {
        assert_eq!(fs::read_dir(folder.path().join(name)).unwrap().count(), 1, "{name}");
    }
}

/// Not a test of its own: the process that confines itself.
#[test]
fn another_process() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (inside, outside) = (folder.join("inside/file"), folder.join("outside/file"));
    let permits = Permits { files: vec![inside.clone()], ..Permits::default() };
    let mut sandbox = Sandbox::begin(SandboxChoice::On, permits).unwrap();
    check_files(&inside, &outside);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // One that runs already, and is bound all the same.
    let (go, told) = std::sync::mpsc::channel::<()>();
    let earlier = std::thread::spawn(move || {
        told.recv().unwrap();
        check_calls();
    });
    assert!(TcpStream::connect(listener.local_addr().unwrap()).is_ok(), "not yet");
    sandbox.complete().unwrap();
    let seen: Vec<Capability> = sandbox.capabilities();
    assert!(seen.iter().all(|found| found.available), "{seen:?}");
    check_calls();
    go.send(()).unwrap();
    earlier.join().unwrap();
    // A thread can be started, and is bound.
    let (a, b) = (inside.clone(), outside.clone());
    std::thread::spawn(move || {
        check_files(&a, &b);
        check_calls();
    })
    .join()
    .unwrap();
    let denied = TcpStream::connect(listener.local_addr().unwrap()).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "connections were not permitted");
    say(DONE);
}

fn check_files(inside: &Path, outside: &Path) {
    assert_eq!(fs::read_to_string(inside).unwrap(), "may be read");
    assert!(!fs::read_to_string("/proc/self/stat").unwrap().is_empty());
    let around = inside.parent().unwrap();
    for (what, result) in [
        ("reading beside it", fs::read_to_string(outside).map(drop)),
        ("reading a system file", fs::read_to_string("/etc/passwd").map(drop)),
        ("listing", fs::read_dir("/").map(drop)),
        ("writing it", fs::write(inside, "x")),
        ("writing beside it", fs::write(around.join("new"), "x")),
        ("making a folder", fs::create_dir(around.join("folder"))),
        ("removing it", fs::remove_file(inside)),
        ("writing elsewhere", fs::write("/tmp/rttscope-sandbox-test", "x")),
        ("by another way", fs::read_to_string(around.join("../outside/file")).map(drop)),
        ("by a link of the kernel", fs::read_to_string("/proc/self/root/etc/passwd").map(drop)),
        ("executing", Command::new("/bin/true").status().map(drop)),
    ] {
        let kind = result.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::PermissionDenied), "{what}");
    }
}

/// What the filter of system calls forbids, files aside.
fn check_calls() {
    let refused = |what: &str, result: io::Result<()>| {
        let kind = result.map_err(|error| error.kind());
        assert_eq!(kind, Err(ErrorKind::PermissionDenied), "{what}");
    };
    refused("a program", Command::new("/proc/self/exe").status().map(drop));
    refused("a packet socket", kernel::packet_socket(1).map(drop));
    refused("another namespace", kernel::unshare_network());
    let ring = kernel::io_uring_refusal();
    // A kernel without rings makes none either.
    if ring.as_ref().is_none_or(|why| why.kind() != ErrorKind::Unsupported) {
        refused("another ring", ring.map_or(Ok(()), Err));
    }
    let own = rustix::process::getpid();
    let others = rustix::process::kill_process(own, Signal::USR1);
    refused("a signal", others.map_err(Into::into));
    assert!(UdpSocket::bind("127.0.0.1:0").is_ok());
}

fn every_thread_of_every_mode_is_confined_and_without_privileges(site: &Site) {
    let io = site.io.name();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rttscope.yaml");
    let text = format!(
        "measuring: {{io: {io}}}\nweb: {{listen: '127.0.0.1:0'}}\nserve: {{listen: \
         '127.0.0.1:0'}}\nmodules: {{echo: {{}}, port: {{prober: check}}}}\ntargets:\n- {{address: \
         'localhost:{port}', module: port}}\n- {{address: '{target}', module: echo}}\n",
        port = target.port()
    );
    fs::write(&file, text).unwrap();
    let web = format!("--io={io} --web.listen-address=127.0.0.1:0");
    for words in [
        format!("serve --listen=127.0.0.1:0 {web}"),
        format!("probe {target} --priority=nice:5 {web}"),
        format!("probe localhost:{} --json {web}", target.port()),
        format!("both --listen=127.0.0.1:0 {web}"),
        format!("probe {target} --check --interval=10ms {web}"),
        format!("run --config.file={}", file.display()),
    ] {
        let run = Run::start(&Place::Here, &words);
        let by = run.wait_for_stderr("confined by=");
        let scrape = run.scrape();
        let has = |name| scrape.count("rttscope_capability", &[("name", name)]) == 1;
        assert_eq!(has("landlock"), by.contains("landlock"), "{by}");
        assert_eq!(has("seccomp"), by.contains("seccomp"), "{by}");
        assert_eq!(gap().is_none(), has("landlock") && has("seccomp"), "{by}");
        let threads = run.threads();
        assert!(threads.iter().any(|(name, _)| name == "http"), "{threads:?}");
        for (name, status) in threads {
            let field = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                line.trim().to_owned()
            };
            if has("seccomp") {
                assert_eq!(field("Seccomp:"), "2", "{words}: {name}");
                assert_eq!(field("NoNewPrivs:"), "1", "{words}: {name}");
            }
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                let held = u64::from_str_radix(&field(set), 16).unwrap();
                // CAP_NET_ADMIN and CAP_BPF (or, for an old kernel, CAP_SYS_ADMIN).
                let keeps = if name == "syn-keeper" { 1 << 12 | 1 << 39 | 1 << 21 } else { 0 };
                assert_eq!(held & !keeps, 0, "{words}: {name} {set} {held:x}");
            }
        }
    }
}

fn a_program_that_is_not_to_be_confined_is_not(site: &Site) {
    let io = site.io.name();
    let words = format!("serve --sandbox=off --io={io} --listen=127.0.0.1:0");
    let run = Run::start(&Place::Here, &format!("{words} --web.listen-address=127.0.0.1:0"));
    let scrape = run.scrape();
    for name in ["landlock", "seccomp"] {
        let labels = [("name", name)];
        let found: Vec<_> = scrape.select("rttscope_capability", &labels).collect();
        assert_eq!((found.len(), found[0].value), (1, 0.0));
        assert_eq!(found[0].labels["reason"], "not asked for (--sandbox)");
    }
    let status = run.thread_file("http", "status");
    assert!(status.contains("Seccomp:\t0\n"), "{status}");
}

/// Without Landlock or seccomp, `auto` goes on and says so; `on` does not.
#[test]
fn where_it_cannot_be_had_it_is_said() {
    let _turn = turn::wait_for(Turn::Shared);
    let start = |choice: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
        let words = ["serve", choice, "--listen=127.0.0.1:0", "--web.listen-address=127.0.0.1:0"];
        command.args(words).env("NO_COLOR", "1");
        kernel::forbid_sandbox(&mut command);
        Run::spawn(&Place::Here, command, format!("serve {choice} (no sandbox)"))
    };
    let auto = start("--sandbox=auto");
    for name in ["landlock", "seccomp"] {
        let line = auto.wait_for_stderr(&format!("capability=\"{name}\""));
        assert!(line.contains("not confined by it") && line.contains("allow it there"), "{line}");
        assert_eq!(auto.scrape().count("rttscope_capability", &[("name", name)]), 0);
    }
    let ending = start("--sandbox=on").wait();
    assert_eq!(ending.code, Some(3), "{:?}", ending.stderr);
    let line = ending.stderr.last().unwrap();
    assert!(line.contains("--sandbox on: ") && line.contains("--sandbox auto"), "{line}");
}

/// What is read again while the program runs, it can read: also where it was replaced.
#[test]
fn what_is_read_again_may_be_replaced() {
    let _turn = turn::wait_for(Turn::Shared);
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("1"), folder.path().join("2"));
    for (version, interval) in [(&old, "10ms"), (&new, "20ms")] {
        fs::create_dir(version).unwrap();
        let text = format!(
            "web: {{listen: '127.0.0.1:0'}}\ntargets_file: targets.json\ndefaults: {{interval: \
             {interval}}}\n"
        );
        fs::write(version.join("rttscope.yaml"), text).unwrap();
        fs::write(version.join("targets.json"), TARGETS).unwrap();
    }
    // As Kubernetes turns a mounted ConfigMap over.
    let data = folder.path().join("..data");
    std::os::unix::fs::symlink("1", &data).unwrap();
    for name in ["rttscope.yaml", "targets.json"] {
        let link = Path::new("..data").join(name);
        std::os::unix::fs::symlink(link, folder.path().join(name)).unwrap();
    }
    let file = folder.path().join("rttscope.yaml");
    let run = Run::start(&Place::Here, &format!("run --config.file={}", file.display()));
    run.wait_for_stderr("confined by=");
    std::os::unix::fs::symlink("2", folder.path().join("..new")).unwrap();
    fs::rename(folder.path().join("..new"), &data).unwrap();
    let response = http::post(run.http_address(), "/-/reload");
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(response.body.contains("1 changed"), "{}", response.body);
}

/// Root may be given files that are not root's own; the one privilege that takes is kept.
#[test]
fn root_reads_again_what_belongs_to_somebody_else() {
    let _turn = turn::wait_for(Turn::Shared);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rttscope.yaml");
    fs::write(&file, "web: {listen: '127.0.0.1:0'}\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    if let Err(error) = std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)) {
        return report_skip("sandbox::somebody_else", &error.to_string());
    }
    let run = Run::start(&Place::Here, &format!("run --config.file={}", file.display()));
    run.wait_for_stderr("confined by=");
    let response = http::post(run.http_address(), "/-/reload");
    assert_eq!(response.status, 200, "{}", response.body);
    for (name, status) in run.threads() {
        // CAP_DAC_READ_SEARCH, for the thread that reads and those that it starts.
        let expected = if ["rttscope", "tokio-rt-worker"].contains(&name.as_str()) { 4 } else { 0 };
        assert!(status.contains(&format!("CapEff:\t{expected:016x}\n")), "{name}: {status}");
    }
}

/// Why this kernel, or what this test runs in, has no sandbox.
fn gap() -> Option<String> {
    let missing = possible(SandboxChoice::On).into_iter().find(|found| !found.available)?;
    Some(format!("{}: {}", missing.name, missing.reason))
}

#[expect(clippy::print_stdout, reason = "what another process tells the test")]
fn say(line: &str) {
    println!("\n{line}");
}
