//! Cluster backups and WAL against pgBackRest, and replay against `cp`: the same cluster, segments, codec and cores.
//!
//! pgBackRest is the program of that name, or the one that `PGKEEP_BENCH_PGBACKREST` names. Its work in the background
//! (asynchronous archiving) is not in the processor times of this process's children, so none is printed for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use super::measure::{Cost, children, cost, in_turns, peak_memory};
use super::support::{Cluster, Place, give, ordinary, run, set_mode};

/// A part of the benchmark, by the word that asks for it.
pub(crate) const SECTIONS: [(&str, fn()); 4] =
    [("cluster", cluster), ("restore", restore), ("wal", wal), ("replay", replay)];

/// How many segments are pushed alone, and how many wait together.
const ALONE: usize = 20;
const TOGETHER: usize = 200;

/// A cluster, a place of pgkeep's, and a repository of pgBackRest's.
struct Peers {
    cluster: Cluster,
    place: Place,
    program: PathBuf,
}

impl Peers {
    /// With about as much data as pgbench makes at this scale (15 MB each), a third of it changed.
    fn new(scale: u32) -> Self {
        let options = [
            ("archive_mode", "on"),
            ("archive_command", "/bin/true"),
            ("shared_buffers", "512MB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
            ("autovacuum", "off"),
        ];
        let cluster = Cluster::made_with(&["--data-checksums"], &options);
        let place = Place::on(&cluster);
        place.init();
        let mut pgbench = cluster.client("pgbench");
        let filled = run(pgbench.args(["-i", "-q", "-s", &scale.to_string(), "postgres"]));
        assert_eq!(filled.code, 0, "{}", filled.stderr);
        let change =
            "UPDATE pgbench_accounts SET filler = md5(aid::text) || md5((aid * 7)::text) WHERE aid % 3 = 0";
        for sql in [change, "VACUUM FULL pgbench_accounts", "CHECKPOINT"] {
            cluster.psql("postgres", sql);
        }
        let program =
            std::env::var_os("PGKEEP_BENCH_PGBACKREST").map_or_else(|| "pgbackrest".into(), PathBuf::from);
        let peers = Self { cluster, place, program };
        peers.configure();
        let version = run(ordinary(&peers.program).arg("version"));
        assert_eq!(version.code, 0, "pgBackRest is missing: apt-get install pgbackrest: {}", version.stdout);
        println!("against {}", version.stdout.trim());
        peers
    }

    fn configure(&self) {
        let path = |name: &str| {
            let path = self.place.path(name);
            fs::create_dir_all(&path).expect("make a directory");
            set_mode(&path, 0o700);
            give(&path);
            path.display().to_string()
        };
        let text = format!(
            "[global]\nrepo1-path={}\nrepo1-bundle=y\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=of the bench\n\
             log-path={}\nlock-path={}\nspool-path={}\nstart-fast=y\narchive-check=n\ncompress-type=zst\n\
             compress-level=3\nprocess-max=2\nlog-level-console=error\nlog-level-file=off\n\
             [bench]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
            path("repo"),
            path("log"),
            path("lock"),
            path("spool"),
            self.cluster.data().display(),
            self.cluster.socket_dir.display(),
        );
        self.place.put("pgbackrest.conf", text.as_bytes());
        let made = run(&mut self.theirs(&["stanza-create"]));
        assert_eq!(made.code, 0, "stanza-create: {}{}", made.stdout, made.stderr);
    }

    fn theirs(&self, arguments: &[&str]) -> Command {
        let mut command = ordinary(&self.program);
        let config = self.place.path("pgbackrest.conf");
        command.arg(format!("--config={}", config.display())).arg("--stanza=bench").args(arguments);
        command
    }

    fn archive_through_pgkeep(&self) {
        let command = format!(
            "{} --env-file {} wal-push %p",
            super::support::pgkeep_binary().display(),
            self.place.env_file().display()
        );
        self.cluster.set("archive_command", &command);
    }
}

fn print(what: &str, wanted: &str, ours: Cost, theirs: Cost) {
    println!(
        "{what}: {:.2} of the wall time ({:.2} s against {:.2} s), {:.2} of the processor time; wanted: {wanted}",
        ours.wall / theirs.wall,
        ours.wall,
        theirs.wall,
        ours.cpu / theirs.cpu,
    );
}

fn megabytes(directory: &std::path::Path) -> u64 {
    let mut sum = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let metadata = entry.metadata().expect("look at a file");
            if metadata.is_dir() { waiting.push(entry.path()) } else { sum += metadata.len() }
        }
    }
    sum / 1_000_000
}

