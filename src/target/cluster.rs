//! A data directory, made out of a cluster backup.
//!
//! `global/pg_control` comes last, when everything else is on the disk: a server can't start on what is half restored.
//! Until then a marker says whose restore it is, so that the same restore can be begun again.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::kept_wal::{self, KeptWal};
use crate::format::cluster::Cluster;
use crate::format::manifest::Manifest;
use crate::model::{BackupId, Fault, FaultContext, Kind};
use crate::pipeline::Sink;
use crate::plan::data_directory::KEPT_WAL;
use crate::system::{Step, boot, caller, durable, step};

/// What is there as long as a restore is not complete.
const MARKER: &str = "pgkeep.restore";
/// What is in a file system that is mounted there.
const LOST_AND_FOUND: &str = "lost+found";
pub(super) const CONTROL: &str = "global/pg_control";
/// So much of a file goes to the disk while the next is unpacked; what is smaller waits for the flush of all.
const FLUSHED_AT_ONCE: usize = 1 << 20;

/// What is in the place of a data directory that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing, or an empty directory.
    Nobody,
    /// A restore that did not come to its end.
    Unfinished {
        /// Whose.
        system_identifier: u64,
        /// Where its tablespaces go.
        tablespaces: Vec<PathBuf>,
    },
    /// A data directory.
    Server {
        /// Whose.
        system_identifier: u64,
        /// A server runs on it, or may: a sentence.
        in_use: Option<InUse>,
    },
    /// Something else.
    Stranger,
}

/// Why a data directory is not to be touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InUse {
    /// This process is its server.
    By(u32),
    /// Its lock file says so, and the process is not to be seen from here.
    Perhaps(u32),
}

impl InUse {
    /// The refusal.
    pub fn refuse(&self, root: &Path) -> Fault {
        let root = root.display();
        match self {
            Self::By(pid) => Fault::new(Kind::Refused, format!("a server runs on {root} (process {pid})"))
                .hint("Stop it first, or restore into another directory."),
            Self::Perhaps(pid) => {
                let message = format!(
                    "{root} was not shut down, and {root}/postmaster.pid names the process {pid}, which is not to be \
                     seen from here: its server may run in a container or on another machine"
                );
                Fault::new(Kind::Refused, message).hint(
                    "Stop the server where it runs. If there is none any more, remove postmaster.pid, and run it again.",
                )
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    backup: BackupId,
    system_identifier: u64,
    #[serde(default)]
    tablespaces: Vec<PathBuf>,
}

/// Looks what is there.
pub fn look(root: &Path) -> anyhow::Result<Occupant> {
    let describe = || format!("look into {}", root.display());
    let mut entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nobody),
        entries => entries.with_context(describe)?,
    };
    // What a file system is made with.
    if entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOST_AND_FOUND)) {
        return Ok(Occupant::Nobody);
    }
    let mut identifier = [0; 8];
    let control = File::open(root.join(CONTROL)).and_then(|file| file.read_exact_at(&mut identifier, 0));
    let is_server = root.join("PG_VERSION").is_file() && control.is_ok();
    // With a control file a server can start, and may have done so: a marker that is still there says nothing then.
    if !is_server
        && let Ok(bytes) = fs::read(root.join(MARKER))
        && let Ok(Marker { system_identifier, tablespaces, .. }) = serde_json::from_slice(&bytes)
    {
        return Ok(Occupant::Unfinished { system_identifier, tablespaces });
    }
    if !is_server {
        return Ok(Occupant::Stranger);
    }
    let system_identifier = u64::from_ne_bytes(identifier);
    Ok(Occupant::Server { system_identifier, in_use: in_use(root) })
}

