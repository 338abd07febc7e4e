//! What is going to be done, and every reason not to: before a byte is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use serde::Serialize;

use super::{RestoreClusterReport, RestoreClusterRequest, TimelineWish};
use crate::catalog::{BackupFilter, BackupRow};
use crate::command::Context;
use crate::command::archive::inventory::{self, Inventory};
use crate::command::manifests::{self, Fetched};
use crate::format::cluster::Cluster;
use crate::format::manifest::Manifest;
use crate::model::{BackupId, BackupKind, Bytes, Fault, Kind, Lsn, timestamp_text};
use crate::plan::recovery::{self, Base, Reach, Target};
use crate::system::space;
use crate::target::cluster::{self as target, ClusterPlaces, Occupant};
use crate::target::kept_wal;

const STILL_THERE: &str = "If the server still runs, it has WAL that it has not archived: `SELECT pg_switch_wal()` there, \
                           wait until `pgkeep check` finds it arrived, then try again.";

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
pub(super) struct Restore {
    pub(super) manifest: Arc<Manifest>,
    pub(super) target: Target,
    pub(super) places: ClusterPlaces,
    pub(super) plan: ClusterPlan,
}

impl Restore {
    /// Decides which backup, which way, and whether the target can be reached.
    pub(super) async fn plan(context: &Context, request: &RestoreClusterRequest) -> anyhow::Result<Self> {
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
        let chosen = recovery::choose(&bases, &request.target, &way)
            .ok_or_else(|| out_of_reach(&bases, &request.target, timeline, &way))?;
        let reach = recovery::reach(chosen, &way, &inventory.archive);
        let mut warnings: Vec<String> = inventory.unasked.clone();
        let until_time = refuse_unreachable(context, request, chosen, &reach, &inventory).await?;

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
            target: words(&request.target),
            timeline,
            first_segment: cluster.first_segment.clone(),
            segments: reach.segments,
            until_lsn: reach.until,
            until_time,
            warnings,
        };
        Ok(Self { manifest: Arc::new(manifest), target: request.target.clone(), places, plan })
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

/// No backup is consistent before the target.
fn out_of_reach(bases: &[Base], target: &Target, timeline: u32, way: &[(u32, Option<Lsn>)]) -> Fault {
    let on_the_way = bases.iter().filter(|base| recovery::is_on_the_way(base, way));
    let Some(first) = on_the_way.min_by_key(|base| base.stop_lsn) else {
        let message = format!("no cluster backup lies on the way to timeline {timeline}");
        return Fault::new(Kind::Refused, message).hint(
            "Name another timeline with --target-timeline, or `current` for that of the backup; `pgkeep list \
             --recoverable` shows which there are.",
        );
    };
    let (at, lsn) = (timestamp_text(first.consistent_at), first.stop_lsn);
    let message = format!(
        "no cluster backup was consistent {}: the earliest that can be reached is {at} ({lsn})",
        words(target)
    );
    Fault::new(Kind::Refused, message)
        .hint(format!("Give --target-time {at} or a later one; `pgkeep list --recoverable` shows all."))
}

/// Refuses a target that the archive does not reach. Returns the time up to which it does, if that was looked for.
async fn refuse_unreachable(
    context: &Context,
    request: &RestoreClusterRequest,
    base: &Base,
    reach: &Reach,
    inventory: &Inventory,
) -> anyhow::Result<Option<String>> {
    let refused = |message: String, hint: String| {
        // What a store that could not be asked may have is not missing.
        match inventory.unasked.first() {
            Some(unasked) => {
                Fault::new(Kind::Store, format!("{message}; not every store could be asked: {unasked}"))
                    .hint("Run it again when that store can be reached.")
            }
            None => Fault::new(Kind::Refused, message).hint(hint),
        }
    };
    let hole = reach.hole.as_ref().map_or_else(
        || format!("the archive ends at {}", reach.until),
        |(missing, next)| format!("{missing} is in no store, and {next} is: a hole"),
    );
    if reach.until < base.stop_lsn {
        let message =
            format!("{} can't be made consistent, it needs WAL up to {}: {hole}", base.id, base.stop_lsn);
        return Err(
            refused(message, "Restore an earlier backup (`pgkeep list --recoverable`).".to_owned()).into()
        );
    }
    let last = match (&request.target, &reach.last) {
        (Target::Consistent | Target::Transaction(_) | Target::Name(_), _) | (_, None) => return Ok(None),
        (Target::Lsn(lsn), _) => {
            if *lsn > reach.until {
                let message = format!("{lsn} can't be reached: {hole}");
                let hint = match reach.hole {
                    None => format!(
                        "{STILL_THERE} Otherwise the furthest that can be reached is {}.",
                        reach.until
                    ),
                    Some(_) => format!("The furthest that can be reached is {}.", reach.until),
                };
                return Err(refused(message, hint).into());
            }
            return Ok(None);
        }
        (Target::Time(_) | Target::End, Some(last)) => last,
    };
    let stops = inventory.last_stops(context, last, base.segment_size).await?;
    let shown = stops.last_transaction.map(timestamp_text);
    let everything = match (&reach.hole, stops.last_record) {
        (Some(_), Some(record)) => format!("Everything before the hole: --target-lsn {record}."),
        (Some(_), None) => "Give an earlier target (`pgkeep list --recoverable`).".to_owned(),
        (None, _) => {
            format!("{STILL_THERE} Otherwise give an earlier target, or none for everything that there is.")
        }
    };
    if let Target::End = request.target {
        if reach.hole.is_some() {
            return Err(
                refused(format!("the end of the archive can't be reached: {hole}"), everything).into()
            );
        }
        return Ok(shown);
    }
    // Recovery stops before the first transaction that ended later: there must be one.
    if let (Target::Time(wanted), Some(until)) = (&request.target, stops.last_transaction)
        && *wanted >= until
    {
        let (wanted, until) = (timestamp_text(*wanted), timestamp_text(until));
        let message = format!(
            "{wanted} can't be reached: the last transaction in the archive ended at {until}, {hole}"
        );
        return Err(refused(message, everything).into());
    }
    Ok(shown)
}

fn words(target: &Target) -> String {
    match target {
        Target::Consistent => "as soon as the backup is consistent".to_owned(),
        Target::End => "at the end of the archive".to_owned(),
        Target::Time(time) => format!("before {}", timestamp_text(*time)),
        Target::Lsn(lsn) => format!("at {lsn}"),
        Target::Transaction(id) => format!("behind transaction {id}"),
        Target::Name(name) => format!("at the restore point \"{name}\""),
    }
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
        let path = moved.map_or_else(|| PathBuf::from(&tablespace.path), |(_, to)| to.clone());
        let path = std::path::absolute(path)?;
        refuse_used_tablespace(&path, tablespace.oid, &root, request.force)?;
        tablespaces.push((tablespace.oid, path));
    }
    let kept_wal = kept_wal::find(&root, Utc::now())?;
    Ok(ClusterPlaces { root, tablespaces, kept_wal })
}

