//! Children that never outlive the run, whose every word is heard and whose exit is checked.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::stop::{Interrupted, Stop};
use super::tether;

/// How many lines of a child's messages are kept for the error.
const KEPT_LINES: usize = 20;

/// A running program in a process group of its own. Dropping the value kills the whole group.
#[derive(Debug)]
pub struct Running {
    name: String,
    /// The process that guards the program, see [`tether`].
    guard: Child,
    /// Closed, the guard ends.
    lifeline: Option<ChildStdin>,
    reports: Lines<BufReader<ChildStdout>>,
    group: ProcessGroup,
    messages: JoinHandle<Vec<String>>,
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// The program's name.
    pub name: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// The last lines that it wrote to stderr.
    pub messages: Vec<String>,
}

impl Running {
    /// Starts the program with exactly this environment, stdin empty, stdout dropped, stderr heard.
    ///
    /// The program is started through pgkeep itself, which stays as its guard (see [`tether`]), so that a pgkeep that
    /// was killed with SIGKILL leaves no `pg_dump` holding a snapshot, not even one that it had halted. That a program
    /// can't be started is said by [`Self::wait`].
    pub async fn start(
        program: &Path,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> anyhow::Result<Self> {
        Self::start_without(&[], program, arguments, environment).await
    }

    /// The same with the environment of this run.
    pub async fn start_with_ours(program: &Path, arguments: &[OsString]) -> anyhow::Result<Self> {
        Self::spawn(&[], program, arguments, None).await
    }

    /// The same; lines in which all parts of one of `noise` stand are not kept.
    pub async fn start_without(
        noise: &'static [&'static [&'static str]],
        program: &Path,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> anyhow::Result<Self> {
        Self::spawn(noise, program, arguments, Some(environment)).await
    }

    async fn spawn(
        noise: &'static [&'static [&'static str]],
        program: &Path,
        arguments: &[OsString],
        environment: Option<&[(OsString, OsString)]>,
    ) -> anyhow::Result<Self> {
        let describe = || format!("start {}", program.display());
        let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        // Not killed with this value: it is the guard who sees to it that all others end.
        let mut command = Command::new(tether::OWN_FILE);
        command.arg0("pgkeep").arg(tether::GUARD).arg(program).args(arguments);
        if let Some(environment) = environment {
            command.env_clear().envs(environment.iter().map(|(key, value)| (key, value)));
        }
        let mut guard = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(describe)?;
        let lifeline = guard.stdin.take();
        let mut reports = BufReader::new(guard.stdout.take().with_context(describe)?).lines();
        let stderr = guard.stderr.take().with_context(describe)?;
        // In a task of its own: a child that can't write its messages would stand still.
        let messages = tokio::spawn(async move {
            let mut kept = std::collections::VecDeque::new();
            // As bytes: names in it may be of any encoding, and a reader that gave up would end the child, too.
            let mut lines = BufReader::new(stderr).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let line = String::from_utf8_lossy(&line);
                if noise.iter().any(|parts| parts.iter().all(|part| line.contains(part))) {
                    continue;
                }
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line.trim_end_matches('\r').to_owned());
            }
            kept.into()
        });
        let group = reported(&mut reports).await.and_then(Pid::from_raw);
        let group = ProcessGroup(Arc::new(Mutex::new(group)));
        Ok(Self { name, guard, lifeline, reports, group, messages })
    }

    /// The program's process group, for stages that pause and continue it.
    pub fn group(&self) -> ProcessGroup {
        self.group.clone()
    }

    /// Waits for the end of the program. If the end of the run is asked for, the program is asked to end and to tell
    /// the server, which would go on with its statement, and is killed after a while; the error is [`Interrupted`].
    pub async fn wait(self, stop: &Stop) -> anyhow::Result<Ended> {
        let group = self.group();
        let mut ended = std::pin::pin!(self.ended());
        tokio::select! {
            ended = &mut ended => return ended,
            () = stop.requested() => {}
        }
        group.ask_to_end();
        // Not longer: dropped, it is killed.
        let _ = tokio::time::timeout(2 * tether::PATIENCE, ended).await;
        Err(Interrupted.into())
    }

    async fn ended(mut self) -> anyhow::Result<Ended> {
        let status = reported(&mut self.reports).await.map(ExitStatus::from_raw);
        if status.is_none() {
            // The guard was killed, and the program with it; but not what the program had started.
            self.group.signal(Signal::KILL);
        }
        // In this order: after it the number may be given to others.
        *self.group.number() = None;
        drop(self.lifeline.take());
        let guard = self.guard.wait().await.with_context(|| format!("wait for {}", self.name))?;
        // A grandchild could hold stderr open for ever.
        let messages = tokio::time::timeout(Duration::from_secs(5), &mut self.messages).await;
        let messages = messages.ok().and_then(Result::ok).unwrap_or_default();
        let name = std::mem::take(&mut self.name);
        match status {
            Some(status) => Ok(Ended { name, status, messages }),
            None if guard.success() => anyhow::bail!("nobody said how {name} ended"),
            None => Ok(Ended { name, status: guard, messages }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

/// The next number that the guard has to say; `None` once it has ended.
async fn reported(reports: &mut Lines<BufReader<ChildStdout>>) -> Option<i32> {
    reports.next_line().await.ok().flatten().and_then(|line| line.parse().ok())
}

/// A program's process group as long as there is one, to pause it and let it go on.
#[derive(Debug, Clone)]
pub struct ProcessGroup(Arc<Mutex<Option<Pid>>>);

impl ProcessGroup {
    /// Halts every process of the group where it is.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks every process of the group to end.
    pub fn ask_to_end(&self) {
        if let Some(group) = *self.number() {
            tether::ask_to_end(group);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = *self.number() {
            // It may have ended by itself in this moment.
            let _ = kill_process_group(group, signal);
        }
    }

    fn number(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended {
    /// Its warnings: lines such as `pg_dump: warning: ...`.
    pub fn warnings(&self) -> Vec<String> {
        self.messages.iter().filter(|line| line.contains(": warning: ")).cloned().collect()
    }

    /// What it said and how it ended, in one line.
    pub fn account(&self) -> String {
        let said: Vec<&str> =
            self.messages.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        if said.is_empty() { format!("{} ended with {}", self.name, self.status) } else { said.join("; ") }
    }
}

/// A program whose stdout is read while it runs. Dropping the value kills it; when this process is killed, it ends at its
/// next write.
#[derive(Debug)]
pub struct Piped {
    name: String,
    child: Child,
    messages: JoinHandle<Vec<u8>>,
}

impl Piped {
    /// Starts the program with exactly this environment, stdin empty.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> anyhow::Result<Self> {
        let describe = || format!("start {}", program.display());
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(describe)?;
        let mut stderr = child.stderr.take().with_context(describe)?;
        // In a task of its own: a child that can't write its messages would stand still.
        let messages = tokio::spawn(async move {
            let mut said = Vec::new();
            // What was read until then is what there is to say.
            let _ = stderr.read_to_end(&mut said).await;
            said
        });
        Ok(Self { name: program.display().to_string(), child, messages })
    }

    /// What it writes; can be taken once.
    pub fn stdout(&mut self) -> anyhow::Result<ChildStdout> {
        self.child.stdout.take().context("take the child's stdout")
    }

    /// Waits for its end, when its stdout is read to the end or dropped. An exit status other than 0 is an error with what
    /// it wrote to stderr.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await.with_context(|| format!("wait for {}", self.name))?;
        if status.success() {
            return Ok(());
        }
        let said = self.messages.await.unwrap_or_default();
        anyhow::bail!("run {}: {} ({status})", self.name, String::from_utf8_lossy(&said).trim());
    }
}

/// Runs a program to its end and returns what `pick` takes out of the lines that it writes to stdout: there may be many
/// of which few count. Bytes that are not UTF-8 are replaced. An exit status other than 0 is an error with what it wrote
/// to stderr.
pub async fn pick_lines<T>(
    program: &Path,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    pick: impl Fn(&str) -> Option<T>,
) -> anyhow::Result<Vec<T>> {
    let describe = || format!("run {}", program.display());
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(describe)?;
    let mut lines = BufReader::new(child.stdout.take().context("take the child's stdout")?).split(b'\n');
    let mut picked = Vec::new();
    let reading = async {
        while let Some(line) = lines.next_segment().await? {
            picked.extend(pick(&String::from_utf8_lossy(&line)));
        }
        Ok(())
    };
    // Both at once: a child that can't write its messages would stand still.
    let (read, output) = tokio::join!(reading, child.wait_with_output());
    let (read, output): (std::io::Result<()>, _) = (read, output.with_context(describe)?);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("run {}: {} ({})", program.display(), said.trim(), output.status);
    }
    read.with_context(describe)?;
    Ok(picked)
}
