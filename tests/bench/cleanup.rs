//! What goes, decided over a catalog that has grown large: within half a second, in less than 100 MB.

use std::time::Instant;

use super::big_catalog::fill;
use super::measure::peak_memory;
use super::support::Place;
use super::support::s3::{Options, S3};

/// The sections, by name.
pub(crate) const SECTIONS: [(&str, fn()); 1] = [("cleanup", cleanup)];

/// An initialised place with three stores, and the clouds that must live as long.
pub(crate) fn three_places() -> (Place, [S3; 2]) {
    let place = Place::new();
    let clouds = [S3::with(Options::default()), S3::with(Options::b2())];
    for cloud in &clouds {
        let _ = cloud.bucket("keep");
    }
    let [r2, b2] = &clouds;
    for (name, value) in [
        ("R2_ENDPOINT", r2.endpoint()),
        ("R2_BUCKET", "keep".to_owned()),
        ("R2_ACCESS_KEY", r2.access_key().to_owned()),
        ("R2_SECRET_KEY", r2.secret_key()),
        ("B2_ENDPOINT", b2.endpoint()),
        ("B2_BUCKET_NAME", "keep".to_owned()),
        ("B2_KEY_ID", b2.access_key().to_owned()),
        ("B2_APPLICATION_KEY", b2.secret_key()),
    ] {
        place.set(name, &value);
    }
    place.init();
    (place, clouds)
}

/// `cleanup --dry-run` over 1,000 backups in three stores and 500,000 WAL segments in three stores.
fn cleanup() {
    let (place, _clouds) = three_places();
    fill(&place, 1000, 8, 500_000);
    // It holds 90 days: of these, ten go.
    place.set("BACKUP_RETENTION_DAYS", "80");
    // Without its key no copy of the catalog is saved in the stores, which is not what is measured.
    place.unset("BACKUP_ENCRYPTION_KEY");
    let arguments = ["--output", "json", "cleanup", "--dry-run"];
    let first = place.pgkeep(&arguments).ok().json();
    let going = first["backups"].as_array().unwrap().iter().filter(|it| it["goes"] == true).count();
    let files: u64 = first["wal"].as_array().unwrap().iter().filter_map(|it| it["files"].as_u64()).sum();
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            place.pgkeep(&arguments).ok();
            begun.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let memory = peak_memory(&mut place.command(&arguments), "pgkeep");
    println!("\n## cleanup --dry-run (1,000 backups and 500,000 WAL segments in three stores)");
    println!("| goes | median | most memory |\n|---|---|---|");
    println!("| {going} backups, {files} segments | {:.2} s | {memory:.0} MB |", times[2]);
}
