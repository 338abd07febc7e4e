//! Running a program to its end within a time limit, with what it wrote.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything that a test does: whoever takes longer hangs.
const LIMIT: Duration = Duration::from_secs(400);

/// How a program ended and what it wrote.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub(crate) code: i32,
    /// What it wrote to stdout.
    pub(crate) stdout: String,
    /// What it wrote to stderr.
    pub(crate) stderr: String,
}

impl Run {
    /// Asserts that it ended with this code.
    #[track_caller]
    pub(crate) fn ended_with(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "exit code {}, expected {code}\nstdout:\n{}\nstderr:\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts that it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.ended_with(0)
    }

    /// Asserts that it failed with this code, that it said why, and that it called it no bug of its own.
    #[track_caller]
    pub(crate) fn fails_with(self, code: i32) -> Self {
        assert_ne!(code, 0, "0 is no failure");
        let run = self.ended_with(code);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        run
    }

    /// The JSON document on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON: {error}\n{}\n{}", self.stdout, self.stderr))
    }

    /// The error's message and hint, without start and end lines, and without what differs from run to run.
    pub(crate) fn message(&self) -> String {
        let noise = |line: &&str| !(line.ends_with(": begun") || line.contains(": ended after "));
        super::tidy(&self.stderr.lines().filter(noise).collect::<Vec<_>>().join("\n"))
    }
}

/// A program that runs. Ended when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    shown: String,
}

impl Running {
    /// Starts it. What it writes is collected from now on.
    pub(crate) fn start(command: &mut Command) -> Self {
        let shown = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {shown}: {error}"));
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Self { child, stdout, stderr, shown }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).expect("send a signal");
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ask for a process").is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Run {
        let status = self.wait_for_status();
        let text = |handle: Option<JoinHandle<String>>| handle.map(|handle| handle.join().unwrap());
        Run {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: text(self.stdout.take()).unwrap_or_default(),
            stderr: text(self.stderr.take()).unwrap_or_default(),
        }
    }

    fn wait_for_status(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for a process") {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "still running after {LIMIT:?}: {}", self.shown);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    Running::start(command).wait()
}
