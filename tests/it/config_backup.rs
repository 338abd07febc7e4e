//! `pgkeep backup config`, and its restore: requirement 6.6.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::faults::{leftovers, stopped_at};
use crate::support::{Cluster, Place, base, give, set_mode, unique};

/// A server whose files of settings lie in several places, some of them outside of the data directory.
struct Configured {
    cluster: Cluster,
    place: Place,
    outside: PathBuf,
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    set_mode(path, mode);
    give(path);
}

fn directory(path: &Path) {
    fs::create_dir(path).unwrap();
    set_mode(path, 0o755);
    give(path);
}

impl Configured {
    fn new() -> Self {
        let cluster = Cluster::own(&[]);
        let outside = base().join(format!("etc{}", unique()));
        directory(&outside);
        directory(&outside.join("conf.d"));
        write(&outside.join("conf.d/10-memory.conf"), "work_mem = '5MB'\n", 0o640);
        write(&outside.join("conf.d/README"), "not read\n", 0o644);
        write(&outside.join("conf.d/20-empty.conf"), "", 0o600);
        write(&outside.join("admins"), "postgres\n", 0o644);
        write(&outside.join("cert.pem"), "-----BEGIN\n", 0o444);
        let data = cluster.data();
        let file = data.join("postgresql.conf");
        let text = fs::read_to_string(&file).unwrap();
        let more = format!(
            "{text}\ninclude_dir = '{}'\ninclude_if_exists 'not-there.conf'\ninclude 'own.conf'\n",
            outside.join("conf.d").display()
        );
        fs::write(&file, more).unwrap();
        write(&data.join("own.conf"), "log_statement = 'ddl'\n", 0o600);
        let hba = data.join("pg_hba.conf");
        let text = fs::read_to_string(&hba).unwrap();
        let rule = format!("local all @{} trust\n", outside.join("admins").display());
        fs::write(&hba, format!("{text}{rule}")).unwrap();
        cluster.psql("postgres", "SELECT pg_reload_conf()");
        cluster.psql("postgres", "CREATE ROLE clerk LOGIN PASSWORD 'secret word' CONNECTION LIMIT 3");
        let place = Place::on(&cluster);
        place.init();
        Self { cluster, place, outside }
    }

