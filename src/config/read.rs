//! From inputs to settings: find the file, put the environment over it, check everything, then fail or not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::duration::parse_duration;
use super::faults::Faults;
use super::inputs::Inputs;
use super::size::parse_size;
use super::values::{Value, Values};
use super::{
    Cloud, DEFAULT_COMPRESSION, DEFAULT_WAL_COMPRESSION, Settings, alerts, clouds, env_file, keys, paths,
    postgres, questions, retention, tenants,
};
use crate::model::{ClusterName, Fault, Kind, StoreName};

const DEFAULT_CLUSTER: &str = "main";
const DEFAULT_STATE_DIR: &str = "/var/lib/pgkeep";
const DEFAULT_JOBS: usize = 4;
/// Of a volume: small enough that the first one is on its way to the clouds while the next is being made.
const DEFAULT_VOLUME: u64 = 128 << 20;
/// Of what waits in scratch.
const DEFAULT_SCRATCH: u64 = 1 << 30;
/// As long as two attempts of an archiver that has failed three times are apart, several times over.
const DEFAULT_ARCHIVE_TIMEOUT: Duration = Duration::from_mins(10);
/// A copy that went bad is found before the backups from before it have all gone.
const DEFAULT_PROOF_MAX_AGE: Duration = Duration::from_hours(30 * 24);
const DEFAULT_RPO_TARGET: Duration = Duration::from_mins(15);
const DEFAULT_RTO_TARGET: Duration = Duration::from_hours(1);
/// Less scratch would make `pg_dump` stop and go all the time, and smaller volumes would be one frame each.
const LEAST_SIZE: u64 = 1 << 20;
/// A volume is sent again as a whole or in large parts, so it must stay of a size that can be.
const LARGEST_VOLUME: u64 = 64 << 30;

/// Slower than 64 KiB/s a part of an upload would outlast its time limit.
const LEAST_RATE: u64 = 64 << 10;
const LARGEST_RATE: u64 = 64 << 30;

const READ_ORDER: [StoreName; 3] = [StoreName::R2, StoreName::B2, StoreName::Local];

/// Reads and checks all settings; see [`Settings::load`].
pub(super) fn settings(inputs: &Inputs) -> Result<Settings, Fault> {
    let mut faults = Faults::default();
    let env_file = env_file::locate(inputs)?;
    let file = match &env_file {
        // Without the file most of the rest would look wrong, so this fault stands alone.
        Some(path) => Some((path.as_path(), env_file::read(path, &mut faults)?)),
        None => None,
    };
    let values = Values::merge(inputs, file, &mut faults);
    let home = inputs.home.as_deref();
    let mut directory = |name| {
        let value = values.get(name)?;
        faults.keep(paths::absolute(value, home))
    };

    let state_dir = directory("BACKUP_STATE_DIR").unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
    let local_dir = directory("BACKUP_LOCAL_DIR");
    let scratch_dir = directory("BACKUP_SCRATCH_DIR").unwrap_or_else(|| state_dir.join("scratch"));
    let pg_bindir = directory("BACKUP_PG_BINDIR");
    let data_directory = directory("PGDATA");
    if let Some(value) = values.get("BACKUP_LOCAL_DIR")
        && local_dir.as_deref().is_some_and(|local| paths::overlap(local, &scratch_dir))
    {
        let shown = scratch_dir.display();
        faults.add(value.fault(format_args!("the store and the scratch directory {shown} overlap")).hint(
            "Choose a directory that neither holds the other nor lies in it, because scratch is emptied.",
        ));
    }

    let cluster = values.get("BACKUP_CLUSTER").map_or_else(|| DEFAULT_CLUSTER.parse(), Value::parse);
    let cluster: Option<ClusterName> = faults.keep(cluster);
    let keys = faults.keep(keys::read(&values, &inputs.current_dir));
    let key_file = values.get("BACKUP_ENCRYPTION_KEY_FILE");
    let key_file = key_file.map(|value| inputs.current_dir.join(value.text.as_str()));
    let compression = values.get("BACKUP_COMPRESSION").and_then(|value| faults.keep(value.parse()));
    let wal_compression = values.get("BACKUP_WAL_COMPRESSION").and_then(|value| faults.keep(value.parse()));
    let jobs = values.get("BACKUP_JOBS").and_then(|value| faults.keep(value.number(1, 64)));
    let clouds = clouds::read(&values, &mut faults);
    let read_order = read_order(&values, local_dir.as_deref(), &clouds, &mut faults);
    let rate_limit = size(&values, "BACKUP_RATE_LIMIT", (LEAST_RATE, LARGEST_RATE), &mut faults);
    let min_copies = min_copies(&values, read_order.len(), &mut faults);
    let scratch_limit = size(&values, "BACKUP_SCRATCH_LIMIT", (LEAST_SIZE, u64::MAX), &mut faults);
    let volume_bytes = size(&values, "BACKUP_VOLUME_SIZE", (LEAST_SIZE, LARGEST_VOLUME), &mut faults);
    let archive_timeout = duration(&values, "BACKUP_ARCHIVE_TIMEOUT", &mut faults);
    let rpo_target = duration(&values, "RPO_TARGET", &mut faults);
    let verify_budget = size(&values, "BACKUP_VERIFY_BUDGET", (0, u64::MAX), &mut faults);
    let proof_max_age = duration(&values, "BACKUP_PROOF_MAX_AGE", &mut faults);
    let tenancy = tenants::tenancy(&values, &mut faults);
    let rto_target = duration(&values, "RTO_TARGET", &mut faults);
    let retention = retention::read(&values, &mut faults);
    let alerts = alerts::read(&values, &mut faults);
    let tenants = tenants::read(&values, &mut faults);
    let questions = questions::read(&values, &mut faults);
    let config_paths = paths::absolute_list(&values, "BACKUP_CONFIG_PATHS", home, &mut faults);
    let postgres = postgres::read(&values, &inputs.current_dir, &mut faults);

    faults.into_result()?;
    let cluster = cluster.ok_or_else(|| Fault::new(Kind::Bug, "settings without a cluster's name"))?;
    Ok(Settings {
        cluster,
        state_dir,
        key_fault: keys.as_ref().and_then(|keys| keys.as_ref().err().cloned()),
        keys: keys.and_then(Result::ok).unwrap_or_default(),
        local_dir,
        clouds,
        read_order,
        rate_limit,
        min_copies,
        compression: compression.unwrap_or(DEFAULT_COMPRESSION),
        wal_compression: wal_compression.unwrap_or(DEFAULT_WAL_COMPRESSION),
        jobs: jobs.map_or(DEFAULT_JOBS, |jobs| jobs as usize),
        scratch_dir,
        scratch_limit: scratch_limit.unwrap_or(DEFAULT_SCRATCH),
        volume_bytes: volume_bytes.unwrap_or(DEFAULT_VOLUME),
        pg_bindir,
        data_directory,
        archive_timeout: archive_timeout.unwrap_or(DEFAULT_ARCHIVE_TIMEOUT),
        verify_budget,
        proof_max_age: proof_max_age.unwrap_or(DEFAULT_PROOF_MAX_AGE),
        retention,
        tenants,
        tenancy,
        questions,
        config_paths,
        admins: values.get("PGKEEP_ADMINS").map(admins).unwrap_or_default(),
        alerts,
        rpo_target: rpo_target.unwrap_or(DEFAULT_RPO_TARGET),
        rto_target: rto_target.unwrap_or(DEFAULT_RTO_TARGET),
        postgres,
        home: inputs.home.clone(),
        search_path: inputs.variable("PATH").map(ToOwned::to_owned),
        variables: values.variables(),
        key_file,
        env_file,
    })
}

