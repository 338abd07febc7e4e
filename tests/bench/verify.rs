//! `verify --deep` against programs that only sum up, and against a restore that writes nothing.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use pgkeep::format::keyring::Keyring;
use pgkeep::format::manifest::Manifest;
use pgkeep::model::{BackupId, Fault, Stage, StoreName};
use pgkeep::pipeline::{Discard, Fetched, RangeReader, Refusal, Unpack, unpack};
use pgkeep::system::Stop;

use super::database::Bench;
use super::measure::{Cost, cost, in_turns, own};
use super::support::{Place, ordinary};

/// Prints what reading in full costs.
pub(crate) fn against_sums(bench: &Bench) {
    let place = &bench.place;
    place.set("BACKUP_COMPRESSION", "zstd:1");
    let mut made: Vec<String> = (0..4).map(|_| place.backup("shop")).collect();
    made.sort();
    let files: Vec<_> = place
        .backups()
        .into_iter()
        .flat_map(|backup| std::fs::read_dir(backup).expect("list a backup"))
        .map(|entry| entry.expect("list a backup").path())
        .collect();
    let bytes: u64 = files.iter().map(|file| std::fs::metadata(file).expect("a file").len()).sum();
    println!("\n## verify of {} MB in {} files", bytes / 1_000_000, files.len());

    let sum = |mut command: Command| cost(command.args(&files));
    let openssl = || {
        let mut command = ordinary("openssl");
        command.args(["dgst", "-sha256"]);
        sum(command)
    };
    let without_key = || {
        let mut command = place.command(&["-q", "verify", "--deep"]);
        command.env("PGKEEP_ENV_FILE", place.path("without_key.env"));
        cost(&mut command)
    };
    let settings = place.settings();
    let lines = settings.iter().filter(|(name, _)| name != "BACKUP_ENCRYPTION_KEY");
    let lines: Vec<String> = lines.map(|(name, value)| format!("{name}='{value}'")).collect();
    place.put("without_key.env", lines.join("\n").as_bytes());
    let costs =
        in_turns(5, &mut [&mut || openssl(), &mut || sum(ordinary("sha256sum")), &mut || without_key()]);
    println!("checksum pass (verify --deep without a key), per second of one core (wanted: at least 0.8):");
    for (name, theirs) in [("openssl dgst -sha256", costs[0]), ("sha256sum", costs[1])] {
        let (wall, cpu) = (theirs.wall / costs[2].wall, theirs.cpu / costs[2].cpu);
        println!(
            "against {name}: {cpu:.2} of its speed per processor second, {wall:.2} of its speed (wall time)"
        );
    }
    println!("{:.2} s of processor time, {:.2} s", costs[2].cpu, costs[2].wall);

    let mut deep = || cost(&mut place.command(&["-q", "verify", "--deep"]));
    let mut discard = || made.iter().map(|id| restore_to_nowhere(place, id)).fold(Cost::default(), sum_of);
    let costs = in_turns(3, &mut [&mut discard, &mut deep]);
    println!("decrypt pass (verify --deep), against restores of the same without writing (wanted: about 1):");
    let (wall, cpu) = (costs[0].wall / costs[1].wall, costs[0].cpu / costs[1].cpu);
    println!("{wall:.2} of their speed (wall time), {cpu:.2} per processor second");
    println!("{:.2} s of processor time, {:.2} s", costs[1].cpu, costs[1].wall);
}

fn sum_of(one: Cost, other: Cost) -> Cost {
    Cost { wall: one.wall + other.wall, cpu: one.cpu + other.cpu }
}

/// The volumes of a backup in the local store.
struct Files(std::path::PathBuf);

#[async_trait]
impl RangeReader for Files {
    async fn read(
        &self,
        volume: &str,
        offset: u64,
        length: u64,
        _: &[StoreName],
    ) -> Result<Fetched, Vec<Refusal>> {
        use std::os::unix::fs::FileExt;
        let path = self.0.join(volume);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length as usize];
            let file = std::fs::File::open(path).expect("open a volume");
            file.read_exact_at(&mut bytes, offset).expect("read a volume");
            bytes
        });
        Ok(Fetched { bytes: read.await.expect("read a volume"), from: StoreName::Local })
    }

    fn reject(&self, volume: &str, _: StoreName, why: &Fault) {
        panic!("{volume}: {}", why.message);
    }
}

/// What every restore does before it writes: fetch, open, decompress, compare.
fn restore_to_nowhere(place: &Place, id: &str) -> Cost {
    let (begun, before) = (Instant::now(), own());
    let id: BackupId = id.parse().expect("an identifier");
    let directory = place.store().join("test/backups").join(id.as_str());
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    let keyring = Keyring::parse([key.as_str()]).expect("a key");
    let object = std::fs::read(directory.join("manifest")).expect("read a manifest");
    let manifest = Arc::new(Manifest::open(&object, &id, &keyring).expect("open a manifest"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let request = Unpack {
        entries: (0..manifest.entries.len()).collect(),
        stage: Stage::new(manifest.original_size),
        manifest,
    };
    runtime
        .block_on(unpack(request, Arc::new(Files(directory)), Discard, Stop::default()))
        .expect("unpack a backup");
    Cost { wall: begun.elapsed().as_secs_f64(), cpu: own() - before }
}
