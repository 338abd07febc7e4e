//! Stepping back: work that nobody waits for leaves processor and disk to those who do.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, setpriority_process};

/// How far behind others (`nice`).
const NICENESS: i32 = 10;

/// Puts every thread of this process, and all programs that it starts from now on, behind others: by `nice`, and for the
/// disk by the program `ionice` where there is one. That it can't be done is no reason not to work.
pub fn step_back() {
    let threads: Vec<i32> = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // Linux keeps both by thread, and a child has those of the thread that started it.
    for thread in threads.iter().filter_map(|thread| Pid::from_raw(*thread)) {
        let _ = setpriority_process(Some(thread), NICENESS);
    }
    let ionice = ["/usr/bin/ionice", "/bin/ionice"].into_iter().find(|path| Path::new(path).exists());
    if let Some(ionice) = ionice {
        let mut command = Command::new(ionice);
        // Best effort, last in the queue. Not the class idle: under load it would wait for ever.
        command.args(["-c", "2", "-n", "7", "-p"]).args(threads.iter().map(ToString::to_string));
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// How much memory programs may still take without pushing others out (`MemAvailable`), if the machine says.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}
