//! The table of compression levels, and which of them is the default by the rule: the fastest that stores no more
//! than gzip level 9.

use pgkeep::config::DEFAULT_COMPRESSION;
use pgkeep::format::block;
use pgkeep::format::volume::FRAME_BYTES;
use pgkeep::model::Codec;

use super::database::Bench;
use super::measure::own;

/// Prints ratio and speed of each level on a dump and on a data directory, one core.
pub(crate) fn table(bench: &Bench) {
    let corpora = [("dump", bench.dump_bytes()), ("data directory", bench.data_directory_bytes())];
    println!("\n## Levels (one core, frames of 4 MiB; the program gzip -9 for comparison)");
    println!("| level | dump: ratio | MB per CPU second | data directory: ratio | MB per CPU second |");
    println!("|---|---|---|---|---|");
    let gzip: Vec<f64> = corpora.iter().map(|(name, bytes)| bench.gzip_ratio(name, bytes)).collect();
    println!("| gzip -9 (program) | {:.3} | | {:.3} | |", gzip[0], gzip[1]);
    let zstd = [1, 2, 3, 4, 5, 6, 7, 9, 12].map(Codec::Zstd);
    let levels = zstd.into_iter().chain([1, 6, 8, 9].map(Codec::Gzip));
    let mut fit: Vec<(Codec, f64)> = Vec::new();
    for codec in levels {
        let [dump, data] = corpora.each_ref().map(|(_, bytes)| measure(codec, bytes));
        println!("| {codec} | {:.3} | {:.0} | {:.3} | {:.0} |", dump.0, dump.1, data.0, data.1);
        if dump.0 >= gzip[0] && data.0 >= gzip[1] {
            fit.push((codec, 1.0 / (1.0 / dump.1 + 1.0 / data.1)));
        }
    }
    let fastest = fit.iter().max_by(|left, right| left.1.total_cmp(&right.1)).map(|(codec, _)| *codec);
    let fastest = fastest.map_or_else(|| "none".to_owned(), |codec| codec.to_string());
    println!(
        "fastest that stores no more than gzip -9 on both: {fastest}; the default is {DEFAULT_COMPRESSION}"
    );
}

/// Ratio, and plain MB per second of processor time.
fn measure(codec: Codec, bytes: &[u8]) -> (f64, f64) {
    let (before, mut stored, mut out) = (own(), 0, Vec::new());
    for frame in bytes.chunks(FRAME_BYTES) {
        out.clear();
        block::compress_into(codec, frame, &mut out).expect("compress");
        stored += out.len().min(frame.len());
    }
    let took = (own() - before).max(0.01);
    (bytes.len() as f64 / stored as f64, bytes.len() as f64 / 1e6 / took)
}
