//! `pgkeep key`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;

use crate::support::{Place, cluster, ordinary, pgkeep_binary, run};

#[test]
fn a_new_key_needs_no_settings_and_is_never_the_same() {
    let new = || run(ordinary(pgkeep_binary()).args(["key", "new"])).ok();
    let (one, other) = (new(), new());
    assert_ne!(one.stdout, other.stdout);
    for run in [one, other] {
        assert_eq!(run.stderr, "");
        let key = run.stdout.strip_suffix('\n').expect("a line");
        assert_eq!(URL_SAFE.decode(key).expect("base64").len(), 32);
    }
}

#[test]
fn a_new_key_seals_and_opens_a_backup() {
    let place = Place::new();
    let report = place.pgkeep(&["--output", "json", "key", "new"]).ok().json();
    place.set("BACKUP_ENCRYPTION_KEY", report["key"].as_str().expect("a key"));
    place.init();
    let shop = cluster().fresh_shop();
    place.backup(&shop);
    place.pgkeep(&["verify", "--deep"]).ok();
}

#[test]
fn the_env_file_does_not_matter_even_when_it_is_wrong() {
    let place = Place::new();
    place.put("pgkeep.env", b"what is this\n");
    place.pgkeep(&["key", "new"]).ok();
}
