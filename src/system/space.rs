//! Room on a file system.

use std::path::Path;

use anyhow::Context;

/// What a file system has.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free: u64,
    /// Bytes that are used. Together with those that are free less than all, where some are kept for the administrator.
    pub used: u64,
    /// Bytes in all.
    pub total: u64,
    /// Files that may still be made; `None` where the file system does not count them.
    pub free_files: Option<u64>,
}

/// Which file system holds `path`, or the nearest directory above it that exists.
pub fn device(path: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let there = nearest(path);
    let found = std::fs::metadata(there).with_context(|| format!("look at {}", there.display()))?;
    Ok(found.dev())
}

fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

/// Asks the file system that holds `path`, or the nearest directory above it that exists.
pub fn of(path: &Path) -> anyhow::Result<Space> {
    let stat = rustix::fs::statvfs(nearest(path))
        .with_context(|| format!("ask the free space of {}", path.display()))?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        used: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_files: (stat.f_files > 0).then_some(stat.f_favail),
    })
}
