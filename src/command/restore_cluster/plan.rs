//! What is going to be done, and every reason not to: before a byte is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use serde::Serialize;

use super::reachable::{self, Asked};
use super::{RestoreClusterReport, RestoreClusterRequest, TimelineWish};
use crate::catalog::{BackupFilter, BackupRow};
use crate::command::Context;
use crate::command::archive::inventory;
use crate::command::manifests::{self, Fetched};
use crate::command::quoting;
use crate::format::cluster::Cluster;
use crate::format::manifest::Manifest;
use crate::model::{BackupId, BackupKind, Bytes, Fault, Kind, Lsn, WalName};
use crate::plan::quote::Quote;
use crate::plan::recovery::{Base, Reach, Target};
use crate::system::space;
use crate::target::cluster::{self as target, ClusterPlaces, Occupant};
use crate::target::kept_wal;

/// Room that must be left in a file system: the server writes WAL of its own.
const LEAST_ROOM: u64 = 64 << 20;
const GOES_ON: &str = "nowhere: a standby goes on asking for WAL";

/// What a restore does, to be shown before it is done.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterPlan {
    /// The backup.
    pub backup: BackupId,
    /// From when on it is consistent.
    pub consistent_at: String,
    /// The data directory that is to be.
    pub to_dir: String,
    /// Whether a data directory is there and is replaced.
    pub replaces: bool,
    /// Where its WAL is kept, if not all of it was archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_wal: Option<KeptPlace>,
    /// Tablespaces: where they were, and where they go.
    pub tablespaces: Vec<(String, String)>,
    /// Files.
    pub files: u64,
    /// Stored bytes to fetch.
    pub fetch_bytes: u64,
    /// Bytes to write.
    pub write_bytes: u64,
    /// Where recovery stops, in words.
    pub target: String,
    /// The timeline that it follows.
    pub timeline: u32,
    /// The first segment that is replayed.
    pub first_segment: String,
    /// Segments that lie in the archive from there on without a gap: so many are replayed at most.
    pub segments: u64,
    /// Up to where the archive reaches without a gap.
    pub until_lsn: Lsn,
    /// When the last transaction ended that is in there, if that was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_time: Option<String>,
    /// What it is going to take.
    pub quote: Quote,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

/// WAL that is put aside.
#[derive(Debug, Clone, Serialize)]
pub struct KeptPlace {
    /// The directory.
    pub directory: String,
    /// Why.
    pub why: String,
}

/// A restore that can be carried out.
pub(in crate::command) struct Restore {
    pub(in crate::command) manifest: Arc<Manifest>,
    pub(super) target: Target,
    pub(super) places: ClusterPlaces,
    pub(in crate::command) plan: ClusterPlan,
    /// The segments that may be replayed, in their order.
    pub(in crate::command) segments: Vec<WalName>,
}