/// A tablespace in which something lies may be that of a server that runs: the original.
fn refuse_used_tablespace(path: &Path, oid: u32, root: &Path, force: bool) -> anyhow::Result<()> {
    let is_empty = std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    // That of the very directory that is replaced.
    let is_own = std::fs::read_link(root.join(format!("pg_tblspc/{oid}"))).is_ok_and(|link| link == path);
    if is_empty || (force && is_own) {
        return Ok(());
    }
    Fault::new(Kind::Refused, format!("the place of a tablespace, {}, is not empty", path.display()))
        .hint(format!("Put it elsewhere: --tablespace {}=DIRECTORY.", path.display()))
        .err()
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
        Occupant::Unfinished { system_identifier: found } if found == system_identifier && force => Ok(false),
        Occupant::Unfinished { .. } => refused(
            format!("{shown} holds a restore that did not come to its end"),
            "Give --force to begin it again, or another directory.",
        ),
        Occupant::Server { running: Some(pid), .. } => refused(
            format!("a server runs on {shown} (process {pid})"),
            "Stop it first, or restore into another directory.",
        ),
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
    let free = space::of(&places.root)?.free;
    // What is replaced gives its room back, and how much that is nobody has counted.
    if free < manifest.original_size
        && target::look(&places.root)? == Occupant::Nobody
        && places.tablespaces.is_empty()
    {
        let (free, need) = (Bytes(free), Bytes(manifest.original_size));
        let message = format!("{} has {free} free, the backup has {need}", places.root.display());
        return Fault::new(Kind::Store, message)
            .hint("Make room there, or restore into another directory.")
            .err();
    }
    Ok(())
}
