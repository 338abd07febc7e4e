//! Speed and size, as ratios measured in one run: `cargo bench` runs all sections, `cargo bench -- codecs` one.
//!
//! Sections: `codecs` (the table of levels), `pipeline` (memory to file, against zstd), `database` (whole backup and
//! restore, against `pg_dump` and `pg_restore`), `memory`, `verify` (against `openssl dgst -sha256` and a restore to
//! nowhere), `start`, `tenants` (all of them, one out of its backup, and `time`: one back in time, which can be asked for alone),
//! `catalog` (`status` and `list` over 500,000 WAL segments),
//! `cleanup` (`--dry-run` over the same), and `clouds`, of which `places`
//! (a backup to three places), `upload` (over a line of 20 ms), `quick` (`verify` over 100,000 objects) and `rebuild` (of
//! the catalog) can
//! be asked for alone; and, only when asked for, `peers`: `cluster` and `wal` against pgBackRest, `replay` against `cp`.
//! `PGKEEP_BENCH_ROWS` sets the size of the database (default 3,100,000 rows: about 1 GB on disk),
//! `PGKEEP_BENCH_UPLOAD` that of the upload (default 1,000 MB). Needs PostgreSQL, zstd and gzip. Other work on the
//! machine makes the figures worthless: what is compared runs in turns, and medians are printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_wrap
)]
#![allow(missing_docs, dead_code)]

mod big_catalog;
mod cleanup;
mod clouds;
mod codecs;
mod database;
mod measure;
mod peers;
mod pipeline;
mod server;
#[path = "../it/support/mod.rs"]
mod support;
mod tenants;
mod verify;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, name] = words.as_slice()
        && serve == server::SERVE
    {
        return server::serve(name);
    }
    let wanted: Vec<String> = words.into_iter().filter(|word| !word.starts_with('-')).collect();
    let asked = |section: &str| wanted.is_empty() || wanted.iter().any(|word| word == section);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("pgkeep {}, {cores} cores", env!("CARGO_PKG_VERSION"));
    if asked("start") {
        database::start();
    }
    if ["codecs", "pipeline", "database", "memory", "verify"].into_iter().any(asked) {
        let bench = database::Bench::new();
        if asked("codecs") {
            codecs::table(&bench);
        }
        if asked("pipeline") {
            pipeline::against_zstd(&bench);
        }
        if asked("database") {
            bench.whole();
        }
        if asked("memory") {
            bench.memory();
        }
        if asked("verify") {
            verify::against_sums(&bench);
        }
    }
    for (section, measure) in peers::SECTIONS {
        // Not without being asked: pgBackRest is not there as a rule.
        if wanted.iter().any(|word| word == section || word == "peers") {
            measure();
        }
    }
    if asked("tenants") {
        tenants::tenants();
    }
    if asked("tenants") || asked("time") {
        tenants::back_in_time();
    }
    for (section, measure) in big_catalog::SECTIONS.into_iter().chain(cleanup::SECTIONS) {
        if asked(section) {
            measure();
        }
    }
    for (section, measure) in clouds::SECTIONS {
        if asked("clouds") || wanted.iter().any(|word| word == section) {
            measure();
        }
    }
}
