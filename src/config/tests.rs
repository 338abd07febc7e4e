//! Settings as a whole: where they come from, what is refused, what is shown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Inputs, Settings, SmtpTls, Source, documented};
use crate::model::{Channel, Codec, Fault, Kind, SslMode, StoreName};

const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const OTHER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A directory of its own, in which nothing is set.
fn place() -> (TempDir, Inputs) {
    let place = tempfile::tempdir().unwrap();
    let inputs = Inputs {
        env_file: None,
        environment: Vec::new(),
        current_dir: place.path().to_owned(),
        home: Some(PathBuf::from("/home/ada")),
        system_env_file: place.path().join("etc/pgkeep.env"),
    };
    (place, inputs)
}

fn with(environment: &[(&str, &str)]) -> Result<Settings, Fault> {
    let (_place, mut inputs) = place();
    inputs.environment = pairs(environment);
    Settings::load(&inputs)
}

fn pairs(environment: &[(&str, &str)]) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    environment.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn hint(fault: &Fault) -> &str {
    fault.hint.as_deref().unwrap_or_default()
}

#[test]
fn nothing_set_gives_the_documented_defaults() {
    let settings = with(&[]).unwrap();
    assert_eq!(settings.cluster.as_str(), "main");
    assert_eq!(settings.state_dir, Path::new("/var/lib/pgkeep"));
    assert_eq!(settings.scratch_dir, Path::new("/var/lib/pgkeep/scratch"));
    assert_eq!((settings.scratch_limit, settings.volume_bytes), (1 << 30, 128 << 20));
    assert_eq!((settings.jobs, settings.min_copies), (4, 1));
    assert_eq!(settings.compression, super::DEFAULT_COMPRESSION);
    assert_eq!(settings.postgres.sslmode, SslMode::Prefer);
    assert!(settings.variables.is_empty() && settings.env_file.is_none());
}

#[test]
fn a_command_that_needs_a_key_or_a_store_is_told_what_to_do() {
    let settings = with(&[]).unwrap();
    let fault = settings.keys().unwrap_err();
    assert_eq!((fault.kind, fault.message.as_str()), (Kind::Key, "no encryption key is set"));
    assert!(hint(&fault).contains("pgkeep key new") && hint(&fault).contains("outside of this machine"));
    let fault = settings.require_store().unwrap_err();
    assert_eq!(fault.kind, Kind::Settings);
    assert!(hint(&fault).contains("BACKUP_LOCAL_DIR"));
}