/// The whole cluster, backed up and restored.
fn cluster() {
    println!("\n## Cluster backup and restore against pgBackRest");
    let peers = Peers::new(90);
    peers.archive_through_pgkeep();
    let place = &peers.place;
    place.set("BACKUP_COMPRESSION", "zstd:3");
    let ours = || place.command(&["-q", "backup", "cluster", "--fast", "--jobs", "2"]);
    let theirs = || peers.theirs(&["--type=full", "--no-archive-check", "backup"]);
    let costs = in_turns(5, &mut [&mut || cost(&mut theirs()), &mut || cost(&mut ours())]);
    let wanted = "at most 0.95 of the wall time, 1.0 of the processor time";
    print("backup, zstd:3, encrypted, 2 jobs", wanted, costs[1], costs[0]);
    println!("peak memory {:.0} MB (wanted: at most 100)", peak_memory(&mut ours(), "pgkeep"));
    let newest = place.backups().pop().expect("a backup");
    let mut repository: Vec<PathBuf> = fs::read_dir(place.path("repo/backup/bench"))
        .expect("list pgBackRest's backups")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().ends_with('F'))
        .collect();
    repository.sort();
    println!(
        "stored: {} MB against {} MB",
        megabytes(&newest),
        megabytes(repository.last().expect("a backup"))
    );

    restored(&peers);

    place.unset("BACKUP_COMPRESSION");
    let mut ours = || cost(&mut place.command(&["-q", "backup", "cluster", "--fast"]));
    let defaults = [
        "--type=full",
        "--no-archive-check",
        "--compress-type=gz",
        "--compress-level=6",
        "--process-max=1",
        "backup",
    ];
    let mut theirs = || cost(&mut peers.theirs(&defaults));
    let costs = in_turns(3, &mut [&mut theirs, &mut ours]);
    print("backup, each with its own defaults", "at most 0.25 of the wall time", costs[1], costs[0]);
    let newest = place.backups().pop().expect("a backup");
    let mut repository: Vec<PathBuf> = fs::read_dir(place.path("repo/backup/bench"))
        .expect("list pgBackRest's backups")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().ends_with('F'))
        .collect();
    repository.sort();
    println!(
        "stored: {} MB against {} MB",
        megabytes(&newest),
        megabytes(repository.last().expect("a backup"))
    );
}

/// Restores of the newest backups, into directories that are not there.
fn restored(peers: &Peers) {
    let place = &peers.place;
    // Each turn into a directory of its own: where files were deleted a moment ago, ext4 takes long to make new ones. And
    // nobody waits for the disk to take what the other has written. In memory the last one makes room.
    let in_memory = is_in_memory(&place.path("."));
    println!("restores, onto {}", if in_memory { "a file system in memory" } else { "a disk" });
    let turns = std::cell::Cell::new(0);
    let last = std::cell::RefCell::new(PathBuf::new());
    let next = |name: &str| {
        turns.set(turns.get() + 1);
        rustix::fs::sync();
        touch_memory(3 << 30);
        let next = place.path(&format!("{name}{}", turns.get()));
        let last = last.replace(next.clone());
        if in_memory {
            drop(fs::remove_dir_all(last));
        }
        next
    };
    let mut ours = || {
        let here = next("ours").display().to_string();
        cost(&mut place.command(&["-q", "restore", "latest", "--mode", "full", "--to-dir", &here]))
    };
    let mut theirs = || {
        let there = next("theirs");
        fs::create_dir(&there).expect("make a directory");
        set_mode(&there, 0o700);
        give(&there);
        cost(&mut peers.theirs(&[&format!("--pg1-path={}", there.display()), "restore"]))
    };
    let costs = in_turns(5, &mut [&mut theirs, &mut ours]);
    print("restore of it", "at most 0.85 of the wall time", costs[1], costs[0]);
}

