//! The table of all settings: what is not in it is not a setting. The README and `--help` are held to it.

/// One setting as the documentation has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Documented {
    /// The variable's name.
    pub name: &'static str,
    /// What holds without it; empty: nothing.
    pub default: &'static str,
    /// What it means, in a few words.
    pub meaning: &'static str,
    /// Whether its value must never be shown.
    pub secret: bool,
}

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Documented {
    Documented { name, default, meaning, secret: false }
}

const fn secret(name: &'static str, default: &'static str, meaning: &'static str) -> Documented {
    Documented { name, default, meaning, secret: true }
}

const TABLE: &[Documented] = &[
    setting("BACKUP_CLUSTER", "main", "name of this cluster, first part of every object's key"),
    setting("BACKUP_STATE_DIR", "/var/lib/pgkeep", "catalog and locks"),
    secret("BACKUP_ENCRYPTION_KEY", "", "one or more Fernet keys, comma separated; the first one seals"),
    setting(
        "BACKUP_ENCRYPTION_KEY_FILE",
        "",
        "private file with the keys, one per line; instead of the above",
    ),
    setting("BACKUP_LOCAL_DIR", "", "directory of the local store; empty: none"),
    setting("R2_BUCKET", "", "bucket of the store r2; empty: none"),
    setting("R2_ACCESS_KEY", "", "its key's identifier"),
    secret("R2_SECRET_KEY", "", "its key's secret"),
    setting("R2_ACCOUNT_ID", "", "Cloudflare account: tells where R2 is"),
    setting("R2_ENDPOINT", "made from R2_ACCOUNT_ID", "another S3-compatible service: https://host"),
    setting("R2_REGION", "auto", "region that requests are signed for"),
    setting("B2_BUCKET_NAME", "", "bucket of the store b2; empty: none"),
    setting("B2_KEY_ID", "", "its key's identifier"),
    secret("B2_APPLICATION_KEY", "", "its key's secret"),
    setting("B2_REGION", "part of B2_ENDPOINT", "region such as us-west-004: tells where B2 is"),
    setting("B2_ENDPOINT", "made from B2_REGION", "another S3-compatible service: https://host"),
    setting("B2_BUCKET_ID", "", "accepted and not needed: the bucket is found by its name"),
    setting("BACKUP_READ_ORDER", "r2,b2,local", "stores in the order in which they are read"),
    setting(
        "BACKUP_RATE_LIMIT",
        "none",
        "bytes per second to and from each cloud, or with K, M, G; a restore is not held to it",
    ),
    setting(
        "BACKUP_MIN_COPIES",
        "1 with one store, else 2",
        "stores that must hold a backup before it counts",
    ),
    setting("BACKUP_COMPRESSION", "zstd:5", "zstd:1 to zstd:19, or gzip:1 to gzip:9"),
    setting("BACKUP_WAL_COMPRESSION", "zstd:1", "the same for WAL"),
    setting(
        "BACKUP_VOLUME_SIZE",
        "128M",
        "size at which a volume is closed: bytes, or with K, M, G, T; 1M to 64G",
    ),
    setting("BACKUP_JOBS", "4", "connections and files at once, 1 to 64"),
    setting("BACKUP_SCRATCH_DIR", "scratch in BACKUP_STATE_DIR", "where a dump waits to be packed"),
    setting(
        "BACKUP_SCRATCH_LIMIT",
        "1G",
        "how much of a dump may wait there: bytes, or with K, M, G, T; 16M for each job and 16M more at least",
    ),
    setting(
        "BACKUP_CONFIG_PATHS",
        "",
        "files and directories that `backup config` reads besides the server's own, comma separated",
    ),
    setting("BACKUP_PG_BINDIR", "found by the server's version", "directory with pg_dump and pg_restore"),
    setting(
        "BACKUP_ARCHIVE_TIMEOUT",
        "10m",
        "how long a cluster backup waits for its WAL to be archived: s, m, h, d",
    ),
    setting(
        "BACKUP_VERIFY_BUDGET",
        "as much as it takes",
        "what one verify reads in full: bytes, or with K, M, G, T; by default all is read twice in BACKUP_PROOF_MAX_AGE",
    ),
    setting(
        "BACKUP_PROOF_MAX_AGE",
        "30d",
        "how old the proof of a copy may become before verify warns: s, m, h, d",
    ),
    setting(
        "BACKUP_RETENTION_DAYS",
        "90",
        "how many days everything is kept, and every second of them can be reached",
    ),
    setting(
        "BACKUP_KEEP_MIN",
        "2",
        "newest backups of each kind, database and tenant that stay whatever their age",
    ),
    setting(
        "BACKUP_KEEP_DAILY",
        "0",
        "of how many of the last days the newest backup stays, if they are older",
    ),
    setting("BACKUP_KEEP_WEEKLY", "0", "the same for weeks, from Monday on"),
    setting("BACKUP_KEEP_MONTHLY", "0", "the same for months"),
    setting("BACKUP_KEEP_YEARLY", "0", "the same for years"),
    setting("TENANT_MODE", "row", "how tenants are told apart: row, schema (each has its own) or database"),
    setting(
        "TENANT_PATTERN",
        "",
        "the names of tenants' schemas or databases, one star for the tenant: tenant_*",
    ),
    setting("TENANT_QUERY", "", "instead of a pattern, a query: names, or tenants and names"),
    setting("TENANT_COLUMN", "tenant_id", "the column that says whose a row is"),
    setting("TENANT_TABLE", "the one they refer to", "the table of tenants, with or without its schema"),
    setting(
        "TENANT_TABLES",
        "",
        "decisions for single tables: orders=column:NAME, notes=via:KEY+KEY, plans=shared; comma separated",
    ),
    setting(
        "PGKEEP_ADMINS",
        "everybody who may read the env file",
        "users and %groups, comma separated, who may restore, clean up, keep, and rotate keys; root always may",
    ),
    setting(
        "TEST_RESTORE_TABLES",
        "the ten largest of the backup",
        "tables that a test restore must bring back: customers, sales.orders, otherdb:sales.orders; comma separated",
    ),
    setting(
        "TEST_RESTORE_SQL",
        "",
        "queries that a restored database must answer with true, with ; between; or /path/of/a/file with them",
    ),
    setting("RPO_TARGET", "15m", "how much of the newest data may be lost at most: s, m, h, d"),
    setting("RTO_TARGET", "1h", "how long a restore may take at most: s, m, h, d"),
    setting(
        "ALERT_CRITICAL",
        "every channel that is set",
        "channels of CRITICAL alerts: email, sms, webhook; none: none",
    ),
    setting("ALERT_WARNING", "the same without sms", "channels of WARNING alerts"),
    setting("ALERT_QUIET_HOURS", "", "local time in which WARNING alerts wait, such as 22:00-07:00"),
    setting("ALERT_REPEAT", "24h", "after how long an alert that is open and not acknowledged is sent again"),
    setting("ALERT_BACKUP_AGE", "26h", "how old the newest backup may be: CRITICAL"),
    setting("ALERT_BACKUP_DURATION", "twice the usual", "how long a backup may take: WARNING"),
    setting(
        "ALERT_SIZE_CHANGE",
        "20",
        "by how many percent a backup's size may differ from the usual: WARNING",
    ),
    setting("ALERT_STORAGE", "80", "how many percent of a disk or quota may be used: WARNING"),
    setting("ALERT_ARCHIVER_BACKLOG", "16", "how many WAL files may wait for the server's archiver: WARNING"),
    setting("BACKUP_R2_QUOTA", "", "what the store r2 may hold: bytes, or with K, M, G, T"),
    setting("BACKUP_B2_QUOTA", "", "what the store b2 may hold"),
    setting("ALERT_EMAIL_TO", "", "who gets mail; several separated by commas"),
    setting("ALERT_EMAIL_FROM", "", "the sender of mail"),
    setting("SMTP_HOST", "", "the mail server; empty: no mail"),
    setting("SMTP_PORT", "587; with tls 465, with none 25", "its port"),
    setting("SMTP_TLS", "starttls", "starttls, tls, or none (to this machine only)"),
    setting("SMTP_USER", "", "login there"),
    secret("SMTP_PASSWORD", "", "its password"),
    setting("ALERT_SMS_TO", "", "telephone numbers for text messages, such as +491701234567"),
    setting("TWILIO_ACCOUNT_SID", "", "account of the service for text messages; empty: none"),
    secret("TWILIO_AUTH_TOKEN", "", "its token"),
    setting("TWILIO_FROM", "", "the sender's number"),
    setting("TWILIO_BASE_URL", "https://api.twilio.com", "another service with the same interface"),
    secret("WEBHOOK_URL", "", "where alerts are posted as JSON; empty: nowhere"),
    secret("WEBHOOK_SECRET", "", "key of the HMAC-SHA256 in the header X-Pgkeep-Signature"),
    setting("PGDATA", "asked of the server", "where the server's data directory is seen from here"),
    setting("PGHOST", "libpq's default", "the server: a name, an address, or the directory of its socket"),
    setting("PGPORT", "5432", "its port"),
    setting("PGUSER", "the operating system's user", "user to connect as"),
    setting("PGDATABASE", "the user's name", "database that is backed up when none is named"),
    secret("PGPASSWORD", "", "password"),
    setting("PGPASSFILE", "~/.pgpass", "file with passwords"),
    setting("PGSSLMODE", "prefer", "disable, allow, prefer, require, verify-ca or verify-full"),
    setting(
        "PGSSLROOTCERT",
        "~/.postgresql/root.crt",
        "certificate authorities; the word system: the machine's",
    ),
    setting("PGSSLCERT", "~/.postgresql/postgresql.crt", "client certificate"),
    setting("PGSSLKEY", "~/.postgresql/postgresql.key", "its key"),
    setting("PGCONNECT_TIMEOUT", "10", "seconds to wait for a connection, 1 to 3600"),
    setting("PGOPTIONS", "", "options for the server, such as -c statement_timeout=0"),
    setting("PGAPPNAME", "", "not used: pgkeep names its connections itself"),
];

