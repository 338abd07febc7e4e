//! What every run does at its end: which conditions hold is found out and written down, and who is to hear of it does.

use chrono::{Local, Utc};

use super::deliver::{self, Told};
use super::{certificates, exposed};
use crate::catalog::{Alert, Audience, Catalog, Recipient};
use crate::command::archive::unrecorded;
use crate::command::context::{keyring, run_lock};
use crate::command::recoverable;
use crate::config::Settings;
use crate::model::{Progress, RunId, Severity, StoreName, Timestamp, WalName};
use crate::plan::conditions::exposure::{self, Position, Safe, Seen};
use crate::plan::conditions::{self, Condition, End, EndedRun, Facts, Limits, Server, Usage};
use crate::system::caller::Caller;
use crate::system::lock::FileLock;
use crate::system::space;

/// Where one looks.
#[derive(Clone, Copy)]
pub(in crate::command) struct Place<'a> {
    pub(in crate::command) settings: &'a Settings,
    pub(in crate::command) catalog: &'a Catalog,
    pub(in crate::command) progress: &'a dyn Progress,
    /// The run that looks.
    pub(in crate::command) run: Option<&'a RunId>,
    /// Whether messages are sent now; else they wait for the next run.
    pub(in crate::command) tells: bool,
}

/// What came of it.
pub(in crate::command) struct Attended {
    pub(in crate::command) conditions: Vec<Condition>,
    pub(in crate::command) new: u64,
    pub(in crate::command) told: Told,
}

/// Evaluates, writes down, and tells. Only `watch` asks the server.
pub(in crate::command) async fn attend(place: Place<'_>, server: Server) -> anyhow::Result<Attended> {
    let Place { settings, catalog, .. } = place;
    let facts = &mut gather(place, server)?;
    remember(catalog, facts)?;
    let (holes, are_unknown) = recoverable::holes(settings, catalog)?;
    facts.holes = Some(holes);
    let mut conditions = conditions::evaluate(facts, &limits(settings));
    let decided = conditions::decided(facts);
    let alerts = catalog.alerts();
    if are_unknown {
        // Whether it is over nobody knows until the store has answered that may have what was missing.
        let open = alerts.open()?.into_iter().filter_map(|alert| still_open(&conditions, alert));
        let open: Vec<Condition> = open.collect();
        conditions.extend(open);
    }
    let new = alerts.hold(&conditions, &decided, place.run.map(RunId::as_str), facts.now)?;
    let audience = |severity| audience(settings, severity, facts.now);
    alerts.route(&audience, settings.alerts.repeat, facts.now)?;
    let told = if place.tells { deliver::due(place).await? } else { Told::default() };
    Ok(Attended { conditions, new, told })
}

/// What was found before, and not now.
fn still_open(conditions: &[Condition], alert: Alert) -> Option<Condition> {
    let kind = *conditions::WATCHED.iter().find(|kind| **kind == alert.alert_type)?;
    let is_found = conditions.iter().any(|it| it.kind == kind && it.subject == alert.subject);
    let Alert { subject, severity, message, .. } = alert;
    (!is_found).then_some(Condition { kind, subject, severity, message })
}

/// Writes down how far the server is, if it was asked: by that a later look knows since when it has something to lose.
fn remember(catalog: &Catalog, facts: &Facts) -> anyhow::Result<()> {
    let Server::Answered(server) = &facts.server else { return Ok(()) };
    let Some(Position { timeline, lsn, .. }) = server.position.filter(|_| server.is_on) else {
        return Ok(());
    };
    let archived = exposure::is_all_archived(server, facts.safe.as_ref());
    catalog.saw_wal(&Seen { at: facts.now, timeline, lsn, archived })
}

/// Who is told of something this bad, and from when on.
fn audience(settings: &Settings, severity: Severity, now: Timestamp) -> Audience {
    let alerts = &settings.alerts;
    let quiet = alerts.quiet.filter(|_| severity != Severity::Critical);
    let not_before = quiet.and_then(|quiet| quiet.over_at(now, &Local)).unwrap_or(now);
    let recipients = alerts.channels_of(severity).iter().flat_map(|channel| {
        let addresses = alerts.recipients(*channel).into_iter();
        addresses.map(|address| Recipient { channel: *channel, address })
    });
    Audience { not_before, recipients: recipients.collect() }
}

