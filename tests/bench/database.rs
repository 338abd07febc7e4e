//! Whole backups and restores of the sample database against PostgreSQL's own tools, memory, and start-up.

use super::measure::{Cost, children, cost, in_turns, peak_memory};
use super::support::{Cluster, Place, ordinary, project, run};

const SAMPLE: usize = 256 * 1024 * 1024;

/// A server with the sample database `shop`, and a place for pgkeep.
pub(crate) struct Bench {
    pub(crate) place: Place,
    pub(crate) cluster: Cluster,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let cluster = Cluster::own(&[("shared_buffers", "256MB"), ("max_wal_size", "8GB")]);
        let place = Place::on(&cluster);
        place.init();
        let bench = Self { place, cluster };
        let rows =
            std::env::var("PGKEEP_BENCH_ROWS").map_or(3_100_000, |rows| rows.parse().expect("a number"));
        bench.fill("shop", rows);
        println!("database of {} bytes", bench.cluster.psql("shop", "SELECT pg_database_size('shop')"));
        bench
    }

    fn fill(&self, name: &str, rows: u64) {
        self.cluster.create_database(name);
        let script = std::fs::read(project().join("examples/sample_data.sql")).expect("read the sample data");
        let script = self.place.put("sample_data.sql", &script);
        let mut psql = self.cluster.client("psql");
        psql.args(["-Xq", "-d", name, "-v", &format!("rows={rows}"), "-f"]).arg(script);
        assert_eq!(run(&mut psql).code, 0, "fill {name}");
        self.cluster.psql(name, "CHECKPOINT");
    }

    /// What `pg_dump` writes of the database, up to a bound.
    pub(crate) fn dump_bytes(&self) -> Vec<u8> {
        let path = self.place.path("dump.sql");
        let mut pg_dump = self.cluster.client("pg_dump");
        pg_dump.args(["-d", "shop", "-f"]).arg(&path);
        assert_eq!(run(&mut pg_dump).code, 0, "dump shop");
        sample(std::fs::read(path).expect("read the dump"))
    }

    /// The files of the database as the server has them, up to a bound.
    pub(crate) fn data_directory_bytes(&self) -> Vec<u8> {
        let directory = self.cluster.psql(
            "shop",
            "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database WHERE datname = 'shop'",
        );
        let mut files: Vec<_> =
            std::fs::read_dir(directory).expect("list").map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let mut bytes = Vec::new();
        for file in files {
            bytes.extend(std::fs::read(file).expect("read a relation"));
            if bytes.len() > 2 * SAMPLE {
                break;
            }
        }
        sample(bytes)
    }

    /// What the program `gzip -9` makes of it.
    pub(crate) fn gzip_ratio(&self, name: &str, bytes: &[u8]) -> f64 {
        let path = self.place.put(&format!("{name}.corpus"), bytes);
        let mut gzip = ordinary("gzip");
        let run = run(gzip.args(["-9", "-k", "-f"]).arg(&path));
        assert_eq!(run.code, 0, "gzip: {}", run.stderr);
        let packed = path.with_extension("corpus.gz");
        bytes.len() as f64 / std::fs::metadata(packed).expect("gzip's output").len() as f64
    }

    /// A whole backup and a whole restore.
    pub(crate) fn whole(&self) {
        let zst = self.place.path("dump.zst");
        let piped = |level: u8| {
            let mut shell = ordinary("bash");
            let pg_dump = self.cluster.bindir.join("pg_dump");
            shell.env("PGHOST", &self.cluster.socket_dir).env("PGPORT", self.cluster.port.to_string());
            shell.env("PGUSER", "postgres").arg("-o").arg("pipefail").arg("-c").arg(format!(
                "'{}' -Fc -Z0 -d shop | zstd -q -f -T0 -{level} -o '{}'",
                pg_dump.display(),
                zst.display()
            ));
            cost(&mut shell)
        };
        let backup = |level: u8| {
            self.place.set("BACKUP_COMPRESSION", &format!("zstd:{level}"));
            cost(&mut self.place.command(&["-q", "backup", "database", "shop"]))
        };
        println!("\n## Whole backup against pg_dump -Fc -Z0 | zstd -T0 (wanted: at most 1.0)");
        for level in [1, 3, 5] {
            let costs = in_turns(3, &mut [&mut || piped(level), &mut || backup(level)]);
            print_ratio(&format!("zstd:{level}"), costs[1], costs[0]);
        }
        let archive = self.place.path("shop.archive");
        let mut pg_dump = self.cluster.client("pg_dump");
        assert_eq!(run(pg_dump.args(["-Fc", "-d", "shop", "-f"]).arg(&archive)).code, 0, "dump shop");
        let mut theirs = || {
            let mut pg_restore = self.cluster.client("pg_restore");
            let cost = {
                self.cluster.create_database("theirs");
                cost(pg_restore.args(["-j4", "-d", "theirs"]).arg(&archive))
            };
            self.cluster.psql("postgres", "DROP DATABASE theirs");
            cost
        };
        let mut ours = || {
            let cost = cost(&mut self.place.command(&["-q", "restore", "latest", "--to-database", "ours"]));
            self.cluster.psql("postgres", "DROP DATABASE ours");
            cost
        };
        let costs = in_turns(3, &mut [&mut theirs, &mut ours]);
        println!(
            "\n## Whole restore, rows counted, against pg_restore -j4 from a local file (wanted: at most 1.1)"
        );
        print_ratio("restore", costs[1], costs[0]);
    }

    /// Peak memory, on a small and on a large database.
    pub(crate) fn memory(&self) {
        println!("\n## Peak memory of pgkeep (wanted: below 150 MB whatever the size)");
        self.fill("small", 160_000);
        for name in ["small", "shop"] {
            let size = self.cluster.psql(name, &format!("SELECT pg_database_size('{name}') / 1000000"));
            let peak = peak_memory(&mut self.place.command(&["-q", "backup", "database", name]), "pgkeep");
            println!("backup of {size} MB: {peak:.0} MB");
            let arguments = ["-q", "restore", "latest", "--database", name, "--to-database", "again"];
            let peak = peak_memory(&mut self.place.command(&arguments), "pgkeep");
            self.cluster.psql("postgres", "DROP DATABASE again");
            println!("restore of it: {peak:.0} MB");
        }
        let peak = peak_memory(&mut self.place.command(&["-q", "verify", "--deep"]), "pgkeep");
        println!("verify --deep of both: {peak:.0} MB");
        // Each is an entry of the backup, and what is known of the entries stands in memory in the end.
        self.cluster.create_database("objects");
        let make = "SELECT count(lo_from_bytea(0, convert_to('object ' || n, 'UTF8'))) FROM generate_series(1, 300000) n";
        self.cluster.psql("objects", make);
        let peak = peak_memory(&mut self.place.command(&["-q", "backup", "database", "objects"]), "pgkeep");
        println!("backup of 300,000 large objects: {peak:.0} MB");
        let peak = peak_memory(&mut self.place.command(&["-q", "verify", "--deep", "latest"]), "pgkeep");
        println!("verify --deep of them: {peak:.0} MB");
    }
}

/// Processor time of starting: without doing anything, and with the catalog opened.
pub(crate) fn start() {
    const TIMES: usize = 100;
    println!("\n## Start, processor time (wanted: below 10 ms)");
    let cluster = Cluster::own(&[]);
    let place = Place::on(&cluster);
    place.init();
    for arguments in [&["--version"][..], &["list"]] {
        // As root, setpriv stands in front and is part of the figure.
        let mut command = place.command(arguments);
        let before = children();
        for _ in 0..TIMES {
            assert_eq!(run(&mut command).code, 0, "{arguments:?}");
        }
        println!("pgkeep {}: {:.1} ms", arguments.join(" "), (children() - before) * 1000.0 / TIMES as f64);
    }
}

fn print_ratio(what: &str, ours: Cost, theirs: Cost) {
    let (wall, cpu) = (ours.wall / theirs.wall, ours.cpu / theirs.cpu);
    println!("{what}: {wall:.2} of the wall time, {cpu:.2} of the client's processor time");
}

/// The middle of it, so that neither the beginning nor the end decides.
fn sample(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() <= SAMPLE {
        return bytes;
    }
    let from = (bytes.len() - SAMPLE) / 2;
    bytes[from..from + SAMPLE].to_vec()
}
