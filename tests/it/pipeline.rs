//! The middle of every backup alone: it takes in no more than it can pass on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgkeep::format::volume::FRAME_BYTES;
use pgkeep::model::{BackupId, Codec, Stage};
use pgkeep::pipeline::{Buffers, Framer, PackPlan, in_flight, pack};
use pgkeep::system::Stop;
use tokio::sync::mpsc;

use crate::store_conformance::bytes;

const FRAMES: usize = 60;

fn plan(directory: &Path) -> PackPlan {
    let owner: BackupId = "20261122T020000Z-database-1a2b3c4d".parse().unwrap();
    let directories = vec![directory.to_owned()];
    PackPlan { owner, codec: Codec::Zstd(1), key: [7; 32], volume_bytes: 1 << 20, directories }
}

/// Nobody takes the volumes: the source comes to a halt after a few frames, and goes on when somebody does. All that was
/// read is in the volumes then, in its order.
#[test]
fn a_store_that_takes_nothing_halts_the_source_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let content = bytes(FRAME_BYTES);
    let fed = Arc::new(AtomicUsize::new(0));
    let buffers = Buffers::default();
    let (frames_in, frames) = mpsc::channel(in_flight());
    let (closed_in, mut closed) = mpsc::channel(1);
    let mut framer = Framer::new(frames_in, buffers.clone());
    let feeding = {
        let fed = Arc::clone(&fed);
        std::thread::spawn(move || {
            let mut entry = framer.begin("data".to_owned(), 0o600);
            for number in 0..FRAMES {
                let mut frame = content.clone();
                // So that no frame can stand for another.
                frame[..8].copy_from_slice(&(number as u64).to_le_bytes());
                framer.read(&mut entry, &mut frame.as_slice(), FRAME_BYTES, |_| ()).unwrap();
                fed.fetch_add(1, Ordering::SeqCst);
            }
            framer.finish(entry);
            framer.close().unwrap();
        })
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stored = Arc::new(Stage::new(0));
        let packing =
            tokio::spawn(pack(plan(directory.path()), frames, closed_in, buffers, stored, Stop::default()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = fed.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fed.load(Ordering::SeqCst), before, "it goes on although nobody takes the volumes");
        // Those in the channel, those that are being compressed, and those that wait to be written.
        assert!(before > 0 && before <= 4 * in_flight() + 8, "{before} frames of {FRAMES} were taken in");
        let mut volumes = Vec::new();
        while let Some(volume) = closed.recv().await {
            volumes.push(volume.name);
        }
        let packed = packing.await.unwrap().unwrap();
        assert_eq!(packed.volumes.iter().map(|volume| volume.name.clone()).collect::<Vec<_>>(), volumes);
        let places: Vec<(u32, u32)> =
            packed.extents[0].iter().map(|extent| (extent.volume, extent.frame)).collect();
        assert!(places.is_sorted(), "{places:?}");
        let length: u64 = packed.extents[0].iter().map(|extent| u64::from(extent.length)).sum();
        assert_eq!(length, (FRAMES * FRAME_BYTES) as u64);
    });
    feeding.join().unwrap();
    assert_eq!(fed.load(Ordering::SeqCst), FRAMES);
}
