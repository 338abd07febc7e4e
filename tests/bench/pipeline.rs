//! The pipeline alone, from memory to a file, with sealing and both digests, against `zstd -T0`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use pgkeep::format::volume::FRAME_BYTES;
use pgkeep::model::{BackupId, Codec, Stage};
use pgkeep::pipeline::{Buffers, Framer, PackPlan, pack};
use pgkeep::system::Stop;
use tokio::sync::mpsc;

use super::database::Bench;
use super::measure::{Cost, cost, in_turns, own};

/// Prints how fast the pipeline is as a part of what zstd reaches.
pub(crate) fn against_zstd(bench: &Bench) {
    println!("\n## Pipeline, memory to file, against zstd -T0 on the same bytes (wanted: at least 0.9)");
    let bytes = bench.data_directory_bytes();
    let input = bench.place.path("pipeline.in");
    std::fs::write(&input, &bytes).expect("write the input");
    for level in [1, 3, 5] {
        let output = bench.place.path("pipeline.zst");
        let mut zstd = || {
            let mut command = Command::new("zstd");
            cost(command.args(["-q", "-f", "-T0", &format!("-{level}")]).arg(&input).arg("-o").arg(&output))
        };
        let directory = bench.place.path("pipeline.out");
        let mut ours = || one(&bytes, Codec::Zstd(level), &directory);
        let costs = in_turns(5, &mut [&mut zstd, &mut ours]);
        let (wall, cpu) = (costs[0].wall / costs[1].wall, costs[1].cpu / costs[0].cpu);
        println!("zstd:{level}: {wall:.2} of its speed (wall time), {cpu:.2} of its processor time");
    }
}

/// Packs the bytes once.
fn one(bytes: &[u8], codec: Codec, directory: &Path) -> Cost {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir(directory).expect("make a directory");
    let (begun, before) = (Instant::now(), own());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let buffers = Buffers::default();
    let (frames_in, frames) = mpsc::channel(1);
    let (closed_in, mut closed) = mpsc::channel(1);
    let owner: BackupId = "20261122T020000Z-database-1a2b3c4d".parse().expect("an identifier");
    let plan = PackPlan {
        owner,
        codec,
        key: [7; 32],
        volume_bytes: 1 << 30,
        directories: vec![directory.to_owned()],
    };
    let framer = Framer::new(frames_in, buffers.clone());
    std::thread::scope(|scope| {
        scope.spawn(move || feed(framer, bytes));
        runtime.block_on(async {
            let stored = Arc::new(Stage::new(0));
            let packing = pack(plan, frames, closed_in, buffers, stored, Stop::default());
            let drain = async { while closed.recv().await.is_some() {} };
            let (packed, ()) = tokio::join!(packing, drain);
            packed.expect("pack");
        });
    });
    Cost { wall: begun.elapsed().as_secs_f64(), cpu: own() - before }
}

fn feed(mut framer: Framer, mut rest: &[u8]) {
    let mut entry = framer.begin("data".to_owned(), 0o600);
    while !rest.is_empty() {
        let length = rest.len().min(FRAME_BYTES);
        framer.read(&mut entry, &mut rest, length, |_| ()).expect("frame");
    }
    framer.finish(entry);
    framer.close().expect("close");
}