/// Takes so many bytes of memory, and gives them back. A virtual machine whose host has taken back what was free waits long
/// for each page: that would be most of what either tool takes.
fn touch_memory(bytes: usize) {
    const PAGE: usize = 4096;
    let mut taken = vec![0_u8; bytes];
    for page in taken.chunks_mut(PAGE) {
        page[0] = 1;
    }
    std::hint::black_box(&taken);
}

/// Whether a directory is on a tmpfs (`statfs(2)`): what a disk takes is then not in the figures.
fn is_in_memory(directory: &std::path::Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let statistics = rustix::fs::statfs(directory).expect("ask for the file system");
    statistics.f_type == TMPFS_MAGIC
}

/// The restore alone.
fn restore() {
    println!("\n## Cluster restore against pgBackRest");
    let peers = Peers::new(90);
    peers.archive_through_pgkeep();
    peers.place.set("BACKUP_COMPRESSION", "zstd:3");
    peers.place.pgkeep(&["-q", "backup", "cluster", "--fast", "--jobs", "2"]).ok();
    let made = run(&mut peers.theirs(&["--type=full", "--no-archive-check", "backup"]));
    assert_eq!(made.code, 0, "{}{}", made.stdout, made.stderr);
    restored(&peers);
}

/// Full segments of 16 MiB that nobody has archived, in a directory that looks like a data directory when asked to.
fn segments(peers: &Peers, count: usize) -> (PathBuf, Vec<String>) {
    let directory = peers.place.path("segments");
    for below in ["pg_wal/archive_status", "global"] {
        fs::create_dir_all(directory.join(below)).expect("make a directory");
    }
    let wal = peers.cluster.data().join("pg_wal");
    let mut names = Vec::new();
    for third in 0_u32.. {
        let sql =
            format!("UPDATE pgbench_accounts SET abalance = aid * {third} WHERE aid % 5 = {}", third % 5);
        peers.cluster.psql("postgres", &sql);
        let present = peers.cluster.psql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
        names = fs::read_dir(&wal)
            .expect("list pg_wal")
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| name.len() == 24 && *name < present)
            .collect();
        if names.len() >= count + 10 {
            break;
        }
    }
    names.sort();
    // The oldest may be what is left of the time before.
    let names = names.split_off(names.len() - count);
    for name in &names {
        fs::copy(wal.join(name), directory.join("pg_wal").join(name)).expect("copy a segment");
    }
    let owned =
        run(Command::new("chown").args(["-R", "--reference"]).arg(peers.cluster.data()).arg(&directory));
    assert_eq!(owned.code, 0, "{}", owned.stderr);
    (directory, names)
}

/// Forgets all archived WAL, of both.
fn forget(peers: &Peers) {
    let place = &peers.place;
    drop(fs::remove_dir_all(place.store().join("test/wal")));
    drop(fs::remove_file(place.state().join("archive/acknowledged.json")));
    for archive in fs::read_dir(place.path("repo/archive/bench")).into_iter().flatten().flatten() {
        for timeline in fs::read_dir(archive.path()).into_iter().flatten().flatten() {
            drop(fs::remove_dir_all(timeline.path()));
        }
    }
    drop(fs::remove_dir_all(place.path("spool/archive")));
}

