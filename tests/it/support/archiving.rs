//! A server that archives its WAL through pgkeep, with segments of 1 MiB so that tests need not write much.

use std::time::{Duration, Instant};

use super::{Cluster, Place, pgkeep_binary};

/// Bytes of a segment.
pub(crate) const SEGMENT: u64 = 1 << 20;

/// The server and the place to which it archives.
pub(crate) struct Archiving {
    pub(crate) place: Place,
    pub(crate) cluster: Cluster,
}

impl Archiving {
    /// Starts a server with `archive_mode = on` that archives nowhere yet, and a place that is not initialised.
    pub(crate) fn new(options: &[(&str, &str)]) -> Self {
        let mut all =
            vec![("archive_mode", "on"), ("archive_command", "/bin/false"), ("max_wal_senders", "5")];
        all.extend(options);
        Self::on(Cluster::made_with(&["--wal-segsize=1"], &all))
    }

    /// The same with a server that was started otherwise.
    pub(crate) fn on(cluster: Cluster) -> Self {
        let place = Place::on(&cluster);
        Self { place, cluster }
    }

    /// Initialised, archiving.
    pub(crate) fn ready() -> Self {
        let archiving = Self::new(&[]);
        archiving.begin();
        archiving
    }

    /// Initialises and begins to archive.
    pub(crate) fn begin(&self) {
        self.place.init();
        self.archive_through("");
    }

    /// Archives through pgkeep with this in front of the command, such as a variable.
    pub(crate) fn archive_through(&self, before: &str) {
        let command = format!(
            "{before} {} --env-file '{}' wal-push %p",
            pgkeep_binary().display(),
            self.place.env_file().display()
        );
        self.cluster.set("archive_command", command.trim());
    }

    /// Ends the present segment and returns its name.
    pub(crate) fn switch(&self) -> String {
        let sql = "SELECT pg_walfile_name(pg_current_wal_insert_lsn()) FROM pg_logical_emit_message(true, 'test', 'x')";
        let name = self.cluster.psql("postgres", sql);
        self.cluster.psql("postgres", "SELECT pg_switch_wal()");
        name
    }

    /// Ends the present segment and waits until it is archived.
    pub(crate) fn archive(&self) -> String {
        let name = self.switch();
        self.wait_for(&name);
        name
    }

    /// Waits until the server has archived this file.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str) {
        let done = self.cluster.data().join(format!("pg_wal/archive_status/{name}.done"));
        let ready = done.with_extension("ready");
        let begun = Instant::now();
        while !done.exists() && (ready.exists() || self.cluster.data().join("pg_wal").join(name).exists()) {
            assert!(
                begun.elapsed() < Duration::from_secs(100),
                "{name} is not archived: {}",
                self.cluster.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fills so many segments with rows that nobody needs.
    pub(crate) fn fill_segments(&self, count: u64) {
        for _ in 0..count {
            // Random, so that it does not shrink; not transactional, so that it is cheap.
            let sql = "SELECT count(pg_logical_emit_message(false, 'test', md5(random()::text) || repeat(n::text, 100))) \
                       FROM generate_series(1, 1000) n";
            self.cluster.psql("postgres", sql);
            self.cluster.psql("postgres", "SELECT pg_switch_wal()");
        }
    }

    /// The names of the WAL files in the local store, with their digests, sorted.
    pub(crate) fn archived(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .place
            .files("store/test/wal")
            .into_iter()
            .filter_map(|path| Some(path.rsplit_once('/')?.1.to_owned()))
            .filter(|name| name.contains('-'))
            .collect();
        names.sort();
        names
    }
}