/// What `postmaster.pid` says, and whether it can be so. A server works in its data directory.
fn in_use(root: &Path) -> Option<InUse> {
    let text = fs::read_to_string(root.join("postmaster.pid")).ok()?;
    let mut lines = text.lines().map(str::trim);
    let pid: u32 = lines.next()?.parse().ok()?;
    if Path::new(&format!("/proc/{pid}")).exists() {
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            // Not ours to look at: it counts as running.
            Err(_) => return Some(InUse::By(pid)),
            Ok(directory) if root.canonicalize().ok()? == directory => return Some(InUse::By(pid)),
            Ok(_) => {}
        }
    }
    // Line 3: when it was started.
    let started: Option<u64> = lines.nth(1).and_then(|line| line.parse().ok());
    let before_this_boot = started.zip(boot::booted_at()).is_some_and(|(started, boot)| started < boot);
    (!before_this_boot && !kept_wal::was_shut_down(root)).then_some(InUse::Perhaps(pid))
}

/// Where things go.
#[derive(Debug, Clone)]
pub struct ClusterPlaces {
    /// The data directory.
    pub root: PathBuf,
    /// Where each tablespace goes, by its number.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// What of the server that is replaced is put aside.
    pub kept_wal: Option<KeptWal>,
}

/// Writes entries into a data directory.
#[derive(Debug)]
pub struct ClusterTarget {
    places: ClusterPlaces,
    manifest: Arc<Manifest>,
    /// Shared by those who write at the same time.
    open: Arc<Mutex<HashMap<usize, Open>>>,
    /// The data directory and the tablespaces, opened before anything is written: a write that fails later is told to
    /// whoever had them open already (`errseq_t` in Linux's `lib/errseq.c`).
    flushed: Arc<Vec<(PathBuf, File)>>,
}

/// A file of which bytes are still to come.
#[derive(Debug)]
struct Open {
    file: Arc<File>,
    written: u64,
}

