//! What a binary for another platform has to do where it is emulated: answer, probe, check, be
//! scraped from this system, and say by its exit code how it went. A way to start it flows in, the
//! first thing that it did wrong flows out.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Something that it has to do.
type Step = fn(&Emulated) -> Result<()>;

/// How the binary is started here.
pub struct Emulated {
    /// What is emulated, for messages.
    pub name: &'static str,
    /// The emulator, then the binary.
    pub words: Vec<PathBuf>,
    /// Environment of the emulator.
    pub variables: Vec<(&'static str, PathBuf)>,
    /// Where output of what runs longer goes.
    pub folder: PathBuf,
}

/// Runs everything, in order.
pub fn run(emulated: &Emulated) -> Result<()> {
    let steps: [(&str, Step); 5] = [
        ("exit codes", exit_codes),
        ("check", check),
        ("serve and probe", serve_and_probe),
        ("both and scrape", both_and_scrape),
        ("interrupt", interrupt),
    ];
    for (name, step) in steps {
        let start = Instant::now();
        step(emulated).with_context(|| format!("{name}, {}", emulated.name))?;
        println!("{}: {name}: ok after {:.1} s", emulated.name, start.elapsed().as_secs_f64());
    }
    Ok(())
}

impl Emulated {
    /// The binary with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(arguments).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        // Windows programs would look for a screen.
        command.env_remove("DISPLAY");
        command
    }

    /// Runs it to its end; its exit code has to be `code`.
    pub fn finish(&self, arguments: &[&str], code: i32) -> Result<Output> {
        let output = self.command(arguments).output().context("cannot start the emulator")?;
        ensure!(
            output.status.code() == Some(code),
            "rttscope {}: {} instead of {code}\n{}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    }

    /// Starts it; it ends with the value that is returned.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let log = self.folder.join("running.log");
        let (out, err) = (fs::File::create(&log)?, fs::OpenOptions::new().append(true).open(&log)?);
        let mut command = self.command(arguments);
        let child = command.stdout(out).stderr(err).spawn().context("cannot start the emulator")?;
        Ok(Running { child, log })
    }
}

/// Something started, which ends with this.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// What it wrote so far.
    pub fn text(&self) -> String {
        fs::read(&self.log).map_or_else(|_| String::new(), |it| String::from_utf8_lossy(&it).into())
    }

    /// Interrupts it as a person at a terminal does, and returns its exit code.
    pub fn interrupt(&mut self) -> Result<Option<i32>> {
        let process = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &process]).status()?;
        ensure!(sent.success(), "kill -INT: {sent}");
        let end = eventually("it ends after an interrupt", || Ok(self.child.try_wait()?))?;
        Ok(end.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer, or half a minute has passed.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The body of a page of this system's loopback, if it was served with status 200.
pub fn page(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The sum of a family's values on a metrics page.
pub fn sum(metrics: &str, family: &str) -> f64 {
    let lines = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(family);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The folder for files of emulated runs, made.
pub fn folder(of: &Path, name: &str) -> Result<PathBuf> {
    let folder = of.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder:?}"))?;
    Ok(folder)
}

fn exit_codes(emulated: &Emulated) -> Result<()> {
    let version = emulated.finish(&["--version"], 0)?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    ensure!(version.starts_with("rttscope "), "its version is {version:?}");
    emulated.finish(&["frobnicate"], 2)?;
    emulated.finish(&["probe", "127.0.0.1:1", "--interval", "never"], 2)?;
    // An address that this machine does not have (RFC 5737): we could not work.
    emulated.finish(&["serve", "--listen", "192.0.2.1:4000"], 3)?;
    let man = emulated.finish(&["man", "probe"], 0)?;
    ensure!(man.stdout.starts_with(b".ie "), "the man page is no roff");
    Ok(())
}

fn check(emulated: &Emulated) -> Result<()> {
    let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let open_at = open.local_addr()?.to_string();
    let closed_at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)).to_string();
    let output = emulated.finish(&["check", &open_at, "-n", "3", "--json"], 0)?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(lines.matches("\"outcome\":\"open\"").count() == 3, "not open three times: {lines}");
    let output = emulated.finish(&["check", &closed_at, "--json"], 1)?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(lines.contains("\"outcome\":\"refused\""), "not refused: {lines}");
    Ok(())
}