fn limits(settings: &Settings) -> Limits {
    let alerts = &settings.alerts;
    Limits {
        rpo: settings.rpo_target,
        rto: settings.rto_target,
        backup_age: alerts.backup_age,
        backup_duration: alerts.backup_duration,
        size_percent: alerts.size_percent,
        storage_percent: alerts.storage_percent,
        proof_age: settings.proof_max_age,
        backlog: alerts.backlog,
        min_copies: settings.min_copies as u64,
    }
}

fn gather(place: Place<'_>, server: Server) -> anyhow::Result<Facts> {
    let Place { settings, catalog, .. } = place;
    unrecorded::take_in(settings, catalog)?;
    let mut facts = catalog.facts(Utc::now())?;
    let (position, copies) = match &server {
        Server::Answered(archiving) if archiving.is_on => (archiving.position, settings.min_copies),
        // Whether there is any at all.
        Server::Answered(_) => (None, 1),
        Server::NotAsked | Server::Unreachable(_) => (None, settings.min_copies),
    };
    let histories = catalog.wal().histories()?;
    let counts = |name: &WalName| position.is_none_or(|it| exposure::is_of_its_line(name, &it, &histories));
    let safe = recoverable::newest_safe(catalog, copies, &counts)?;
    facts.safe = safe.map(|(name, at)| Safe { name, at });
    facts.server = server;
    facts.has_key = !settings.keys.is_empty();
    facts.key_fault = settings.key_fault.as_ref().map(|fault| fault.message.clone());
    match keyring(settings) {
        Ok(keyring) => facts.foreign_keys.retain(|used| keyring.fingerprints().all(|ours| ours != used.key)),
        // Whoever needs a key says what is wrong with those that are set.
        Err(_) => facts.foreign_keys.clear(),
    }
    let host = Caller::find().host;
    for run in catalog.runs().unfinished()? {
        let is_ours = run.host == host && place.run != Some(&run.id);
        if is_ours && !FileLock::is_held(&run_lock(settings, &run.id))? {
            facts.runs.push(EndedRun {
                id: run.id.to_string(),
                command: run.command,
                arguments: run.arguments,
                end: End::Died,
                exit_code: None,
                message: Some("it ended without a word".to_owned()),
                at: run.started_at,
                is_told: false,
                is_job: false,
            });
        }
    }
    facts.runs.sort_by_key(|run| run.at);
    facts.usage = usage(settings, &facts.usage);
    facts.certificates = certificates::known(place)?;
    facts.exposed = exposed::files(settings);
    Ok(facts)
}

/// File systems by what they have, stores in clouds by their quota.
fn usage(settings: &Settings, listed: &[Usage]) -> Vec<Usage> {
    let quota = |store: StoreName| {
        settings.alerts.quotas.iter().find(|(name, _)| *name == store).map(|(_, quota)| *quota)
    };
    let clouds = [StoreName::R2, StoreName::B2].into_iter().filter_map(|store| {
        let listed = listed.iter().find(|usage| usage.place == store.as_str())?;
        Some(Usage { place: format!("store {store}"), used: listed.used, of: quota(store)? })
    });
    let mut found: Vec<Usage> = clouds.collect();
    let mut seen = Vec::new();
    let local = settings.local_dir.as_ref().map(|path| (path, "the disk of the local store"));
    for (path, what) in local.into_iter().chain([(&settings.state_dir, "the disk of the state directory")]) {
        // A disk that can't be asked is no full one; who writes to it says what is wrong.
        let Ok(space) = space::of(path) else { continue };
        let (used, of) = (space.used, space.used.saturating_add(space.free));
        if of == 0 || seen.contains(&(used, of)) {
            continue;
        }
        seen.push((used, of));
        found.push(Usage { place: format!("{what} ({})", path.display()), used, of });
    }
    found
}
