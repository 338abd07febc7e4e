//! The process between pgkeep and a program that it runs, so that the program never outlives pgkeep.
//!
//! `pgkeep __tethered PROGRAM ARGUMENT...` is that process. It starts the program in a process group of its own and
//! stays outside of that group: pgkeep halts the group when its scratch directory fills (SIGSTOP), and the processes
//! that `pg_dump` has started would stay halted for ever, each holding its transaction, if nobody were left to kill
//! them. What it goes by:
//!
//! - stdin is a pipe whose other end only pgkeep has. Its end is pgkeep's, by whatever signal, and the program's.
//! - stdout is a pipe to pgkeep: first a line with the number of the program's group, then one with the program's wait
//!   status as the kernel has it, so that a death by signal arrives as what it was.
//! - The program dies with this process (Linux: `PR_SET_PDEATHSIG`); pgkeep, who sees stdout end without a status,
//!   kills the rest of the group.
//!
//! Nobody waits for the group's leader until pgkeep has taken note of its end: till then its number is nobody else's.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getppid, kill_process_group,
    set_parent_process_death_signal, waitid,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

/// The name under which pgkeep calls itself to guard a program: `pgkeep <this> PROGRAM ARGUMENT...`.
pub(super) const GUARD: &str = "__tethered";

/// The name under which the guard calls itself to become the program: `pgkeep <this> GUARD PROGRAM ARGUMENT...`.
const BECOME: &str = "__tethered-program";

/// This program's own file, also when another has been installed in its place.
pub(super) const OWN_FILE: &str = "/proc/self/exe";

/// How long a program that was asked to end may take to tell the server so.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long the processes of a program that failed may take to tell the server so, after the first of them has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Does what this process was started for, if that is to guard a program or to become it; to be called first of all.
///
/// `None`: this is a pgkeep that a user has started. An error says why there is no program.
pub fn tethered() -> Option<anyhow::Result<()>> {
    let mut arguments = std::env::args_os().skip(1);
    let word = arguments.next()?;
    if word == GUARD {
        Some(guard(arguments))
    } else if word == BECOME {
        Some(Err(become_program(arguments)))
    } else {
        None
    }
}

fn guard(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let program = arguments.next().context("no program to guard")?;
    // Whoever ends all processes of the name pgkeep must not take the program's guard with them. Without a name of its
    // own it is no worse a guard.
    let _ = std::fs::write("/proc/self/comm", "tether");
    // Halted by hand it would sleep through the end of pgkeep.
    set_parent_process_death_signal(Some(Signal::CONT)).context("ask to be told of the parent's end")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // What pgkeep ends by, ends it in good order; the guard goes by the end of the pipe.
        let mut ignored = Vec::new();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            ignored.push(signal(kind).context("ignore signals")?);
        }
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("open the pipe to pgkeep")?;
        let pgkeep = pipe::Receiver::from_owned_fd(stdin).context("open the pipe to pgkeep")?;
        watch(&program, arguments, pgkeep).await
    })
}

async fn watch(
    program: &OsStr,
    arguments: impl Iterator<Item = OsString>,
    mut pgkeep: pipe::Receiver,
) -> anyhow::Result<()> {
    // Not by another thread: the program dies with the thread that started it.
    let mut child = Command::new(OWN_FILE)
        .arg0("pgkeep")
        .arg(BECOME)
        .arg(std::process::id().to_string())
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let group = Pid::from_child(&child);
    report(group.as_raw_nonzero().get());
    // Only looks: who waits for a process gives its number, which is the group's, to others.
    let mut ended = spawn_blocking(move || {
        retry_on_intr(|| waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT))
    });
    let early = tokio::select! {
        status = &mut ended => Some(status),
        () = end_of(&mut pgkeep) => {
            ask_to_end(group);
            tokio::time::timeout(PATIENCE, &mut ended).await.ok()
        }
    };
    let failed = !matches!(&early, Some(Ok(Ok(Some(status)))) if status.exit_status() == Some(0));
    if failed && early.is_some() {
        tokio::time::sleep(LAST_WORDS).await;
    }
    // Also those who are halted. That nobody is left is as good.
    let _ = kill_process_group(group, Signal::KILL);
    let status = match early {
        Some(status) => status,
        None => ended.await,
    };
    if let Some(status) = status?.context("look for the program's end")? {
        report(as_raw(&status));
    }
    end_of(&mut pgkeep).await;
    child.wait().context("wait for the program")?;
    Ok(())
}

/// Asks the programs of a group, halted or not, to end and to tell the server so.
pub(super) fn ask_to_end(group: Pid) {
    for signal in [Signal::TERM, Signal::CONT] {
        let _ = kill_process_group(group, signal);
    }
}

/// Tells pgkeep a number; if pgkeep is gone, there is nobody to tell.
fn report(number: i32) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{number}").and_then(|()| stdout.flush());
}

/// Waits until pgkeep has closed its end of the pipe or is gone. It never writes to it.
async fn end_of(pgkeep: &mut pipe::Receiver) {
    let mut byte = [0];
    while matches!(pgkeep.read(&mut byte).await, Ok(1..)) {}
}

/// The status as `wait` has it (`bits/waitstatus.h`): the exit status in the second byte, else the signal in the lowest
/// seven bits and whether there is a core file in the eighth.
fn as_raw(status: &WaitIdStatus) -> i32 {
    match status.exit_status() {
        Some(code) => (code & 0xff) << 8,
        None => status.terminating_signal().unwrap_or(0x7f) | if status.dumped() { 0x80 } else { 0 },
    }
}

/// Asks to die with the guard, then becomes the program. Returns only when the program could not be started.
fn become_program(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Error {
    let guard = arguments.next().and_then(|text| text.to_str().and_then(|text| text.parse::<i32>().ok()));
    let Some(program) = arguments.next() else { return anyhow::anyhow!("no program to start") };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return anyhow::Error::new(error).context("tie the child to its parent");
    }
    // The guard may have died before the line above; then nobody would ever send the signal.
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != guard {
        return anyhow::anyhow!("the parent is gone");
    }
    let error = Command::new(&program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("start {}", program.display()))
}
