//! Files with secrets that others on this machine can get at. The env file and the key's own are refused when others can
//! read them; but who may write to their directory can put other ones in their place.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Settings;

/// Each such file, and how.
pub(super) fn files(settings: &Settings) -> Vec<(String, String)> {
    let server = &settings.postgres;
    let opened = [server.sslkey.clone(), server.passfile.clone().or_else(|| home(settings, ".pgpass"))];
    let opened: Vec<PathBuf> = opened.into_iter().flatten().collect();
    let mut found = Vec::new();
    for file in &opened {
        // As libpq has it: a key of root's may be read by its group.
        let open = |it: &std::fs::Metadata| it.mode() & if it.uid() == 0 { 0o037 } else { 0o077 } != 0;
        if std::fs::metadata(file).is_ok_and(|it| it.is_file() && open(&it)) {
            found.push((file.display().to_string(), "is open to other users".to_owned()));
        }
    }
    for file in opened.into_iter().chain(settings.env_file.clone()).chain(settings.key_file.clone()) {
        let Some(directory) = std::path::absolute(&file).ok().and_then(|it| Some(it.parent()?.to_owned()))
        else {
            continue;
        };
        if file.exists() && is_writable_by_others(&directory) {
            let how =
                format!("others may write to {}, so they can put another one there", directory.display());
            found.push((file.display().to_string(), how));
        }
    }
    found
}

fn home(settings: &Settings, name: &str) -> Option<PathBuf> {
    Some(settings.home.as_ref()?.join(name))
}

/// Where the sticky bit is set (`/tmp`), only a file's owner may replace it.
fn is_writable_by_others(directory: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    std::fs::metadata(directory).is_ok_and(|it| it.mode() & 0o022 != 0 && it.mode() & STICKY == 0)
}
