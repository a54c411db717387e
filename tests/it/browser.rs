//! A real browser: Chromium without a screen, driven through WebDriver (W3C) by its own driver.
//! Scripts and questions go in; answers, screenshots and the console's words come out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run::{PATIENCE, Run};
use crate::site::Place;

/// One browser with one window.
pub(crate) struct Browser {
    driver: SocketAddr,
    session: String,
    /// Gone with this value.
    _run: Run,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Whether there is one on this machine.
    pub(crate) fn is_installed() -> bool {
        ["chromedriver", "chromium"].iter().all(|program| {
            let mut command = Command::new(program);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
    }

    /// A new one, with an empty profile.
    pub(crate) fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0");
        let run = Run::spawn(&Place::Here, command, "chromedriver".to_owned());
        let driver = SocketAddr::from(([127, 0, 0, 1], port_of(&run)));
        let profile = tempfile::tempdir().unwrap();
        let profile_flag = format!("--user-data-dir={}", profile.path().display());
        let mut flags: Vec<&str> = FLAGS.to_vec();
        flags.push(&profile_flag);
        let wanted = json!({
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": flags},
        });
        let question = json!({"capabilities": {"alwaysMatch": wanted}});
        let session = ask(driver, "POST", "/session", Some(&question)).unwrap();
        let session = session["sessionId"].as_str().unwrap().to_owned();
        Self { driver, session, _run: run, _profile: profile }
    }

    /// Opens an address.
    pub(crate) fn open(&self, url: &str) {
        self.post("url", &json!({"url": url}));
    }

    /// The size of the window's inside, and whether the user likes it dark.
    pub(crate) fn show_as(&self, width: u32, height: u32, dark: bool) {
        let mobile = width < 700;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": feature}));
    }

    /// What the body of a function returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text of the first element that a selector finds; empty without one.
    pub(crate) fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({})?.innerText ?? ''", json!(selector));
        self.run(&script).as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_for(&self, expression: &str) {
        let started = Instant::now();
        while self.run(&format!("return Boolean({expression})")) != true {
            assert!(started.elapsed() < PATIENCE, "never: {expression}\n{}", self.text("body"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Clicks on the first element that a selector finds, as a mouse would.
    pub(crate) fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    /// Types into the first element that a selector finds.
    pub(crate) fn keys(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("element/{element}/value"), &json!({"text": text}));
    }

    /// What a screen reader calls each of the elements that a selector finds, and their role.
    pub(crate) fn names(&self, selector: &str) -> Vec<(String, String)> {
        let question = json!({"using": "css selector", "value": selector});
        let found = self.post("elements", &question);
        let ids = found.as_array().unwrap().iter().map(|element| id_of(element).to_owned());
        let told = |id: &str, what: &str| {
            let path = format!("/session/{}/element/{id}/{what}", self.session);
            ask(self.driver, "GET", &path, None).unwrap().as_str().unwrap().to_owned()
        };
        ids.map(|id| (told(&id, "computedlabel"), told(&id, "computedrole"))).collect()
    }

    /// What the console said that is worse than a hint, since this was asked last.
    pub(crate) fn errors(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().unwrap().iter();
        let bad = entries.filter(|entry| ["SEVERE", "WARNING"].contains(&level(entry)));
        bad.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Keeps a picture of the window among the build's artefacts.
    pub(crate) fn keep_screenshot(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.devtools("Page.captureScreenshot", &json!({"format": "png"}));
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, from_base64(picture["data"].as_str().unwrap())).unwrap();
        path
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("element", &json!({"using": "css selector", "value": selector}));
        id_of(&found).to_owned()
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    fn post(&self, path: &str, question: &Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        match ask(self.driver, "POST", &path, Some(question)) {
            Ok(answer) => answer,
            Err(error) => panic!("{path} {question}: {error}"),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with the session.
        drop(ask(self.driver, "DELETE", &format!("/session/{}", self.session), None));
    }
}

/// The port that the driver chose, as it says on standard output.
fn port_of(run: &Run) -> u16 {
    let started = Instant::now();
    loop {
        let said = run.stdout().join("\n");
        if let Some((_, rest)) = said.split_once("successfully on port ") {
            return rest.trim_end().trim_end_matches('.').parse().unwrap();
        }
        assert!(started.elapsed() < PATIENCE, "the driver does not start: {said}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The value of an answer, or the driver's complaint.
fn ask(
    driver: SocketAddr,
    method: &str,
    path: &str,
    question: Option<&Value>,
) -> Result<Value, String> {
    let body = question.map_or_else(String::new, Value::to_string);
    let mut stream = TcpStream::connect_timeout(&driver, PATIENCE).map_err(|it| it.to_string())?;
    // Starting a browser on a busy machine takes its time.
    stream.set_read_timeout(Some(3 * PATIENCE)).map_err(|it| it.to_string())?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {driver}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).map_err(|it| it.to_string())?;
    let mut lines = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).map_err(|it| it.to_string())?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut answer = vec![0; length];
    lines.read_exact(&mut answer).map_err(|it| it.to_string())?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|it| it.to_string())?;
    match answer["value"]["error"].as_str() {
        Some(_) => Err(answer["value"]["message"].to_string()),
        None => Ok(answer["value"].clone()),
    }
}

/// An element is an object with one key, whose name the standard fixes.
fn id_of(element: &Value) -> &str {
    element.as_object().unwrap().values().next().unwrap().as_str().unwrap()
}

fn level(entry: &Value) -> &str {
    entry["level"].as_str().unwrap_or_default()
}

/// RFC 4648, without line ends.
fn from_base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(text.len() * 3 / 4), 0_u32, 0);
    for letter in text.bytes().take_while(|&letter| letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits).to_le_bytes()[0]);
        }
    }
    bytes
}

/// As root, in a container, without a screen, and without a word to anybody else.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];
