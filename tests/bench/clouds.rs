//! Three places at once: what the clouds add to a backup, an upload over a long line, a listing of 100,000 objects, and
//! a catalog made anew of 1,000 backups.
//!
//! The S3 servers are processes of their own on the same machine. Their processor time is not counted, but it is taken
//! from the same cores: on a machine with two of them wall times hold it, and the processor time of pgkeep (with
//! `pg_dump`) says more.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pgkeep::format::keyring::Keyring;
use pgkeep::format::manifest::Manifest;
use pgkeep::model::StoreName;
use pgkeep::store::{Body, Part, Store};
use tokio::runtime::Runtime;

use super::database::Bench;
use super::measure::{Cost, cost, in_turns, own, peak_memory};
use super::server::Server;
use super::support::{Cluster, Place, give, many, run};

/// A part of the benchmark, by the word that asks for it.
pub(crate) const SECTIONS: [(&str, fn()); 4] =
    [("places", places), ("upload", upload), ("quick", quick), ("rebuild", rebuild)];

/// A backup to three places against one to the local store alone.
fn places() {
    let bench = Bench::new();
    let (r2, b2) = (Server::start(StoreName::R2), Server::start(StoreName::B2));
    let three = Place::on(&bench.cluster);
    r2.settings(&three);
    b2.settings(&three);
    three.init();
    println!("\n## Backup to the local store, R2 and B2 against the local store alone (wanted: at most 1.2)");
    println!("The servers of R2 and B2 run on the same cores; their processor time is not in pgkeep's.");
    for level in ["zstd:5", "zstd:1"] {
        let backup = |place: &Place| {
            place.set("BACKUP_COMPRESSION", level);
            let before = r2.cpu() + b2.cpu();
            let cost = cost(&mut place.command(&["-q", "backup", "database", "shop"]));
            (cost, r2.cpu() + b2.cpu() - before)
        };
        let mut servers = Vec::new();
        let mut everywhere = || {
            let (cost, cpu) = backup(&three);
            servers.push(cpu);
            cost
        };
        let costs = in_turns(3, &mut [&mut || backup(&bench.place).0, &mut everywhere]);
        let (alone, all) = (costs[0], costs[1]);
        servers.sort_by(f64::total_cmp);
        let middle = servers[servers.len() / 2];
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        println!(
            "{level}: {:.2} of the wall time, and {:.2} with the servers' own processor time taken off",
            all.wall / alone.wall,
            (all.wall - middle / cores) / alone.wall
        );
        println!(
            "{level}: {:.2} of the wall time ({:.1} s against {:.1} s), {:.2} of the processor time of pgkeep and \
             pg_dump ({:.1} s against {:.1} s); the servers took {:.1} s of it besides",
            all.wall / alone.wall,
            all.wall,
            alone.wall,
            all.cpu / alone.cpu,
            all.cpu,
            alone.cpu,
            middle,
        );
        let [alone, all] = [&bench.place, &three]
            .map(|place| peak_memory(&mut place.command(&["-q", "backup", "database", "shop"]), "pgkeep"));
        println!("{level}: peak memory of pgkeep {all:.0} MB, alone {alone:.0} MB (wanted: below 200)");
    }
}

/// What a line of 20 ms lets a connection carry: so many bytes may be under way until the news of their arrival is back.
const WINDOW: u32 = 1 << 20;
const LATENCY: Duration = Duration::from_millis(20);

/// As many bytes as volumes of a backup have by default.
const VOLUME: u64 = 128 << 20;