/// Segments, one after the other and many at once.
fn wal() {
    println!(
        "\n## WAL against pgBackRest: a full segment of 16 MiB, local store, encrypted, from start to exit"
    );
    let peers = Peers::new(30);
    let (directory, names) = segments(&peers, TOGETHER);
    let place = &peers.place;
    let path = |name: &str| directory.join("pg_wal").join(name).display().to_string();
    // Nobody waits for the disk to take what was written, or deleted, before.
    let quiet = || {
        rustix::fs::sync();
        touch_memory(256 << 20);
    };
    let ours = |name: &str| {
        quiet();
        cost(&mut place.command(&["wal-push", &path(name)]))
    };
    let theirs = |name: &str| {
        quiet();
        cost(peers.theirs(&["archive-push", &path(name)]).current_dir(&directory))
    };
    let (mut push, mut again, mut default) = (Vec::new(), Vec::new(), Vec::new());
    for name in names.iter().step_by(names.len() / ALONE) {
        forget(&peers);
        place.set("BACKUP_WAL_COMPRESSION", "zstd:3");
        push.push((ours(name), theirs(name)));
        again.push((ours(name), theirs(name)));
        forget(&peers);
        place.unset("BACKUP_WAL_COMPRESSION");
        default.push((ours(name), push.last().expect("one").1));
    }
    for (what, wanted, costs) in [
        ("wal-push, zstd:3", "at most 0.65 of the wall time, 0.9 of the processor time", push),
        ("wal-push, default codec, against its zstd:3", "at most 0.45 of the wall time", default),
        ("the same segment again", "at most 0.6 of the wall time", again),
    ] {
        let ratio = |pick: fn(&Cost) -> f64| {
            let mut ratios: Vec<f64> = costs.iter().map(|(ours, theirs)| pick(ours) / pick(theirs)).collect();
            ratios.sort_by(f64::total_cmp);
            ratios[ratios.len() / 2]
        };
        let milliseconds = |of: fn(&(Cost, Cost)) -> f64| {
            let mut all: Vec<f64> = costs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2] * 1000.0
        };
        println!(
            "{what}: {:.2} of the wall time ({:.1} ms against {:.1} ms), {:.2} of the processor time ({:.1} ms against \
             {:.1} ms); wanted: {wanted}",
            ratio(|cost| cost.wall),
            milliseconds(|costs| costs.0.wall),
            milliseconds(|costs| costs.1.wall),
            ratio(|cost| cost.cpu),
            milliseconds(|costs| costs.0.cpu),
            milliseconds(|costs| costs.1.cpu),
        );
    }
    together(&peers, &directory, &names);
}

/// Many waiting segments: each tool's way of doing several at once.
fn together(peers: &Peers, directory: &std::path::Path, names: &[String]) {
    let place = &peers.place;
    let status = directory.join("pg_wal/archive_status");
    let ready = || {
        forget(peers);
        for name in names {
            let file = status.join(format!("{name}.ready"));
            fs::write(&file, "").expect("write a status");
            give(&file);
        }
        touch_memory(2 << 30);
    };
    // As the archiver does: the next file when the command for the one before has ended.
    let archive = |command: &dyn Fn(&str) -> Command| {
        let (begun, before) = (Instant::now(), children());
        for name in names {
            cost(&mut command(name));
            fs::remove_file(status.join(format!("{name}.ready"))).expect("remove a status");
        }
        let (count, took) = (names.len() as f64, begun.elapsed().as_secs_f64());
        wait_for_orphans();
        (count / took, (children() - before) / count * 1000.0)
    };
    // What goes on behind a command that has ended costs processor time, too: it becomes a child of this process.
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).expect("become the parent of orphans");
    let ours =
        |name: &str| place.command(&["wal-push", &directory.join("pg_wal").join(name).display().to_string()]);
    place.set("BACKUP_WAL_COMPRESSION", "zstd:3");
    ready();
    let (rate, zstd_3) = archive(&ours);
    println!(
        "{} waiting segments, zstd:3: {rate:.0} a second, {zstd_3:.0} ms of processor time each",
        names.len()
    );
    place.unset("BACKUP_WAL_COMPRESSION");
    ready();
    let (default, cpu) = archive(&ours);
    println!("the same with the default codec: {default:.0} a second, {cpu:.0} ms each");
    // It insists on a data directory around pg_wal.
    for file in ["PG_VERSION", "global/pg_control"] {
        fs::copy(peers.cluster.data().join(file), directory.join(file)).expect("copy a file");
        give(&directory.join(file));
    }
    ready();
    let path = format!("--pg1-path={}", directory.display());
    let (theirs, their_cpu) = archive(&|name: &str| {
        let file = format!("pg_wal/{name}");
        let mut command = peers.theirs(&["--archive-async", "--process-max=2", &path, "archive-push", &file]);
        command.current_dir(directory);
        command
    });
    println!(
        "pgBackRest's asynchronous mode, two processes, zstd:3: {theirs:.0} a second; rate with the default codec: {:.2} \
         times (wanted: at least 1.6); processor time of each at zstd:3: {:.2} of its {their_cpu:.0} ms (wanted: at most 0.9)",
        default / theirs,
        zstd_3 / their_cpu
    );
}

