//! Since when this machine has been running.

use std::fs;

/// The identifier of this boot (`proc(5)`, `random/boot_id`); `None` where the machine doesn't say which one it is.
pub fn identifier() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// When it was, in seconds since 1970 (`proc_stat(5)`, `btime`).
pub fn booted_at() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