impl ClusterTarget {
    /// Makes all directories, and empties first what is there. From here on no server can start on it until
    /// [`ClusterTarget::finish`]. Who may be replaced was decided before.
    pub fn begin(places: ClusterPlaces, manifest: Arc<Manifest>) -> anyhow::Result<Self> {
        let root = &places.root;
        let cluster = cluster_of(&manifest)?;
        // Again: the operator may have taken hours to say yes.
        if let Occupant::Server { in_use: Some(in_use), .. } = look(root)? {
            return Err(in_use.refuse(root).into());
        }
        make_directory(root, 0o700)?;
        let marker = Marker {
            backup: manifest.id.clone(),
            system_identifier: manifest.system_identifier,
            tablespaces: places.tablespaces.iter().map(|(_, path)| path.clone()).collect(),
        };
        durable::write_file(&root.join(MARKER), &serde_json::to_vec(&marker)?)?;
        if let Some(kept) = &places.kept_wal {
            kept.put_aside(root)?;
        }
        // First, and for good: what is emptied below was a server a moment ago.
        durable::remove_file_if_there(&root.join(CONTROL))?;
        if root.join("global").is_dir() {
            durable::sync_dir(&root.join("global"))?;
        }
        step::reached(Step::DirectoryBegun)?;
        empty(root, &|name| name == MARKER || name == LOST_AND_FOUND || name.starts_with(KEPT_WAL))?;
        for (oid, path) in &places.tablespaces {
            make_directory(path, 0o700)?;
            let version = cluster.directories.iter().find_map(|directory| {
                let rest = directory.path.strip_prefix(&format!("pg_tblspc/{oid}/"))?;
                (!rest.contains('/')).then(|| rest.to_owned())
            });
            // Only what is of this version and number is this cluster's.
            if let Some(version) = version {
                durable::remove_dir_if_there(&path.join(version))?;
            }
        }
        for directory in &cluster.directories {
            let path = inside(root, &directory.path)?;
            if let Some((oid, rest)) = tablespace_of(&directory.path)
                && rest.is_empty()
                && places.tablespaces.iter().any(|(other, _)| *other == oid)
            {
                continue;
            }
            link_tablespaces(&places, &directory.path)?;
            make_directory(&path, directory.mode)?;
        }
        link_tablespaces(&places, "")?;
        let directories = places.tablespaces.iter().map(|(_, path)| path).chain([&places.root]);
        let open = |path: &PathBuf| {
            let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            anyhow::Ok((path.clone(), file))
        };
        let flushed = Arc::new(directories.map(open).collect::<anyhow::Result<_>>()?);
        Ok(Self { places, manifest, open: Arc::default(), flushed })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<usize, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry's file, made when its first bytes come.
    fn file(&self, entry: usize) -> anyhow::Result<Arc<File>> {
        let name = &self.manifest.entries[entry].name;
        // Under another name until all is done.
        let name = if name == CONTROL { "global/pg_control.pgkeep" } else { name.as_str() };
        let path = inside(&self.places.root, name)?;
        match self.open().entry(entry) {
            std::collections::hash_map::Entry::Occupied(open) => Ok(Arc::clone(&open.get().file)),
            std::collections::hash_map::Entry::Vacant(place) => {
                let file = Arc::new(durable::create_private_file(&path)?);
                place.insert(Open { file: Arc::clone(&file), written: 0 });
                Ok(file)
            }
        }
    }

    /// Whoever writes an entry's last bytes, which may be in its middle, closes it.
    fn wrote(&self, entry: usize, length: u64) -> anyhow::Result<()> {
        let whole = &self.manifest.entries[entry];
        let mut open = self.open();
        let Some(state) = open.get_mut(&entry) else { return Ok(()) };
        state.written += length;
        if state.written < whole.size {
            return Ok(());
        }
        let closed = open.remove(&entry);
        drop(open);
        closed.map_or(Ok(()), |closed| {
            closed.file.set_permissions(Permissions::from_mode(whole.mode)).context("set a file's mode")
        })
    }

    /// Adds the settings of the recovery and the file that asks for it, gives everything to its owner, flushes, and puts
    /// the control file into its place. Returns what is not as it was.
    pub fn finish(self, settings: &str, signal: Option<&str>) -> anyhow::Result<Vec<String>> {
        let root = &self.places.root;
        let cluster = cluster_of(&self.manifest)?;
        let mut auto = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(root.join("postgresql.auto.conf"))
            .with_context(|| format!("write the recovery's settings into {}", root.display()))?;
        auto.write_all(settings.as_bytes())?;
        let was = self.manifest.entries.iter().find(|entry| entry.name == "postgresql.auto.conf");
        set_mode(&root.join("postgresql.auto.conf"), was.map_or(0o600, |entry| entry.mode))?;
        if let Some(signal) = signal {
            durable::write_file(&root.join(signal), b"")?;
        }
        set_mode(root, cluster.mode)?;
        let mut warnings = Vec::new();
        warnings.extend(names_another_directory(root));
        if rustix::process::geteuid().is_root() {
            warnings.extend(give_away(&self.places, cluster)?);
        }
        step::reached(Step::DirectoryFilled)?;
        for (path, file) in self.flushed.iter() {
            // All of the file system at once: thousands of files one by one take longer.
            rustix::fs::syncfs(file).with_context(|| format!("flush {}", path.display()))?;
        }
        let control = root.join(CONTROL);
        fs::rename(root.join("global/pg_control.pgkeep"), &control)
            .with_context(|| format!("put {} into its place", control.display()))?;
        durable::sync_parent(&control)?;
        step::reached(Step::DirectoryWhole)?;
        durable::remove_file_if_there(&root.join(MARKER))?;
        durable::sync_dir(root)?;
        Ok(warnings)
    }
}

impl Sink for ClusterTarget {
    fn write(&mut self, entry: usize, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let describe =
            format!("write {} below {}", self.manifest.entries[entry].name, self.places.root.display());
        let file = self.file(entry)?;
        file.write_all_at(bytes, offset).or_fault(|| {
            Fault::new(Kind::Store, describe).hint("Make room there, and run the restore again with --force.")
        })?;
        if bytes.len() >= FLUSHED_AT_ONCE {
            durable::begin_flush(&file, offset, bytes.len() as u64);
        }
        self.wrote(entry, bytes.len() as u64)
    }

    fn complete(&mut self, entry: usize) -> anyhow::Result<()> {
        // Only of an empty one nobody has written a byte.
        if self.manifest.entries[entry].size == 0 {
            self.file(entry).context("make a file")?;
            self.wrote(entry, 0)?;
        }
        Ok(())
    }