impl Restore {
    /// Decides which backup, which way, and whether the target can be reached.
    pub(in crate::command) async fn plan(
        context: &Context,
        request: &RestoreClusterRequest,
    ) -> anyhow::Result<Self> {
        let rows = candidates(context, &request.backup)?;
        let bases: Vec<Base> = rows.iter().filter_map(base).collect();
        let inventory = inventory::take(context).await?;
        let newest = bases.iter().max_by_key(|base| base.stop_lsn).ok_or_else(no_backup)?;
        let timeline = match request.timeline {
            TimelineWish::Number(number) => number,
            TimelineWish::Current => newest.timeline,
            TimelineWish::Latest => inventory.archive.newest_timeline(newest.timeline),
        };
        let way = inventory.archive.way_to(timeline);
        let asked = Asked { context, inventory: &inventory, target: &request.target };
        let (chosen, reach, until_time) = asked.choose(&bases, timeline, &way).await?;
        let mut warnings: Vec<String> = inventory.unasked.clone();

        let keyring = context.keyring()?;
        let fetched = manifests::fetch(&context.settings, context.reading(), &chosen.id, &keyring).await?;
        warnings.extend(manifests::mark(context, &chosen.id, &fetched.bad)?);
        let Fetched { manifest, object, .. } = fetched;
        let cluster = manifest.physical.clone().ok_or_else(|| {
            Fault::new(Kind::Damaged, format!("the manifest of {} says nothing of a cluster", chosen.id))
        })?;
        let places = places(request, &cluster)?;
        let replaces = refuse_occupant(&places.root, request.force, manifest.system_identifier)?;
        refuse_little_room(&places, &manifest)?;
        if !cluster.damaged_pages.is_empty() {
            warnings.push(format!("{} has pages with wrong checksums: `pgkeep show` names them", chosen.id));
        }
        let stops_at = stops_at(request, &reach, until_time.as_deref());
        let mut work = quoting::work(context, &manifest, object.len() as u64)?;
        work.scratch_bytes = manifest.original_size;
        work.wal_segments = reach.segments.len() as u64;
        work.wal_bytes = quoting::wal_bytes(context, &reach.segments)?;
        work.stops_at = stops_at;
        let quote = quoting::quote(context, BackupKind::Cluster, None, work)?;
        let plan = ClusterPlan {
            backup: manifest.id.clone(),
            consistent_at: manifest.consistent_at.clone(),
            to_dir: places.root.display().to_string(),
            replaces,
            kept_wal: places.kept_wal.as_ref().map(|kept| KeptPlace {
                directory: kept.directory.display().to_string(),
                why: kept.why.clone(),
            }),
            tablespaces: moved(&cluster, &places),
            files: manifest.entries.len() as u64,
            fetch_bytes: manifest.stored_size + object.len() as u64,
            write_bytes: manifest.original_size,
            target: if request.standby { GOES_ON.to_owned() } else { reachable::words(&request.target) },
            timeline,
            first_segment: cluster.first_segment.clone(),
            segments: reach.segments.len() as u64,
            until_lsn: reach.until,
            until_time,
            quote,
            warnings,
        };
        let segments = reach.segments;
        Ok(Self { manifest: Arc::new(manifest), target: request.target.clone(), places, plan, segments })
    }

    /// Again, when others may have been at the directory meanwhile.
    pub(super) fn refuse_occupant(&self, force: bool) -> anyhow::Result<()> {
        refuse_occupant(&self.places.root, force, self.manifest.system_identifier).map(drop)
    }

    /// The report of what is planned, of which nothing is done yet.
    pub(super) fn report(&self) -> RestoreClusterReport {
        RestoreClusterReport {
            dry_run: true,
            warnings: self.plan.warnings.clone(),
            plan: self.plan.clone(),
            phases: Vec::new(),
            reached: None,
            seconds: 0.0,
        }
    }
}

/// Where recovery stops, as exactly as it can be said beforehand.
fn stops_at(request: &RestoreClusterRequest, reach: &Reach, until_time: Option<&str>) -> String {
    if request.standby {
        return GOES_ON.to_owned();
    }
    let words = reachable::words(&request.target);
    match (&request.target, until_time) {
        (Target::End, Some(time)) => format!("{words}: {}, last transaction {time}", reach.until),
        (Target::End, None) => format!("{words}: {}", reach.until),
        _ => words,
    }
}

/// The cluster backups that may be meant.
fn candidates(context: &Context, wanted: &str) -> anyhow::Result<Vec<BackupRow>> {
    if wanted != "latest" {
        let row = manifests::find(&context.catalog, wanted, None, None)?;
        if row.kind != BackupKind::Cluster {
            return Fault::new(
                Kind::Usage,
                format!("{} is a backup of a {}, not of a cluster", row.id, row.kind),
            )
            .hint("Leave out --to-dir to restore it, or name a cluster backup (`pgkeep list`).")
            .err();
        }
        return Ok(vec![row]);
    }
    let filter = BackupFilter { kind: Some(BackupKind::Cluster), ..BackupFilter::default() };
    context.catalog.backups().list(&filter)
}

pub(in crate::command) fn base(row: &BackupRow) -> Option<Base> {
    let wal = row.wal?;
    Some(Base {
        id: row.id.clone(),
        timeline: wal.timeline,
        start_lsn: wal.start_lsn,
        stop_lsn: wal.stop_lsn,
        consistent_at: row.consistent_at?,
        segment_size: wal.wal_segment_size,
    })
}

