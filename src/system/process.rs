//! Children that never outlive the run, whose every word is heard and whose exit is checked.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// The name under which pgkeep calls itself to start a child: `pgkeep <this> PROGRAM ARGUMENT...`.
pub const TETHER: &str = "__tethered";

/// How many lines of a child's messages are kept for the error.
const KEPT_LINES: usize = 20;

/// A running child in a process group of its own. Dropping the value kills the whole group.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    group: Option<Pid>,
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
    /// The program is started through pgkeep itself, which first ties the child's life to ours (Linux:
    /// `PR_SET_PDEATHSIG`), so that a pgkeep that was killed with SIGKILL leaves no `pg_dump` holding a snapshot.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> anyhow::Result<Self> {
        let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let own = std::env::current_exe().context("find pgkeep's own program file")?;
        let mut child = Command::new(own)
            .arg(TETHER)
            .arg(std::process::id().to_string())
            .arg(program)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stderr = child.stderr.take().context("take the child's stderr")?;
        // In a task of its own: a child that can't write its messages would stand still.
        let messages = tokio::spawn(async move {
            let mut kept = std::collections::VecDeque::new();
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            kept.into()
        });
        Ok(Self { name, child, group, messages })
    }

    /// Sends the signal to the child and its children, if they still are.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may have ended by itself in this moment.
            let _ = kill_process_group(group, signal);
        }
    }

    /// The process group, for stages that pause and continue the child; `None` once it has ended.
    pub fn group(&self) -> Option<ProcessGroup> {
        self.group.map(ProcessGroup)
    }

    /// Waits for the end of the child.
    pub async fn wait(mut self) -> anyhow::Result<Ended> {
        let status = self.child.wait().await.with_context(|| format!("wait for {}", self.name))?;
        // A grandchild could hold stderr open for ever.
        let messages = tokio::time::timeout(Duration::from_secs(5), &mut self.messages).await;
        let messages = messages.ok().and_then(Result::ok).unwrap_or_default();
        if status.success() {
            // Nobody is left in the group, and its number may be given to others.
            self.group = None;
        }
        let name = std::mem::take(&mut self.name);
        Ok(Ended { name, status, messages })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// A child's process group, to pause it and let it go on.
#[derive(Debug, Clone, Copy)]
pub struct ProcessGroup(Pid);

impl ProcessGroup {
    /// Halts every process of the group where it is.
    pub fn pause(self) {
        let _ = kill_process_group(self.0, Signal::STOP);
    }

    /// Lets them go on.
    pub fn resume(self) {
        let _ = kill_process_group(self.0, Signal::CONT);
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

/// The arguments after `pgkeep __tethered`, if that is how this process was started.
pub fn tethered() -> Option<std::iter::Skip<std::env::ArgsOs>> {
    std::env::args_os().nth(1).filter(|word| word == TETHER).map(|_| std::env::args_os().skip(2))
}

/// What `pgkeep __tethered PARENT PROGRAM ARGUMENT...` does: ask to die with the parent, then become the program.
///
/// Returns only when the program could not be started.
pub fn become_tethered(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Error {
    let parent = arguments.next().and_then(|text| text.to_str().and_then(|text| text.parse::<i32>().ok()));
    let Some(program) = arguments.next() else { return anyhow::anyhow!("no program to start") };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return anyhow::Error::new(error).context("tie the child to its parent");
    }
    // The parent may have died before the line above; then nobody would ever send the signal.
    if rustix::process::getppid().map(Pid::as_raw_nonzero).map(std::num::NonZeroI32::get) != parent {
        return anyhow::anyhow!("the parent is gone");
    }
    let error = std::process::Command::new(&program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("start {}", OsStr::new(&program).display()))
}

/// Runs a short program to its end and returns what it wrote to stdout; an exit status other than 0 is an error
/// with what it wrote to stderr.
pub async fn capture(
    program: &Path,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
) -> anyhow::Result<Vec<u8>> {
    let describe = || format!("run {}", program.display());
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(describe)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("run {}: {} ({})", program.display(), said.trim(), output.status);
    }
    Ok(output.stdout)
}