    fn backup(&self) -> serde_json::Value {
        self.place.pgkeep(&["--output", "json", "backup", "config"]).ok().json()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn requirement_6_6_every_file_comes_back_identical_wherever_it_lay() {
    let configured = Configured::new();
    let Configured { cluster, place, outside } = &configured;
    place.set("BACKUP_CONFIG_PATHS", &format!("{0}/cert.pem, {0}/conf.d", outside.display()));
    let made = configured.backup();
    assert_eq!((&made["kind"], &made["warnings"]), (&"config".into(), &serde_json::json!([])));
    let id = made["id"].as_str().unwrap();

    let listed = place.pgkeep(&["list"]).ok().stdout;
    assert!(listed.contains(id), "{listed}");
    let shown = place.pgkeep(&["show", id]).ok().stdout;
    assert!(shown.contains("globals.sql") && shown.contains("10-memory.conf"), "{shown}");
    place.pgkeep(&["verify", "--deep"]).ok();

    let to = place.path("config");
    let plan = place.pgkeep(&["restore", id, "--to-dir", to.to_str().unwrap(), "--dry-run"]).ok().stdout;
    assert!(plan.contains("nothing was done") && !to.exists(), "{plan}");
    place.pgkeep(&["restore", id, "--to-dir", to.to_str().unwrap()]).ok();
    let data = cluster.data();
    let originals = [
        data.join("postgresql.conf"),
        data.join("postgresql.auto.conf"),
        data.join("pg_hba.conf"),
        data.join("pg_ident.conf"),
        data.join("own.conf"),
        outside.join("conf.d/10-memory.conf"),
        outside.join("conf.d/20-empty.conf"),
        outside.join("conf.d/README"),
        outside.join("admins"),
        outside.join("cert.pem"),
    ];
    for original in &originals {
        let restored = to.join("files").join(original.strip_prefix("/").unwrap());
        assert_eq!(fs::read(&restored).unwrap(), fs::read(original).unwrap(), "{}", original.display());
        assert_eq!(mode(&restored), mode(original), "{}", original.display());
    }
    assert_eq!(made["files"], originals.len() + 1);
    let globals = fs::read_to_string(to.join("globals.sql")).unwrap();
    assert!(globals.contains("ALTER ROLE clerk") && globals.contains("SCRAM-SHA-256$"), "{globals}");
    assert_eq!(mode(&to.join("globals.sql")), 0o600);
    let log = place.catalog("SELECT state, target_directory FROM restore_log");
    assert_eq!(log, [["done", to.to_str().unwrap()]]);

    // Into what is not empty nothing is written, and it is no server.
    let again = place.pgkeep(&["restore", id, "--to-dir", to.to_str().unwrap()]).fails_with(5);
    assert!(again.stderr.contains("is not empty"), "{}", again.stderr);
    let other = place.path("other");
    place.pgkeep(&["restore", id, "--to-dir", other.to_str().unwrap(), "--start"]).fails_with(2);
    // In the stores nothing of it can be read.
    for volume in place.backups() {
        let bytes = fs::read(volume.join("data.00000")).unwrap();
        assert!(!bytes.windows(5).any(|five| five == b"clerk"));
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_backed_up() {
    let configured = Configured::new();
    let Configured { cluster, place, outside } = &configured;
    if crate::support::is_root() {
        // The ordinary user who runs pgkeep may not read root's.
        let hidden = outside.join("conf.d/30-hidden.conf");
        fs::write(&hidden, "").unwrap();
        set_mode(&hidden, 0o600);
    } else {
        write(&outside.join("conf.d/30-hidden.conf"), "", 0o000);
    }
    place.set("BACKUP_CONFIG_PATHS", "/no/such/file");
    let made = place.pgkeep(&["--output", "json", "backup", "config"]).fails_with(3).json();
    let warnings = made["warnings"].to_string();
    assert!(warnings.contains("30-hidden.conf is left out: Permission denied"), "{warnings}");
    assert!(warnings.contains("/no/such/file is left out: No such file"), "{warnings}");
    assert!(made["files"].as_u64() > Some(6), "{made}");

    // Somebody who is no superuser gets no passwords, and hears of it; who may not even know the files gets nothing.
    cluster
        .psql("postgres", "CREATE ROLE reader LOGIN IN ROLE pg_read_all_settings; CREATE ROLE nobody LOGIN");
    let grant = "GRANT EXECUTE ON FUNCTION pg_control_system() TO reader, nobody";
    cluster.psql("postgres", grant);
    place.set("PGUSER", "reader");
    let made = place.pgkeep(&["--output", "json", "backup", "config"]).fails_with(3).json();
    assert!(made["warnings"].to_string().contains("without their passwords"), "{made}");
    place.set("PGUSER", "nobody");
    let refused = place.pgkeep(&["backup", "config"]).fails_with(30);
    assert!(refused.stderr.contains("where the server's files lie"), "{}", refused.stderr);

    place.set("PGUSER", "postgres");
    place.set("PGDATA", place.path("elsewhere").to_str().unwrap());
    let refused = place.pgkeep(&["backup", "config"]).fails_with(30);
    assert!(refused.stderr.contains("elsewhere"), "{}", refused.stderr);
}

#[test]
fn killed_at_any_step_it_leaves_a_whole_backup_or_none_and_the_next_run_succeeds() {
    let configured = Configured::new();
    let place = &configured.place;
    for step in
        ["BackupBegun", "ConfigGlobals", "BackupFrames", "BackupVolumesStored", "BackupManifestStored"]
    {
        let before = place.backups().len();
        let run = stopped_at(place, &["backup", "config"], step, "kill");
        assert_eq!(run.code, 137, "{step}: {}", run.stderr);
        configured.backup();
        assert_eq!(leftovers(place), [""; 0], "{step}");
        let whole = usize::from(step == "BackupManifestStored");
        assert_eq!(place.backups().len(), before + 1 + whole, "{step}");
        place.pgkeep(&["verify", "--deep"]).ok();
    }
    let id = configured.backup()["id"].as_str().unwrap().to_owned();
    let to = place.path("config");
    let restore = ["restore", &id, "--to-dir", to.to_str().unwrap()];
    for how in ["kill", "term", "fail"] {
        let run = stopped_at(place, &restore, "ConfigFilled", how);
        assert!(run.code != 0 || how == "term", "{how}: {}", run.stderr);
        if run.code != 0 {
            assert!(!to.exists(), "{how}: half a directory must not look whole");
        }
        if how != "kill" {
            assert!(!place.path("config.unfinished").exists(), "{how}");
        }
        let _ = fs::remove_dir_all(&to);
    }
    place.pgkeep(&restore).ok();
    assert!(to.join("globals.sql").exists());
    assert!(!place.path("config.unfinished").exists());
}