/// Every documented variable with a value that differs from its default.
const ALL_SET: &[(&str, &str)] = &[
    ("BACKUP_CLUSTER", "blue"),
    ("BACKUP_STATE_DIR", "/state"),
    ("BACKUP_ENCRYPTION_KEY", KEY),
    ("BACKUP_LOCAL_DIR", "/store"),
    ("R2_BUCKET", "keep"),
    ("R2_ACCESS_KEY", "r2-key"),
    ("R2_SECRET_KEY", "hunter2"),
    ("R2_ACCOUNT_ID", "0123abc"),
    ("R2_ENDPOINT", "https://r2.example.com/"),
    ("R2_REGION", "garage"),
    ("B2_BUCKET_NAME", "keep-too"),
    ("B2_KEY_ID", "b2-key"),
    ("B2_APPLICATION_KEY", "hunter2"),
    ("B2_REGION", "us-west-004"),
    ("B2_ENDPOINT", "http://127.0.0.1:9000"),
    ("B2_BUCKET_ID", "e73ede9969c64427a54"),
    ("BACKUP_READ_ORDER", "b2,local"),
    ("BACKUP_RATE_LIMIT", "10M"),
    ("BACKUP_MIN_COPIES", "1"),
    ("BACKUP_COMPRESSION", "gzip:9"),
    ("BACKUP_WAL_COMPRESSION", "zstd:2"),
    ("BACKUP_VOLUME_SIZE", "64M"),
    ("BACKUP_JOBS", "64"),
    ("BACKUP_SCRATCH_DIR", "/scratch"),
    ("BACKUP_SCRATCH_LIMIT", "2G"),
    ("BACKUP_CONFIG_PATHS", "/etc/ssl/shop"),
    ("BACKUP_PG_BINDIR", "/usr/lib/postgresql/15/bin"),
    ("BACKUP_ARCHIVE_TIMEOUT", "90s"),
    ("BACKUP_VERIFY_BUDGET", "3G"),
    ("BACKUP_PROOF_MAX_AGE", "14d"),
    ("BACKUP_RETENTION_DAYS", "30"),
    ("BACKUP_KEEP_MIN", "3"),
    ("BACKUP_KEEP_DAILY", "7"),
    ("BACKUP_KEEP_WEEKLY", "4"),
    ("BACKUP_KEEP_MONTHLY", "12"),
    ("BACKUP_KEEP_YEARLY", "5"),
    ("TENANT_MODE", "row"),
    ("TENANT_COLUMN", "customer"),
    ("TENANT_TABLE", "app.customers"),
    ("TENANT_TABLES", "plans=shared, notes=via:notes_user_fkey"),
    ("PGKEEP_ADMINS", "ada"),
    ("TEST_RESTORE_TABLES", "customers, other:sales.orders"),
    ("TEST_RESTORE_SQL", "SELECT true; other: SELECT true"),
    ("RPO_TARGET", "5m"),
    ("RTO_TARGET", "2h"),
    ("ALERT_CRITICAL", "email,sms"),
    ("ALERT_WARNING", "webhook"),
    ("ALERT_QUIET_HOURS", "22:00-07:00"),
    ("ALERT_REPEAT", "6h"),
    ("ALERT_BACKUP_AGE", "2d"),
    ("ALERT_BACKUP_DURATION", "90m"),
    ("ALERT_SIZE_CHANGE", "30"),
    ("ALERT_STORAGE", "90"),
    ("ALERT_ARCHIVER_BACKLOG", "32"),
    ("BACKUP_R2_QUOTA", "500G"),
    ("BACKUP_B2_QUOTA", "1T"),
    ("ALERT_EMAIL_TO", "ada@example.com, bob@example.com"),
    ("ALERT_EMAIL_FROM", "pgkeep@example.com"),
    ("SMTP_HOST", "mail.example.com"),
    ("SMTP_PORT", "2525"),
    ("SMTP_TLS", "tls"),
    ("SMTP_USER", "pgkeep"),
    ("SMTP_PASSWORD", "hunter2"),
    ("ALERT_SMS_TO", "+4916"),
    ("TWILIO_ACCOUNT_SID", "AC1"),
    ("TWILIO_AUTH_TOKEN", "hunter2"),
    ("TWILIO_FROM", "+4915"),
    ("TWILIO_BASE_URL", "https://sms.example.com"),
    ("WEBHOOK_URL", "https://example.com/hunter2"),
    ("WEBHOOK_SECRET", "hunter2"),
    ("PGDATA", "/data"),
    ("PGHOST", "/run/postgresql"),
    ("PGPORT", "5433"),
    ("PGUSER", "backup"),
    ("PGDATABASE", "shop"),
    ("PGPASSWORD", "hunter2"),
    ("PGPASSFILE", "pass"),
    ("PGSSLMODE", "verify-full"),
    ("PGSSLROOTCERT", "system"),
    ("PGSSLCERT", "/tls/cert"),
    ("PGSSLKEY", "/tls/key"),
    ("PGCONNECT_TIMEOUT", "3"),
    ("PGOPTIONS", "-c geqo=off"),
    ("PGAPPNAME", "x"),
];

