//! systemd as the starter (sd_notify(3), `Type=notify`): the program says when it is ready, keeps
//! saying that it is alive for as long as it is asked to, and says that it stops.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::clients::{connect, ping};
use crate::frames;
use crate::run::{PATIENCE, Run};
use crate::site::Place;
use crate::turn::{self, Turn};

#[test]
fn the_service_manager_hears_of_readiness_life_and_the_end() {
    let _turn = turn::wait_for(Turn::Shared);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    // Half of it is the interval.
    let watchdog = Duration::from_millis(100);
    let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
    let words = "serve --listen 127.0.0.1:0 --web.listen-address 127.0.0.1:0";
    command.args(words.split(' ')).env_remove("RUST_LOG").env("NO_COLOR", "1");
    command.env("NOTIFY_SOCKET", &path).env_remove("WATCHDOG_PID");
    command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    let mut serve = Run::spawn(&Place::Here, command, words.to_owned());

    assert_eq!(next(&manager).as_deref(), Some("READY=1"));
    // Ready means that it answers.
    ping(&connect(&Place::Here, serve.responder_address()), &frames::v1(1, 1));
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(next(&manager).as_deref(), Some("WATCHDOG=1"));
    }
    // The first one comes at once; a timer never fires early.
    assert!(start.elapsed() >= watchdog, "life signs come too often");
    // `systemctl reload` of a program that has nothing to reload.
    serve.signal(Signal::HUP);
    serve.wait_for_stderr("no configuration file");
    serve.signal(Signal::TERM);
    let mut last = next(&manager);
    while last.as_deref() == Some("WATCHDOG=1") {
        last = next(&manager);
    }
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    assert_eq!(serve.wait().code, Some(0));
}

#[test]
fn nothing_is_said_before_it_works() {
    let _turn = turn::wait_for(Turn::Shared);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
    // An address that no machine has (RFC 5737).
    let words = "serve --listen 192.0.2.1:4000 --web.listen-address 127.0.0.1:0";
    command.args(words.split(' ')).env("NOTIFY_SOCKET", &path);
    let ending = Run::spawn(&Place::Here, command, words.to_owned()).wait();
    assert_eq!(ending.code, Some(3), "{ending:?}");
    assert_eq!(next(&manager), None);
}

/// The next message; none if there is none and nobody waits.
fn next(manager: &UnixDatagram) -> Option<String> {
    let mut bytes = [0; 256];
    match manager.recv(&mut bytes) {
        Ok(length) => Some(String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}