fn no_backup() -> Fault {
    Fault::new(Kind::NotThere, "there is no backup of a cluster")
        .hint("`pgkeep list` shows what there is; `pgkeep backup cluster` makes one.")
}

/// Where everything goes: a tablespace to where it was, unless it is moved.
fn places(request: &RestoreClusterRequest, cluster: &Cluster) -> anyhow::Result<ClusterPlaces> {
    for (from, _) in &request.tablespaces {
        if !cluster.tablespaces.iter().any(|tablespace| Path::new(&tablespace.path) == from) {
            let known: Vec<&str> = cluster.tablespaces.iter().map(|it| it.path.as_str()).collect();
            let message = format!("the backup has no tablespace at {}", from.display());
            let hint = if known.is_empty() {
                "It has none outside of the data directory: leave out --tablespace.".to_owned()
            } else {
                format!("Its tablespaces are at {}.", known.join(", "))
            };
            return Fault::new(Kind::Usage, message).hint(hint).err();
        }
    }
    let root = std::path::absolute(&request.to_dir)?;
    let mut tablespaces = Vec::new();
    for tablespace in &cluster.tablespaces {
        let moved = request.tablespaces.iter().find(|(from, _)| from == Path::new(&tablespace.path));
        let was = PathBuf::from(&tablespace.path);
        // One that lay in the data directory (the server warns of that) moves with it.
        let inner = cluster.data_directory.as_ref().and_then(|top| was.strip_prefix(top).ok());
        let stays = inner.map_or_else(|| was.clone(), |inner| root.join(inner));
        let stays = request.contained.as_ref().map_or(stays, |into| into.join(tablespace.oid.to_string()));
        let path = moved.map_or(stays, |(_, to)| to.clone());
        let path = std::path::absolute(path)?;
        tablespaces.push((tablespace.oid, path));
    }
    refuse_entangled(&root, &tablespaces)?;
    if let Some((_, path)) =
        tablespaces.iter().find(|(oid, path)| is_used_tablespace(path, *oid, &root, request.force))
    {
        let message = format!("the place of a tablespace, {}, is not empty", path.display());
        let hint = format!("Put it elsewhere: --tablespace {}=DIRECTORY.", path.display());
        return Fault::new(Kind::Refused, message).hint(hint).err();
    }
    let kept_wal = kept_wal::find(&root, Utc::now())?;
    Ok(ClusterPlaces { root, tablespaces, kept_wal })
}

/// A tablespace in which something lies may be that of a server that runs: the original.
fn is_used_tablespace(path: &Path, oid: u32, root: &Path, force: bool) -> bool {
    let is_empty = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    // That of the very directory that is replaced, or what an unfinished restore has put there.
    let is_own = std::fs::read_link(root.join(format!("pg_tblspc/{oid}"))).is_ok_and(|link| link == path)
        || path.starts_with(root)
        || matches!(target::look(root), Ok(Occupant::Unfinished { tablespaces, .. }) if tablespaces.iter().any(|it| it == path));
    !(is_empty || (force && is_own))
}

/// Two tablespaces in one place, or one around the data directory, would overwrite each other.
fn refuse_entangled(root: &Path, tablespaces: &[(u32, PathBuf)]) -> anyhow::Result<()> {
    let paths: Vec<&Path> = tablespaces.iter().map(|(_, path)| path.as_path()).collect();
    for (number, path) in paths.iter().enumerate() {
        let others = paths[number + 1..].iter();
        let other = others.into_iter().find(|other| other.starts_with(path) || path.starts_with(other));
        let other = other.copied().or_else(|| root.starts_with(path).then_some(root));
        if let Some(other) = other {
            let message = format!("{} and {} lie in each other", path.display(), other.display());
            return Fault::new(Kind::Usage, message)
                .hint("Give each tablespace a directory of its own (--tablespace FROM=TO).")
                .err();
        }
    }
    Ok(())
}

fn moved(cluster: &Cluster, places: &ClusterPlaces) -> Vec<(String, String)> {
    let to = |oid: u32| places.tablespaces.iter().find(|(other, _)| *other == oid);
    cluster
        .tablespaces
        .iter()
        .filter_map(|it| Some((it.path.clone(), to(it.oid)?.1.display().to_string())))
        .collect()
}