/// Names with commas between them. A value without any name admits nobody, and not everybody.
fn admins(value: &Value) -> Vec<String> {
    value.text.split(',').map(|name| name.trim().to_owned()).collect()
}

/// The configured stores in the order of the setting; those that it does not name come last.
fn read_order(
    values: &Values,
    local_dir: Option<&Path>,
    clouds: &[Cloud],
    faults: &mut Faults,
) -> Vec<StoreName> {
    let mut order: Vec<StoreName> = Vec::new();
    if let Some(value) = values.get("BACKUP_READ_ORDER") {
        for word in value.text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match READ_ORDER.into_iter().find(|store| store.as_str() == word) {
                Some(store) if !order.contains(&store) => order.push(store),
                Some(_) => faults.add(value.fault(format_args!("names {word} twice"))),
                None => faults.add(
                    value
                        .fault(format_args!("\"{word}\" is not a store"))
                        .hint("The stores are r2, b2 and local, separated by commas."),
                ),
            }
        }
    }
    for store in READ_ORDER {
        if !order.contains(&store) {
            order.push(store);
        }
    }
    order.retain(|store| match store {
        StoreName::Local => local_dir.is_some(),
        StoreName::R2 | StoreName::B2 => clouds.iter().any(|cloud| cloud.name == *store),
    });
    order
}

/// How many copies make a backup count. That no store is set at all is not said here: not every command needs one.
fn min_copies(values: &Values, stores: usize, faults: &mut Faults) -> usize {
    let default = stores.clamp(1, 2);
    let Some(value) = values.get("BACKUP_MIN_COPIES") else { return default };
    let Some(copies) = faults.keep(value.number(1, 3)) else { return default };
    let copies = copies as usize;
    if stores > 0 && copies > stores {
        let set = if stores == 1 { "one store is".to_owned() } else { format!("{stores} stores are") };
        faults.add(
            value
                .fault(format_args!("{copies} copies cannot be had, {set} set"))
                .hint(format!("Set at most {stores}, or configure more stores.")),
        );
    }
    copies
}

/// Reads a duration.
pub(super) fn duration(values: &Values, name: &'static str, faults: &mut Faults) -> Option<Duration> {
    let value = values.get(name)?;
    let duration = parse_duration(&value.text);
    if duration.is_none() {
        let what = format!("\"{}\" is not a duration", *value.text);
        faults.add(value.fault(what).hint("Write a whole number with s, m, h or d, such as 15m."));
    }
    duration
}

/// Reads a size within these bounds.
fn size(values: &Values, name: &'static str, (least, most): (u64, u64), faults: &mut Faults) -> Option<u64> {
    let value = values.get(name)?;
    let size = parse_size(&value.text).filter(|size| (least..=most).contains(size));
    if size.is_none() {
        let bounds = match (least, most) {
            (LEAST_RATE, _) => "from 64K to 64G",
            (0, _) => "",
            (_, u64::MAX) => "of at least 1M",
            _ => "from 1M to 64G",
        };
        let what = format!("\"{}\" is not a size {bounds}", *value.text);
        let what = what.trim_end();
        faults.add(value.fault(what).hint("Write bytes, or a whole number with K, M, G or T, such as 2G."));
    }
    size
}