/// Every setting in the order in which the documentation lists them.
pub const fn documented() -> &'static [Documented] {
    TABLE
}

/// The setting of this name.
pub(super) fn find(name: &str) -> Option<&'static Documented> {
    TABLE.iter().find(|setting| setting.name == name)
}

/// The setting whose name is nearest to this one, if one is so near that it may be meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let distances = TABLE.iter().map(|setting| (distance(name, setting.name), setting.name));
    distances.min().filter(|(distance, _)| *distance <= 5).map(|(_, name)| name)
}

/// How many characters must be added, removed or changed to make one text out of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, from) in one.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (column, to) in other.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_proposed_and_nothing_far_fetched() {
        assert_eq!(nearest("BACKUP_LOCL_DIR"), Some("BACKUP_LOCAL_DIR"));
        assert_eq!(nearest("BACKUP_ENCRYPTION_KEYS"), Some("BACKUP_ENCRYPTION_KEY"));
        assert_eq!(nearest("BACKUP_JOB"), Some("BACKUP_JOBS"));
        assert_eq!(nearest("BACKUP_SOMETHING_ELSE_ALTOGETHER"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn the_default_compression_is_the_documented_one() {
        let documented = find("BACKUP_COMPRESSION").map(|setting| setting.default);
        assert_eq!(documented, Some(crate::config::DEFAULT_COMPRESSION.to_string().as_str()));
    }
}