fn serve_and_probe(emulated: &Emulated) -> Result<()> {
    let (echo, web) = (free_port()?, free_port()?);
    let (echo_at, web_at) = (format!("127.0.0.1:{echo}"), format!("127.0.0.1:{web}"));
    let words = ["serve", "--listen", &echo_at, "--web.listen-address", &web_at];
    let responder = emulated.start(&words)?;
    eventually("the responder is ready", || Ok(page(web, "/-/ready")))
        .with_context(|| responder.text())?;

    // Something of this system's asks first: 16 bytes of the seed's frame come back unchanged.
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, echo))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let frame = *b"\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0";
    let mut echoed = [0; 16];
    stream.write_all(&frame)?;
    stream.read_exact(&mut echoed).context("the responder does not echo")?;
    ensure!(echoed == frame, "echoed {echoed:?}");

    let words = ["probe", &echo_at, "--count", "20", "--interval", "20ms", "--json"];
    let output = emulated.finish(&words, 0)?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let received = lines.matches("\"outcome\":\"received\"").count();
    ensure!(received >= 15, "{received} of 20 probes were received: {lines}");
    ensure!(lines.contains("{\"summary\":"), "no summary: {lines}");

    let closed_at = format!("127.0.0.1:{}", free_port()?);
    let words = ["probe", &closed_at, "--duration", "500ms", "--interval", "50ms", "--json"];
    emulated.finish(&words, 1)?;
    Ok(())
}

fn both_and_scrape(emulated: &Emulated) -> Result<()> {
    let (running, web) = both(emulated)?;
    let metrics = eventually("twenty probes were received", || {
        let metrics = page(web, "/metrics").unwrap_or_default();
        Ok((sum(&metrics, "tcp_echo_received_total") >= 20.0).then_some(metrics))
    })
    .with_context(|| running.text())?;
    ensure!(sum(&metrics, "tcp_echo_up") > 0.0, "not up:\n{metrics}");
    ensure!(metrics.contains("clock=\"application\""), "no series by our clock:\n{metrics}");
    let status = page(web, "/").context("no status page")?;
    ensure!(status.contains("<html"), "the status page is no page: {status}");
    let targets = page(web, "/api/v1/targets").context("no list of targets")?;
    ensure!(targets.contains("\"address\""), "no target in {targets}");
    Ok(())
}

/// An interrupt ends it in order: its exit code says that something was measured.
fn interrupt(emulated: &Emulated) -> Result<()> {
    let (mut running, web) = both(emulated)?;
    eventually("a probe was received", || {
        let metrics = page(web, "/metrics").unwrap_or_default();
        Ok((sum(&metrics, "tcp_echo_received_total") >= 1.0).then_some(()))
    })
    .with_context(|| running.text())?;
    let code = running.interrupt().with_context(|| running.text())?;
    ensure!(code == Some(0), "exit code {code:?} after an interrupt\n{}", running.text());
    ensure!(running.text().contains("stopping"), "no word of stopping:\n{}", running.text());
    Ok(())
}

/// Responder and prober in one, ready, and the port of its pages.
fn both(emulated: &Emulated) -> Result<(Running, u16)> {
    let (echo, web) = (free_port()?, free_port()?);
    let (echo_at, web_at) = (format!("127.0.0.1:{echo}"), format!("127.0.0.1:{web}"));
    let words =
        ["both", "--listen", &echo_at, "--web.listen-address", &web_at, "--interval", "20ms"];
    let running = emulated.start(&words)?;
    eventually("it is ready", || Ok(page(web, "/-/ready"))).with_context(|| running.text())?;
    Ok((running, web))
}

const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_summed_without_its_namesakes() {
        let page = "# HELP a_total x\na_total{target=\"x y\"} 3\na_total 4\na_total_more 9\n";
        assert!((sum(page, "a_total") - 7.0).abs() < f64::EPSILON);
        assert!(sum(page, "b_total").abs() < f64::EPSILON);
    }
}
