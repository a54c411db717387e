//! The product's binary as a process. Words of a command line go in; its lines, the addresses it
//! logged, its scrapes, its CPU time and its end come out. Whatever happens, the process is gone
//! when its [`Run`] is.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process, pidfd_open, prlimit,
};

use crate::exposition::Exposition;
use crate::http::{self, Response};
use crate::site::Place;

/// How long anything that must happen may take on a slow, busy machine. No test asserts it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running process.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    words: String,
    place: Place,
    stdout: Lines,
    stderr: Lines,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// The signal that killed it.
    pub(crate) signal: Option<i32>,
    /// All lines of its standard output.
    pub(crate) stdout: Vec<String>,
    /// All lines of its standard error.
    pub(crate) stderr: Vec<String>,
    /// From the call of [`Run::wait`] to the end.
    pub(crate) took: Duration,
}

/// Lines that a thread collects from a pipe.
#[derive(Clone, Debug, Default)]
struct Lines {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

#[derive(Debug, Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

impl Run {
    /// Starts the binary with these words, which contain no spaces themselves.
    pub(crate) fn start(place: &Place, words: &str) -> Self {
        let arguments: Vec<&str> = words.split_whitespace().collect();
        Self::start_with(place, &arguments)
    }

    /// Starts the binary with these words and output pipes; one of them that is not
    /// [`Stdio::piped`] has no lines here.
    pub(crate) fn start_into(place: &Place, words: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
        command.args(words.split_whitespace()).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command.stdout(stdout).stderr(stderr);
        Self::spawn_into(place, command, words.to_owned())
    }

    /// Starts the binary with these arguments.
    pub(crate) fn start_with(place: &Place, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
        command.args(arguments).env_remove("RUST_LOG").env("NO_COLOR", "1");
        Self::spawn(place, command, arguments.join(" "))
    }

    /// Starts any command; `words` is what failures call it.
    pub(crate) fn spawn(place: &Place, mut command: Command, words: String) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn_into(place, command, words)
    }

    fn spawn_into(place: &Place, mut command: Command, words: String) -> Self {
        // A group of its own: a terminal's Ctrl-C reaches the tests, and they kill it.
        command.process_group(0).stdin(Stdio::null());
        let mut child = spawn_for_life(place.clone(), command);
        let stdout = child.stdout.take().map_or_else(Lines::none, Lines::collect);
        let stderr = child.stderr.take().map_or_else(Lines::none, Lines::collect);
        Self { child, words, place: place.clone(), stdout, stderr }
    }

    /// Sends a signal to the process itself.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the end, for [`PATIENCE`] at most.
    pub(crate) fn wait(&mut self) -> Ending {
        let started = Instant::now();
        assert!(self.ends_within(PATIENCE), "`{}` still runs\n{}", self.words, self.transcript());
        let took = started.elapsed();
        let status = self.child.wait().unwrap();
        assert_ne!(status.code(), Some(PANIC_CODE), "a panic\n{}", self.transcript());
        Ending {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
            took,
        }
    }

    /// Whether the process ends within this time.
    pub(crate) fn ends_within(&self, time: Duration) -> bool {
        let process = pidfd_open(self.pid(), PidfdFlags::empty()).unwrap();
        let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(time).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    }

    /// Where the responder listens, as it logged it.
    pub(crate) fn responder_address(&self) -> SocketAddr {
        self.logged_address("responder listening")
    }

    /// Where the relay listens, as it logged it.
    pub(crate) fn relay_address(&self) -> SocketAddr {
        self.logged_address("relay listening")
    }

    /// Where the HTTP server listens, as it logged it.
    pub(crate) fn http_address(&self) -> SocketAddr {
        self.logged_address("http listening")
    }

    /// Fetches a page.
    pub(crate) fn fetch(&self, path: &str) -> Response {
        let address = self.http_address();
        self.place.run(|| http::fetch(address, path))
    }

    /// The metrics now.
    pub(crate) fn scrape(&self) -> Exposition {
        let response = self.fetch("/metrics");
        assert_eq!(response.status, 200, "{}", response.body);
        Exposition::parse(&response.body)
    }

    /// Scrapes until `met` holds; fails after [`PATIENCE`], saying what never came.
    pub(crate) fn scrape_until(&self, what: &str, met: impl Fn(&Exposition) -> bool) -> Exposition {
        let started = Instant::now();
        loop {
            let exposition = self.scrape();
            if met(&exposition) {
                return exposition;
            }
            assert!(started.elapsed() < PATIENCE, "never: {what}\n{exposition}");
            thread::sleep(SCRAPE_PAUSE);
        }
    }