/// An upload in parts over a long line against one part after the other.
fn upload() {
    let megabytes: u64 =
        std::env::var("PGKEEP_BENCH_UPLOAD").map_or(1_000, |text| text.parse().expect("a number"));
    let size = megabytes * 1_000_000;
    let mut server = Server::start(StoreName::R2);
    server.set_link(LATENCY, WINDOW);
    let path = super::support::base().join("upload");
    fs::write(&path, random(size)).expect("write what is sent");
    let runtime = Runtime::new().expect("a runtime");
    println!(
        "\n## Upload of {megabytes} MB over a line of {} ms each way, {} KiB of a connection under way (wanted: at \
         least 3 times as fast as one part at a time)",
        LATENCY.as_millis(),
        WINDOW >> 10,
    );
    println!("One part at a time: read, summed up, sent, and only then the next.");
    let far = |name| server.far(name);
    let timed = |work: &mut dyn FnMut()| {
        let (begun, before) = (Instant::now(), own());
        work();
        Cost { wall: begun.elapsed().as_secs_f64(), cpu: own() - before }
    };
    let one = |name: StoreName| {
        let store = far(name);
        timed(&mut || runtime.block_on(one_at_a_time(&*store, &path, size)))
    };
    let parts = |name: StoreName| {
        let store = far(name);
        let body = Body::file(path.clone(), size);
        timed(&mut || runtime.block_on(store.put("bench/whole", body.clone())).expect("upload"))
    };
    // As the volumes of a backup go: each whole before the next begins.
    let volumes = |name: StoreName| {
        let store = far(name);
        timed(&mut || {
            for n in 0..size.div_ceil(VOLUME) {
                let body = Body::file(path.clone(), VOLUME.min(size - n * VOLUME));
                runtime.block_on(store.put("bench/volume", body)).expect("upload");
            }
        })
    };
    for name in [StoreName::R2, StoreName::B2] {
        let contenders: &mut [&mut dyn FnMut() -> Cost] =
            &mut [&mut || one(name), &mut || parts(name), &mut || volumes(name)];
        let costs = in_turns(3, contenders);
        let store = far(name);
        let layout = store.parts().expect("parts");
        println!(
            "as {name} (parts of {} MiB, {} under way): {:.2} times as fast ({:.1} s against {:.1} s), {:.2} of the \
             processor time; in volumes of {} MiB, one after the other: {:.2} times ({:.1} s)",
            layout.part_size(size) >> 20,
            layout.parts_at_once(),
            costs[0].wall / costs[1].wall,
            costs[1].wall,
            costs[0].wall,
            costs[1].cpu / costs[0].cpu,
            VOLUME >> 20,
            costs[0].wall / costs[2].wall,
            costs[2].wall,
        );
    }
    drop(fs::remove_file(&path));
}

async fn one_at_a_time(store: &dyn Store, path: &Path, size: u64) {
    use std::os::unix::fs::FileExt as _;
    let parts = store.parts().expect("parts");
    let (file, part_size) = (fs::File::open(path).expect("open"), parts.part_size(size));
    let upload = parts.begin_upload("bench/one").await.expect("begin");
    let mut tags = Vec::new();
    for n in 0..size.div_ceil(part_size) {
        let mut bytes = vec![0; part_size.min(size - n * part_size) as usize];
        file.read_exact_at(&mut bytes, n * part_size).expect("read");
        let part = Part::new(bytes.into());
        tags.push(parts.put_part(&upload, n as u32 + 1, &part).await.expect("send a part"));
    }
    parts.complete_upload(&upload, &tags, size).await.expect("complete");
}

/// Bytes without a pattern; which ones does not matter.
fn random(size: u64) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(size as usize + 8);
    while (bytes.len() as u64) < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size as usize);
    bytes
}

/// `verify` without options over many objects.
fn quick() {
    const BACKUPS: usize = 1_000;
    const OBJECTS: usize = 100;
    println!(
        "\n## verify, quick: {} objects in each store (wanted: a few seconds, one listing)",
        BACKUPS * OBJECTS
    );
    let cluster = Cluster::own(&[]);
    let place = Place::on(&cluster);
    let mut servers = [Server::start(StoreName::R2), Server::start(StoreName::B2)];
    for server in &servers {
        server.settings(&place);
    }
    place.init();
    many::fill_catalog(&place, BACKUPS, OBJECTS, &["local", "r2", "b2"]);
    // They are said to have been made long ago.
    place.set("BACKUP_PROOF_MAX_AGE", "10000d");
    for server in &mut servers {
        server.write_many("test", BACKUPS, OBJECTS);
    }
    for key in many::keys("test", BACKUPS, OBJECTS) {
        let path = place.store().join(key);
        let directory = path.parent().expect("a directory");
        if !directory.exists() {
            fs::create_dir_all(directory).expect("make a directory");
            give(directory);
        }
        fs::write(&path, many::CONTENT).expect("write an object");
    }
    let verify = |store: Option<&str>| {
        let mut arguments = vec!["-q", "verify"];
        arguments.extend(store.into_iter().flat_map(|store| ["--store", store]));
        cost(&mut place.command(&arguments))
    };
    let mut listed = Vec::new();
    for what in [None, Some("local"), Some("r2")] {
        let before: Vec<u64> = servers.iter_mut().map(lists).collect();
        let costs = in_turns(3, &mut [&mut || verify(what)]);
        listed.push(
            servers
                .iter_mut()
                .map(lists)
                .zip(before)
                .map(|(now, before)| (now - before) / 3)
                .collect::<Vec<_>>(),
        );
        let shown = what.map_or_else(|| "local, R2 and B2".to_owned(), |store| format!("{store} alone"));
        println!("{shown}: {:.1} s, {:.1} s of processor time", costs[0].wall, costs[0].cpu);
    }
    let catalog = fs::metadata(place.state().join("catalog.sqlite")).expect("the catalog").len();
    println!(
        "Each run saves the catalog, {} MB here, sealed in each store: that is in these times.",
        catalog / 1_000_000
    );
    println!("pages of 1,000 that R2 and B2 were asked for: {listed:?}");
}