#[test]
fn every_documented_setting_is_read() {
    let (_place, mut inputs) = place();
    inputs.environment = pairs(ALL_SET);
    let settings = Settings::load(&inputs).unwrap();
    assert_eq!(settings.cluster.as_str(), "blue");
    assert_eq!(settings.state_dir, Path::new("/state"));
    assert_eq!(settings.keys().unwrap()[0].expose(), KEY);
    assert_eq!(settings.local_dir.as_deref(), Some(Path::new("/store")));
    assert_eq!(settings.stores(), [StoreName::B2, StoreName::Local, StoreName::R2]);
    assert_eq!(settings.rate_limit, Some(10 << 20));
    let [r2, b2] = &settings.clouds[..] else { panic!("two clouds") };
    assert_eq!(
        (r2.name, r2.endpoint.as_str(), r2.region.as_str()),
        (StoreName::R2, "https://r2.example.com", "garage")
    );
    assert_eq!((r2.bucket.as_str(), r2.access_key.as_str(), r2.keeps_versions), ("keep", "r2-key", false));
    assert_eq!((b2.endpoint.as_str(), b2.region.as_str()), ("http://127.0.0.1:9000", "us-west-004"));
    assert_eq!(
        (b2.bucket.as_str(), b2.secret_key.expose(), b2.keeps_versions),
        ("keep-too", "hunter2", true)
    );
    assert_eq!((settings.jobs, settings.compression), (64, Codec::Gzip(9)));
    assert_eq!((settings.scratch_dir.as_path(), settings.scratch_limit), (Path::new("/scratch"), 2 << 30));
    assert_eq!(settings.volume_bytes, 64 << 20);
    assert_eq!(settings.pg_bindir.as_deref(), Some(Path::new("/usr/lib/postgresql/15/bin")));
    assert_eq!(settings.wal_compression, Codec::Zstd(2));
    let tables: Vec<_> =
        settings.questions.tables.iter().map(|it| (it.database.as_deref(), &*it.text)).collect();
    assert_eq!(tables, [(None, "customers"), (Some("other"), "sales.orders")]);
    assert_eq!((settings.questions.queries.len(), &settings.questions.file), (2, &None));
    assert_eq!((settings.archive_timeout.as_secs(), settings.rpo_target.as_secs()), (90, 300));
    assert_eq!((settings.verify_budget, settings.proof_max_age.as_secs()), (Some(3 << 30), 14 * 86_400));
    let alerts = &settings.alerts;
    assert_eq!(
        (&*alerts.critical, &*alerts.warning),
        (&[Channel::Email, Channel::Sms][..], &[Channel::Webhook][..])
    );
    assert_eq!((alerts.repeat.as_secs(), alerts.backup_age.as_secs(), alerts.backlog), (21_600, 172_800, 32));
    assert_eq!((alerts.size_percent, alerts.storage_percent), (30, 90));
    assert_eq!(alerts.quotas, [(StoreName::R2, 500 << 30), (StoreName::B2, 1 << 40)]);
    let email = alerts.email.as_ref().unwrap();
    assert_eq!((email.port, email.tls, email.to.len()), (2525, SmtpTls::Tls, 2));
    assert_eq!(alerts.sms.as_ref().unwrap().base_url, "https://sms.example.com");
    let tenants = &settings.tenants;
    assert_eq!((tenants.column.as_str(), tenants.table.as_deref()), ("customer", Some("app.customers")));
    assert_eq!(tenants.tables.len(), 2);
    assert_eq!(settings.data_directory.as_deref(), Some(Path::new("/data")));
    let postgres = &settings.postgres;
    assert_eq!((postgres.host.as_deref(), postgres.port), (Some("/run/postgresql"), Some(5433)));
    assert_eq!((postgres.user.as_deref(), postgres.database.as_deref()), (Some("backup"), Some("shop")));
    assert_eq!(postgres.password.as_deref(), Some("hunter2"));
    assert_eq!(postgres.passfile, Some(inputs.current_dir.join("pass")));
    assert_eq!(postgres.sslmode, SslMode::VerifyFull);
    assert_eq!(postgres.sslrootcert.as_deref(), Some(Path::new("system")));
    assert_eq!(postgres.sslcert.as_deref(), Some(Path::new("/tls/cert")));
    assert_eq!(postgres.sslkey.as_deref(), Some(Path::new("/tls/key")));
    assert_eq!((postgres.connect_timeout, postgres.options.as_deref()), (Some(3), Some("-c geqo=off")));

    // The one that is left out, because it excludes another, has a test of its own.
    let mut set: Vec<&str> = settings.variables.iter().map(|variable| variable.name).collect();
    set.insert(3, "BACKUP_ENCRYPTION_KEY_FILE");
    // Those that are for tenants that share nothing, too.
    let mode = set.iter().position(|name| *name == "TENANT_MODE").unwrap();
    set.splice(mode + 1..=mode, ["TENANT_PATTERN", "TENANT_QUERY"]);
    let all: Vec<&str> = documented().iter().map(|setting| setting.name).collect();
    assert_eq!(set, all);
}