/// Refuses to replace what is not this cluster's, or is in use; true when a data directory is replaced.
fn refuse_occupant(root: &Path, force: bool, system_identifier: u64) -> anyhow::Result<bool> {
    let shown = root.display();
    let refused = |message: String, hint: &str| Err(Fault::new(Kind::Refused, message).hint(hint).into());
    match target::look(root)? {
        Occupant::Nobody => Ok(false),
        Occupant::Unfinished { system_identifier: found, .. } if found != system_identifier => refused(
            format!("{shown} holds an unfinished restore of another cluster (system identifier {found})"),
            "Empty it if nobody needs it, or restore into another directory.",
        ),
        Occupant::Unfinished { .. } if force => Ok(false),
        Occupant::Unfinished { .. } => refused(
            format!("{shown} holds a restore that did not come to its end"),
            "Give --force to begin it again, or another directory.",
        ),
        Occupant::Server { in_use: Some(in_use), .. } => Err(in_use.refuse(root).into()),
        Occupant::Server { system_identifier: found, .. } if found != system_identifier => refused(
            format!("{shown} is the data directory of another cluster (system identifier {found})"),
            "Restore into an empty directory; pgkeep does not replace another cluster.",
        ),
        Occupant::Server { .. } if force => Ok(true),
        Occupant::Server { .. } => refused(
            format!("{shown} is not empty: it is a data directory of this cluster"),
            "Restore into an empty directory, or replace this one with --force.",
        ),
        Occupant::Stranger => refused(
            format!("{shown} is not empty, and no data directory"),
            "Restore into an empty directory.",
        ),
    }
}

fn refuse_little_room(places: &ClusterPlaces, manifest: &Manifest) -> anyhow::Result<()> {
    // What is replaced gives its room back, and how much that is nobody has counted.
    if target::look(&places.root)? != Occupant::Nobody {
        return Ok(());
    }
    let inside = |prefix: &str| -> u64 {
        let entries = manifest.entries.iter().filter(|entry| entry.name.starts_with(prefix));
        entries.map(|entry| entry.size).sum()
    };
    let mut elsewhere = 0;
    let mut needs = Vec::new();
    for (oid, path) in &places.tablespaces {
        let need = inside(&format!("pg_tblspc/{oid}/"));
        elsewhere += need;
        needs.push((path.as_path(), space::device(path)?, need));
    }
    needs.insert(0, (&places.root, space::device(&places.root)?, manifest.original_size - elsewhere));
    for (paths, need) in by_file_system(&needs) {
        let free = space::of(paths[0])?.free;
        if free < need {
            let (free, need) = (Bytes(free), Bytes(need));
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let message = match shown.as_slice() {
                [path] => format!("{path} has {free} free, the backup needs {need} there"),
                all => format!(
                    "the file system of {} has {free} free, the backup needs {need} there",
                    all.join(", ")
                ),
            };
            return Fault::new(Kind::Store, message)
                .hint("Make room there, or restore into another directory.")
                .err();
        }
    }
    Ok(())
}

/// Places that lie in one file system, and what they need together: place, file system, need.
fn by_file_system<'a>(needs: &[(&'a Path, u64, u64)]) -> Vec<(Vec<&'a Path>, u64)> {
    let mut together: Vec<(u64, Vec<&Path>, u64)> = Vec::new();
    for (path, device, need) in needs {
        if let Some((_, paths, sum)) = together.iter_mut().find(|(other, ..)| other == device) {
            paths.push(path);
            *sum += need;
        } else {
            together.push((*device, vec![path], LEAST_ROOM + need));
        }
    }
    together.into_iter().map(|(_, paths, need)| (paths, need)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_one_file_system_needs_its_room_together() {
        let [root, one, two] = ["/data", "/data/tablespaces/1", "/fast/2"].map(Path::new);
        let needs = [(root, 7, 100), (two, 8, 10), (one, 7, 50)];
        let found = by_file_system(&needs);
        assert_eq!(found, [(vec![root, one], 150 + LEAST_ROOM), (vec![two], 10 + LEAST_ROOM)]);
    }
}