    fn beside(&self) -> Option<Self> {
        let (places, manifest) = (self.places.clone(), Arc::clone(&self.manifest));
        Some(Self { places, manifest, open: Arc::clone(&self.open), flushed: Arc::clone(&self.flushed) })
    }
}

fn cluster_of(manifest: &Manifest) -> anyhow::Result<&Cluster> {
    let cluster = manifest.physical.as_ref();
    Ok(cluster
        .ok_or_else(|| Fault::new(Kind::Damaged, format!("{} is no backup of a cluster", manifest.id)))?)
}

/// A path below the directory. A manifest is sealed, but one that leaves its directory would be a disaster.
fn inside(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) || name.is_empty() {
        return Fault::new(Kind::Damaged, format!("\"{name}\" is not a name within a directory")).err();
    }
    Ok(root.join(name))
}

/// The number in `pg_tblspc/<oid>/...`, and what follows.
fn tablespace_of(path: &str) -> Option<(u32, &str)> {
    let rest = path.strip_prefix("pg_tblspc/")?;
    let (oid, rest) = rest.split_once('/').unwrap_or((rest, ""));
    Some((oid.parse().ok()?, rest))
}

/// Makes the links of tablespaces as soon as `pg_tblspc` is there; may run again.
fn link_tablespaces(places: &ClusterPlaces, before: &str) -> anyhow::Result<()> {
    let directory = places.root.join("pg_tblspc");
    if !directory.is_dir() || !(before.is_empty() || before.starts_with("pg_tblspc/")) {
        return Ok(());
    }
    for (oid, path) in &places.tablespaces {
        let link = directory.join(oid.to_string());
        if fs::symlink_metadata(&link).is_err() {
            symlink(path, &link).with_context(|| format!("link {} to {}", link.display(), path.display()))?;
        }
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    durable::create_private_dir(path).or_fault(|| {
        Fault::new(Kind::Store, format!("make the directory {}", path.display())).hint(
            "Make it as root and give it to the user who restores (`install -d -m 700 -o USER DIRECTORY`).",
        )
    })?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.with_context(|| format!("set the mode of {}", path.display()))
}

/// Removes what is in a directory, but not where links lead.
fn empty(directory: &Path, keep: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    let describe = || format!("empty {}", directory.display());
    for entry in fs::read_dir(directory).with_context(describe)? {
        let entry = entry.with_context(describe)?;
        if entry.file_name().to_str().is_some_and(keep) {
            continue;
        }
        let is_directory = entry.file_type().with_context(describe)?.is_dir();
        let path = entry.path();
        if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(describe)?;
    }
    Ok(())
}

/// A line in `postgresql.conf` by which `pg_ctl start -D` would start the original.
fn names_another_directory(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("postgresql.conf")).ok()?;
    let line = text.lines().map(str::trim).rfind(|line| line.starts_with("data_directory"))?;
    let named = line.split('\'').nth(1).unwrap_or_default();
    (Path::new(named) != root).then(|| {
        let root = root.display();
        format!(
            "postgresql.conf in {root} says {line}: a server that is started with it works THERE; change it, or start it \
             with -c data_directory={root}"
        )
    })
}

/// Root restores for somebody else: a server of root's does not start.
fn give_away(places: &ClusterPlaces, cluster: &Cluster) -> anyhow::Result<Option<String>> {
    let (user, group) = &cluster.owner;
    let (Some(uid), Some(gid)) = caller::numbers(user, group) else {
        return Ok(Some(format!(
            "this machine has no user {user} or no group {group}: {} belongs to root; give it to the server's user \
             (`chown -R`)",
            places.root.display()
        )));
    };
    let mut waiting: Vec<PathBuf> = places.tablespaces.iter().map(|(_, path)| path.clone()).collect();
    waiting.push(places.root.clone());
    while let Some(path) = waiting.pop() {
        let describe = || format!("give {} to {user}", path.display());
        let metadata = fs::symlink_metadata(&path).with_context(describe)?;
        if metadata.is_symlink() {
            continue;
        }
        chown(&path, Some(uid), Some(gid)).with_context(describe)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).with_context(describe)? {
                waiting.push(entry.with_context(describe)?.path());
            }
        }
    }
    Ok(None)
}