    /// Standard output up to now.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.shared.0.lock().unwrap().lines.clone()
    }

    /// Standard error up to now.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.shared.0.lock().unwrap().lines.clone()
    }

    /// A file of proc(5) about the thread with this name.
    pub(crate) fn thread_file(&self, thread: &str, file: &str) -> String {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        threads
            .map(|entry| entry.unwrap().path())
            .find(|path| read(&path.join("comm")).trim_end() == thread)
            .map_or_else(
                || panic!("no thread {thread}\n{}", self.transcript()),
                |path| read(&path.join(file)),
            )
    }

    /// Every thread's name and its status (proc_pid_status(5)).
    pub(crate) fn threads(&self) -> Vec<(String, String)> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).ok();
        let thread = |path: std::path::PathBuf| {
            let name = read(path.join("comm"))?.trim_end().to_owned();
            // One that has ended meanwhile has none.
            Some((name, read(path.join("status"))?))
        };
        threads.filter_map(|entry| thread(entry.unwrap().path())).collect()
    }

    /// Waits until standard output has this many lines.
    pub(crate) fn wait_for_stdout(&self, count: usize) -> Vec<String> {
        let found = self.stdout.wait_for(|lines| (lines.len() >= count).then(|| lines.to_vec()));
        found.unwrap_or_else(|| panic!("fewer than {count} lines\n{}", self.transcript()))
    }

    /// Waits for a line of standard error that contains `part`.
    pub(crate) fn wait_for_stderr(&self, part: &str) -> String {
        let found =
            self.stderr.wait_for(|lines| lines.iter().find(|line| line.contains(part)).cloned());
        found.unwrap_or_else(|| panic!("no line with `{part}`\n{}", self.transcript()))
    }

    /// CPU time of all threads, in user and system mode.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name in parentheses may contain anything; fields count from its end (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|&field| fields[field].parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
    }

    /// Limits how many descriptors the process may have open from now on.
    pub(crate) fn limit_descriptors(&self, limit: u64) {
        let old = rustix::process::getrlimit(Resource::Nofile);
        let new = Rlimit { current: Some(limit), maximum: old.maximum };
        prlimit(Some(self.pid()), Resource::Nofile, new).unwrap();
    }

    fn logged_address(&self, part: &str) -> SocketAddr {
        let line = self.wait_for_stderr(part);
        let plain = without_escapes(&line);
        let address = plain
            .split_whitespace()
            .find_map(|word| word.strip_prefix("address="))
            .unwrap_or_else(|| panic!("no address in `{plain}`"));
        address.trim_matches('"').parse().unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn transcript(&self) -> String {
        let stdout = self.stdout.shared.0.lock().unwrap().lines.join("\n");
        let stderr = self.stderr.shared.0.lock().unwrap().lines.join("\n");
        format!("--- `{}` stdout\n{stdout}\n--- stderr\n{stderr}", self.words)
    }
}

impl Drop for Run {
    #[expect(clippy::print_stderr, reason = "a failed test shows what the process said")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.transcript());
        }
        // An error means that it has ended already, which is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Lines {
    fn none() -> Self {
        let lines = Self::default();
        lines.shared.0.lock().unwrap().ended = true;
        lines
    }

    fn collect(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let collector = lines.clone();
        thread::spawn(move || {
            let (collected, changed) = &*collector.shared;
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { break };
                collected.lock().unwrap().lines.push(String::from_utf8_lossy(&line).into_owned());
                changed.notify_all();
            }
            collected.lock().unwrap().ended = true;
            changed.notify_all();
        });
        lines
    }

    /// What `find` finds, as soon as it does; `None` at the end of the pipe or of our patience.
    fn wait_for<T>(&self, find: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let (collected, changed) = &*self.shared;
        let started = Instant::now();
        let mut guard = collected.lock().unwrap();
        loop {
            if let Some(found) = find(&guard.lines) {
                return Some(found);
            }
            let left = PATIENCE.checked_sub(started.elapsed())?;
            if guard.ended {
                return None;
            }
            guard = changed.wait_timeout(guard, left).unwrap().0;
        }
    }

    /// Every line, once the pipe has ended.
    fn all(&self) -> Vec<String> {
        let (collected, changed) = &*self.shared;
        let guard = collected.lock().unwrap();
        let (guard, timeout) =
            changed.wait_timeout_while(guard, PATIENCE, |collected| !collected.ended).unwrap();
        assert!(!timeout.timed_out(), "somebody keeps the pipe of an ended process open");
        guard.lines.clone()
    }
}

/// Spawns on a thread that lives as long as this process: the kernel sends the parent-death
/// signal when the spawning *thread* ends (prctl(2)).
fn spawn_for_life(place: Place, mut command: Command) -> Child {
    type Job = Box<dyn FnOnce() + Send>;
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        Mutex::new(sender)
    });
    let (sender, spawned) = channel();
    let job = move || {
        crate::kernel::die_with_parent(&mut command);
        let result = match place {
            Place::Here => command.spawn(),
            Place::Inside(namespace) => {
                let home = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
                namespace.enter().unwrap();
                let result = command.spawn();
                rustix::thread::move_into_link_name_space(home.as_fd(), None).unwrap();
                result
            }
        };
        sender.send(result).unwrap();
    };
    spawner.lock().unwrap().send(Box::new(job)).unwrap();
    spawned.recv().unwrap().unwrap()
}

/// The line without terminal colours.
fn without_escapes(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

const SCRAPE_PAUSE: Duration = Duration::from_millis(20);
/// What Rust's runtime exits with when the main thread panicked.
const PANIC_CODE: i32 = 101;