/// Waits until processes that outlived their parents have ended, and takes down their processor time; at most a minute.
fn wait_for_orphans() {
    for _ in 0..600 {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            // There are no children.
            Err(_) => return,
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
}

/// Replay through `wal-fetch` against `cp` from a directory of plain segments.
fn replay() {
    const SEGMENTS: u64 = 200;
    println!("\n## Replay of {SEGMENTS} segments through wal-fetch against cp (wanted: within 1.15)");
    let peers = Peers::new(20);
    let place = &peers.place;
    let plain = place.path("plain");
    fs::create_dir(&plain).expect("make a directory");
    give(&plain);
    let push = format!(
        "cp %p {}/%f && {} --env-file {} wal-push %p",
        plain.display(),
        super::support::pgkeep_binary().display(),
        place.env_file().display()
    );
    peers.cluster.set("archive_command", &push);
    let backup = run(&mut place.command(&["-q", "backup", "cluster", "--fast"]));
    assert_eq!(backup.code, 0, "{}", backup.stderr);
    let begun: u64 = position(&peers.cluster);
    let mut pgbench = peers.cluster.client("pgbench");
    pgbench.args(["-n", "-c", "4", "-t", "2000", "postgres"]);
    while position(&peers.cluster) < begun + SEGMENTS * (16 << 20) {
        let worked = run(&mut pgbench);
        assert_eq!(worked.code, 0, "{}", worked.stderr);
        peers
            .cluster
            .psql("postgres", "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 4 = 0");
    }
    let target = peers.cluster.psql("postgres", "SELECT pg_current_wal_insert_lsn()");
    peers.cluster.psql("postgres", "SELECT pg_logical_emit_message(true, 'x', 'y')");
    let last = peers.cluster.psql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
    while !plain.join(&last).exists() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let replay = |through_cp: bool| {
        let data = place.path(if through_cp { "cp" } else { "fetched" });
        drop(fs::remove_dir_all(&data));
        let arguments =
            ["-q", "restore", "latest", "--to-dir", data.to_str().unwrap(), "--target-lsn", &target];
        let restored = run(place.command(&arguments).args(["--target-action", "shutdown"]));
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        if through_cp {
            let file = data.join("postgresql.auto.conf");
            let mut text = fs::read_to_string(&file).expect("read the settings");
            text += "restore_command = 'cp ";
            text += plain.to_str().unwrap();
            text += "/%f \"%p\"'\n";
            fs::write(&file, text).expect("write the settings");
        }
        let mut server = ordinary(peers.cluster.bindir.join("postgres"));
        server.env("LC_ALL", "C.UTF-8").arg("-D").arg(&data).args(["-p", "5466"]);
        let (begun, before) = (Instant::now(), children());
        let ended = run(&mut server);
        assert!(ended.stderr.contains("recovery stopping"), "{}", ended.stderr);
        let cost = Cost { wall: begun.elapsed().as_secs_f64(), cpu: children() - before };
        drop(fs::remove_dir_all(&data));
        cost
    };
    let costs = in_turns(3, &mut [&mut || replay(true), &mut || replay(false)]);
    println!(
        "{:.2} of the wall time ({:.1} s against {:.1} s)",
        costs[1].wall / costs[0].wall,
        costs[1].wall,
        costs[0].wall
    );
}

fn position(cluster: &Cluster) -> u64 {
    let text = cluster.psql("postgres", "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn");
    text.parse().expect("a number")
}
