//! pgkeep at a pseudo terminal: what it shows is waited for, and what a person would type is typed.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Place, ordinary, pgkeep_binary};

const LIMIT: Duration = Duration::from_secs(100);

/// The keys that are no letters.
pub(crate) const ENTER: &str = "\r";
/// Leaves a question.
pub(crate) const ESC: &str = "\x1b";
/// Does the same.
pub(crate) const CTRL_C: &str = "\x03";

/// A run of pgkeep at a terminal of its own.
pub(crate) struct Dialog {
    child: Child,
    keys: Option<ChildStdin>,
    seen: Arc<Mutex<Vec<u8>>>,
    /// How much of the plain text has been waited for already.
    from: usize,
}

impl Dialog {
    /// Starts it at a terminal so many columns wide, with these variables besides.
    pub(crate) fn start(
        place: &Place,
        columns: u16,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let mut words = String::new();
        for word in arguments {
            words.push_str(" '");
            words.push_str(word);
            words.push('\'');
        }
        Self::shell(place, columns, environment, &format!("exec '{}'{words}", pgkeep_binary().display()))
    }

    /// Starts a shell's script there, which calls pgkeep.
    pub(crate) fn shell(place: &Place, columns: u16, environment: &[(&str, &str)], text: &str) -> Self {
        let mut script = ordinary("script");
        let shell = format!("stty cols {columns} rows 30; {text}");
        script
            .args(["--quiet", "--return", "--command", &shell, "/dev/null"])
            .env("HOME", &place.directory)
            .env("PATH", "/usr/bin:/bin")
            .env("SHELL", "/bin/sh")
            .env("PGKEEP_ENV_FILE", place.env_file())
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .envs(environment.iter().copied())
            .current_dir(&place.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = script.spawn().expect("start script: install bsdutils");
        let mut output = child.stdout.take().expect("the output of script");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                collected.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { keys: child.stdin.take(), child, seen, from: 0 }
    }

    /// All that it has written, as it wrote it.
    pub(crate) fn raw(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// The same without what moves and colours, and without space: where lines break is the terminal's affair.
    pub(crate) fn plain(&self) -> String {
        plain(&self.raw())
    }

    /// Waits until it shows this, behind all that was waited for before.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> &mut Self {
        let wanted: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
        let begun = Instant::now();
        loop {
            let plain = self.plain();
            if let Some(at) = plain.get(self.from..).and_then(|rest| rest.find(&wanted)) {
                self.from += at + wanted.len();
                return self;
            }
            let is_over = self.child.try_wait().expect("ask for a process").is_some();
            assert!(!is_over && begun.elapsed() < LIMIT, "no \"{text}\" in:\n{}", self.raw());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types this.
    pub(crate) fn keys(&mut self, keys: &str) -> &mut Self {
        let pipe = self.keys.as_mut().expect("a terminal");
        pipe.write_all(keys.as_bytes()).expect("type");
        pipe.flush().expect("type");
        self
    }

    /// Waits for the question and answers it: the text, and Enter.
    #[track_caller]
    pub(crate) fn answer(&mut self, question: &str, text: &str) -> &mut Self {
        self.expect(question).keys(text).keys(ENTER)
    }

    /// Sends SIGTERM to pgkeep, which is somewhere below.
    #[track_caller]
    pub(crate) fn signal_pgkeep(&self) {
        let mut waiting = vec![i32::try_from(self.child.id()).unwrap()];
        while let Some(pid) = waiting.pop() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "pgkeep" {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("send a signal");
                return;
            }
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            waiting.extend(
                children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        panic!("pgkeep does not run");
    }

    /// Waits for its end; returns the exit code and all that it wrote, plain.
    #[track_caller]
    pub(crate) fn end(&mut self) -> (i32, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("ask for a process") {
                // The rest of what it wrote is on its way.
                std::thread::sleep(Duration::from_millis(50));
                return (status.code().unwrap_or(-1), self.plain());
            }
            assert!(begun.elapsed() < LIMIT, "it does not end:\n{}", self.raw());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Dialog {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Ends pgkeep along with the terminal.
            drop(self.keys.take());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A terminal's text without escape sequences and space.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\x1b' {
            if letters.next_if_eq(&'[').is_some() {
                while letters.next().is_some_and(|letter| !('@'..='~').contains(&letter)) {}
            } else {
                letters.next();
            }
        } else if !letter.is_whitespace() && !letter.is_control() {
            plain.push(letter);
        }
    }
    plain
}