#[test]
fn no_secret_is_ever_shown() {
    let (_place, mut inputs) = place();
    inputs.environment = pairs(ALL_SET);
    let settings = Settings::load(&inputs).unwrap();
    let shown = format!("{settings:?} {inputs:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(KEY), "{shown}");
    assert!(shown.contains("[redacted]"));
}

#[test]
fn the_environment_wins_over_the_file_and_empty_counts_as_not_set() {
    let (place, mut inputs) = place();
    let path = place.path().join("pgkeep.env");
    write(&path, "# mine\nBACKUP_JOBS=2\nBACKUP_CLUSTER=file\nPGPASSWORD='a$b'\n", 0o600);
    inputs.environment = pairs(&[
        ("BACKUP_CLUSTER", "environment"),
        ("BACKUP_JOBS", ""),
        ("PGSERVICE", ""),
        ("R2_BUCKET", ""),
    ]);
    let settings = Settings::load(&inputs).unwrap();
    assert_eq!(settings.cluster.as_str(), "environment");
    assert_eq!(settings.jobs, 2);
    assert_eq!(settings.postgres.password.as_deref(), Some("a$b"));
    assert_eq!(settings.env_file.as_deref(), Some(path.as_path()));
    let sources: Vec<_> = settings.variables.iter().map(|v| (v.name, v.shown.as_str(), &v.source)).collect();
    let line = |line| Source::File { path: path.clone(), line };
    assert_eq!(
        sources,
        [
            ("BACKUP_CLUSTER", "environment", &Source::Environment),
            ("BACKUP_JOBS", "2", &line(2)),
            ("PGPASSWORD", "[redacted]", &line(4)),
        ]
    );
}

#[test]
fn the_env_file_is_looked_for_in_four_places_in_order() {
    let (place, mut inputs) = place();
    let cluster = |inputs: &Inputs| Settings::load(inputs).unwrap().cluster.to_string();
    assert_eq!(cluster(&inputs), "main");
    write(&inputs.system_env_file, "BACKUP_CLUSTER=system", 0o600);
    assert_eq!(cluster(&inputs), "system");
    write(&place.path().join("pgkeep.env"), "BACKUP_CLUSTER=beside", 0o400);
    assert_eq!(cluster(&inputs), "beside");
    write(&place.path().join("variable.env"), "BACKUP_CLUSTER=variable", 0o600);
    inputs.environment = pairs(&[("PGKEEP_ENV_FILE", "variable.env")]);
    assert_eq!(cluster(&inputs), "variable");
    write(&place.path().join("option.env"), "BACKUP_CLUSTER=option", 0o600);
    inputs.env_file = Some(PathBuf::from("option.env"));
    assert_eq!(cluster(&inputs), "option");
    inputs.env_file = Some(PathBuf::from("/dev/null"));
    assert_eq!(cluster(&inputs), "main");
}

#[test]
fn a_named_env_file_must_exist() {
    let (_place, mut inputs) = place();
    inputs.environment = pairs(&[("PGKEEP_ENV_FILE", "/nowhere/a.env")]);
    let fault = Settings::load(&inputs).unwrap_err();
    assert_eq!(fault.message, "there is no file /nowhere/a.env, named by PGKEEP_ENV_FILE");
    inputs.env_file = Some(PathBuf::from("/nowhere/b.env"));
    let fault = Settings::load(&inputs).unwrap_err();
    assert_eq!(fault.message, "there is no file /nowhere/b.env, named by --env-file");
}

#[test]
fn an_env_file_that_others_can_read_is_refused() {
    let (place, inputs) = place();
    let path = place.path().join("pgkeep.env");
    for mode in [0o640, 0o604, 0o620, 0o666] {
        write(&path, "BACKUP_CLUSTER=hunter2", mode);
        let fault = Settings::load(&inputs).unwrap_err();
        assert_eq!(fault.kind, Kind::Settings);
        assert_eq!(fault.message, format!("{} is open to other users", path.display()));
        assert!(hint(&fault).contains(&format!("chmod 600 {}", path.display())));
    }
}

#[test]
fn all_faults_are_reported_at_once_by_name_and_place() {
    let (place, mut inputs) = place();
    let path = place.path().join("pgkeep.env");
    write(&path, "BACKUP_JOBS=many\nBACKUP_LOCL_DIR=/x\nnonsense\nPGPORT=0\n", 0o600);
    inputs.environment = pairs(&[
        ("BACKUP_CLUSTER", "Main"),
        ("BACKUP_STATE_DIR", "state"),
        ("BACKUP_LOCAL_DIR", "~/backups"),
        ("BACKUP_MIN_COPIES", "0"),
        ("BACKUP_COMPRESSION", "lz4"),
        ("BACKUP_SCRATCH_LIMIT", "1K"),
        ("BACKUP_ENCRYPTION_KEY", "hunter2"),
        ("PGSSLMODE", "yes"),
        ("PGSERVICE", "prod"),
        ("PGHOST", "a,b"),
        ("R2_BUCKET", "b"),
    ]);
    let fault = Settings::load(&inputs).unwrap_err();
    assert_eq!(fault.kind, Kind::Settings);
    let message = fault.message.replace(&path.display().to_string(), "pgkeep.env");
    assert!(!message.contains("hunter2"), "{message}");
    insta::assert_snapshot!(message);
}

#[test]
fn a_single_fault_stands_alone_with_its_own_hint() {
    let fault = with(&[("BACKUP_JOB", "4")]).unwrap_err();
    assert_eq!(fault.message, "BACKUP_JOB (environment): is not a setting of this version of pgkeep");
    assert_eq!(hint(&fault), "Did you mean BACKUP_JOBS?");
    let fault = with(&[("B2_KEY_ID", "hunter2")]).unwrap_err();
    assert_eq!(
        fault.message,
        "B2_KEY_ID (environment): the store b2 also needs B2_BUCKET_NAME, B2_APPLICATION_KEY, B2_REGION or B2_ENDPOINT"
    );
    let fault = with(&[("R2_BUKET", "b")]).unwrap_err();
    assert_eq!(hint(&fault), "Did you mean R2_BUCKET?");
}

/// A whole cloud, with its endpoint.
fn r2(endpoint: &str) -> [(&'static str, String); 4] {
    [
        ("R2_BUCKET", "b".to_owned()),
        ("R2_ACCESS_KEY", "a".to_owned()),
        ("R2_SECRET_KEY", "s".to_owned()),
        ("R2_ENDPOINT", endpoint.to_owned()),
    ]
}

#[test]
fn an_address_of_a_cloud_is_a_host_and_without_tls_only_on_this_machine() {
    let load = |endpoint: &str| {
        let set = r2(endpoint);
        with(&set.each_ref().map(|(name, value)| (*name, value.as_str())))
    };
    for fine in ["https://x.example", "https://x.example:9000/", "http://localhost:1", "http://[::1]:9000"] {
        assert_eq!(load(fine).unwrap().clouds[0].endpoint, fine.trim_end_matches('/'));
    }
    for wrong in
        ["x.example", "ftp://x.example", "https://", "https://x.example/bucket", "https://u:p@x.example"]
    {
        assert!(load(wrong).unwrap_err().message.contains("is not the address of a service"), "{wrong}");
    }
    for plain in ["http://x.example", "http://10.0.0.1:9000", "http://localhost.example"] {
        assert!(load(plain).unwrap_err().message.contains("without TLS"), "{plain}");
    }
}

#[test]
fn the_address_and_region_of_a_cloud_follow_from_account_or_region() {
    let settings = with(&[
        ("R2_BUCKET", "b"),
        ("R2_ACCESS_KEY", "a"),
        ("R2_SECRET_KEY", "s"),
        ("R2_ACCOUNT_ID", "0123abc"),
        ("B2_BUCKET_NAME", "b"),
        ("B2_KEY_ID", "a"),
        ("B2_APPLICATION_KEY", "s"),
        ("B2_REGION", "eu-central-003"),
    ])
    .unwrap();
    let [r2, b2] = &settings.clouds[..] else { panic!("two clouds") };
    assert_eq!(
        (r2.endpoint.as_str(), r2.region.as_str()),
        ("https://0123abc.r2.cloudflarestorage.com", "auto")
    );
    assert_eq!(b2.endpoint, "https://s3.eu-central-003.backblazeb2.com");
    assert_eq!(b2.region, "eu-central-003");
    assert_eq!(settings.min_copies, 2);
    assert_eq!(settings.read_order, [StoreName::R2, StoreName::B2]);
}

#[test]
fn a_read_order_names_stores_once() {
    for (order, what) in [("r2,r2", "names r2 twice"), ("r2,s3", "\"s3\" is not a store")] {
        let fault = with(&[("BACKUP_READ_ORDER", order)]).unwrap_err();
        assert!(fault.message.contains(what), "{}", fault.message);
    }
}

#[test]
fn more_copies_than_stores_cannot_be_had() {
    let fault = with(&[("BACKUP_LOCAL_DIR", "/store"), ("BACKUP_MIN_COPIES", "2")]).unwrap_err();
    assert_eq!(fault.message, "BACKUP_MIN_COPIES (environment): 2 copies cannot be had, one store is set");
}

#[test]
fn store_and_scratch_must_not_overlap() {
    for local in ["/var/lib/pgkeep", "/var/lib/pgkeep/scratch", "/var/lib/pgkeep/scratch/store"] {
        let fault = with(&[("BACKUP_LOCAL_DIR", local)]).unwrap_err();
        assert!(fault.message.contains("overlap"), "{}", fault.message);
    }
    assert!(with(&[("BACKUP_LOCAL_DIR", "/var/lib/pgkeep/store")]).is_ok());
}

#[test]
fn several_keys_keep_their_order_and_count_once() {
    let settings = with(&[("BACKUP_ENCRYPTION_KEY", &format!(" {OTHER_KEY}, {KEY},{OTHER_KEY}"))]).unwrap();
    let keys: Vec<&str> = settings.keys().unwrap().iter().map(crate::system::Secret::expose).collect();
    assert_eq!(keys, [OTHER_KEY, KEY]);
}

#[test]
fn a_malformed_key_is_a_fault_of_the_key_and_never_shown() {
    let cut = &KEY[..43];
    let standard = KEY.replace('_', "/").replace('-', "+");
    for key in [cut, &standard, "hunter2", &format!("{KEY}x")] {
        let fault = with(&[("BACKUP_ENCRYPTION_KEY", &format!("{KEY},{key}"))]).unwrap_err();
        assert_eq!(fault.kind, Kind::Key);
        assert_eq!(fault.message, "BACKUP_ENCRYPTION_KEY (environment): key 2 of 2 is not a Fernet key");
        assert!(!format!("{fault:?}").contains(key));
    }
    let fault = with(&[("BACKUP_ENCRYPTION_KEY", "x"), ("BACKUP_JOBS", "x")]).unwrap_err();
    assert_eq!(fault.kind, Kind::Settings);
}

#[test]
fn keys_come_out_of_a_private_file() {
    let (place, mut inputs) = place();
    let path = place.path().join("keys");
    inputs.environment = pairs(&[("BACKUP_ENCRYPTION_KEY_FILE", "keys")]);
    let refused = |inputs: &Inputs| {
        // Of a file that can't be had who needs a key is told.
        let fault = Settings::load(inputs).and_then(|it| it.keys().map(<[_]>::len)).unwrap_err();
        assert_eq!(fault.kind, Kind::Key);
        fault.message
    };
    assert!(refused(&inputs).contains("No such file"));
    write(&path, "\n", 0o600);
    assert!(refused(&inputs).contains("there is no key in the file"));
    write(&path, &format!("{KEY}\n{OTHER_KEY}\n"), 0o644);
    assert!(refused(&inputs).contains("is open to other users"));
    write(&path, &format!("{KEY}\r\n{OTHER_KEY}\n"), 0o600);
    assert_eq!(Settings::load(&inputs).unwrap().keys().unwrap().len(), 2);
    inputs.environment.extend(pairs(&[("BACKUP_ENCRYPTION_KEY", KEY)]));
    assert!(refused(&inputs).contains("BACKUP_ENCRYPTION_KEY is set too"));
}