/// How many pages of listings the server was asked for.
fn lists(server: &mut Server) -> u64 {
    server.requests()["ListObjectsV2"].as_u64().unwrap_or_default()
}

/// `catalog rebuild` from one cloud.
fn rebuild() {
    const BACKUPS: usize = 1_000;
    const SEGMENTS: usize = 100_000;
    let cluster = Cluster::own(&[]);
    let place = Place::on(&cluster);
    place.unset("BACKUP_LOCAL_DIR");
    let mut server = Server::start(StoreName::R2);
    server.settings(&place);
    place.init();
    cluster.create_database("shop");
    let script =
        fs::read(super::support::project().join("examples/sample_data.sql")).expect("read the sample data");
    let script = place.put("sample_data.sql", &script);
    let mut psql = cluster.client("psql");
    psql.args(["-Xq", "-d", "shop", "-v", "rows=1000", "-f"]).arg(script);
    assert_eq!(run(&mut psql).code, 0, "fill");
    let first = place.backup("shop");
    let bytes = multiply(&place, &mut server, &first, BACKUPS);
    server.write_wal("test", SEGMENTS);
    println!(
        "\n## catalog rebuild: {BACKUPS} backups, manifests of {bytes} bytes, and {SEGMENTS} names of WAL in one S3 \
         (wanted: below 30 s)"
    );
    let mut rebuild = || {
        drop(fs::remove_dir_all(place.state()));
        let cost = cost(&mut place.command(&["-q", "catalog", "rebuild"]));
        for (table, count) in [("backups", BACKUPS + 1), ("wal_segments", SEGMENTS)] {
            assert_eq!(place.catalog(&format!("SELECT count(*) FROM {table}"))[0][0], count.to_string());
        }
        cost
    };
    let costs = in_turns(3, &mut [&mut rebuild]);
    println!(
        "{:.1} s, {:.1} s of processor time, the new catalog saved in the store with it (the WAL's names \
         were put there by the benchmark)",
        costs[0].wall, costs[0].cpu,
    );
}

/// Makes so many backups out of one, with manifests of their own; returns the size of one.
fn multiply(place: &Place, server: &mut Server, first: &str, count: usize) -> usize {
    let runtime = Runtime::new().expect("a runtime");
    let keyring = Keyring::parse([place.setting("BACKUP_ENCRYPTION_KEY").as_str()]).expect("a key");
    let prefix = |id: &str| format!("test/backups/{id}/");
    let object = runtime.block_on(server.near().get_small(&format!("{}manifest", prefix(first))));
    let object = object.expect("read the manifest").expect("a manifest");
    let mut manifest =
        Manifest::open(&object, &first.parse().expect("an identifier"), &keyring).expect("open it");
    for number in 0..count {
        let id = many::backup_id(number);
        manifest.id = id.parse().expect("an identifier");
        manifest.backups[0] = manifest.id.clone();
        for volume in &manifest.volumes {
            server.copy(
                &format!("{}{}", prefix(first), volume.name),
                &format!("{}{}", prefix(&id), volume.name),
            );
        }
        server.write(&format!("{}manifest", prefix(&id)), &manifest.seal(&keyring, 0).expect("seal"));
    }
    object.len()
}
