-- The first schema. Never changed once released: what comes later is a migration of its own.
-- Times are ISO 8601 in UTC with milliseconds, sizes are bytes, durations are seconds.

-- Every execution of pgkeep that did something: who, what, when, how long, with what outcome.
CREATE TABLE runs (
    id             TEXT NOT NULL PRIMARY KEY,
    command        TEXT NOT NULL,
    arguments      TEXT NOT NULL,
    subject        TEXT,                             -- what it works on, such as the backup that it makes
    user           TEXT NOT NULL,
    sudo_user      TEXT,
    host           TEXT NOT NULL,
    terminal       TEXT NOT NULL,
    pid            INTEGER NOT NULL,
    pgkeep_version TEXT NOT NULL,
    started_at     TEXT NOT NULL CHECK (started_at GLOB '????-??-??T??:??:??.???Z'),
    ended_at       TEXT CHECK (ended_at GLOB '????-??-??T??:??:??.???Z'),
    seconds        REAL CHECK (seconds >= 0),
    outcome        TEXT NOT NULL DEFAULT 'running'
                   CHECK (outcome IN ('running', 'done', 'incomplete', 'failed', 'interrupted', 'died')),
    exit_code      INTEGER CHECK (exit_code BETWEEN 0 AND 255),
    message        TEXT,
    -- Of a run that died nobody knows when it ended.
    CHECK (outcome IN ('running', 'died') = (ended_at IS NULL))
) STRICT;
CREATE INDEX runs_by_time ON runs (started_at);
CREATE INDEX runs_unfinished ON runs (started_at) WHERE outcome = 'running';

-- Every backup that is complete, or that was and is being or has been deleted. The stores hold the truth.
CREATE TABLE backups (
    id                    TEXT NOT NULL PRIMARY KEY,
    type                  TEXT NOT NULL CHECK (type IN ('database', 'tenant', 'cluster', 'config')),
    database              TEXT,
    tenant_id             TEXT,
    filename              TEXT NOT NULL,             -- what all its objects' keys begin with
    status                TEXT NOT NULL CHECK (status IN ('complete', 'deleting', 'deleted')),
    size_bytes            INTEGER NOT NULL CHECK (size_bytes >= 0),            -- all that one store holds of it
    original_size_bytes   INTEGER NOT NULL CHECK (original_size_bytes >= 0),   -- as read from the source
    compressed_size_bytes INTEGER NOT NULL CHECK (compressed_size_bytes >= 0), -- frames, before seals and headers
    checksum              TEXT NOT NULL CHECK (length(checksum) = 64),         -- SHA-256 of the manifest as stored
    local_path            TEXT,
    r2_path               TEXT,
    b2_path               TEXT,
    parent                TEXT,                      -- the backup that this one builds upon
    codec                 TEXT NOT NULL,
    rows                  INTEGER CHECK (rows >= 0),
    entries               INTEGER NOT NULL CHECK (entries >= 0),
    postgres_version      TEXT,
    system_identifier     TEXT,
    format_version        INTEGER NOT NULL,
    pgkeep_version        TEXT NOT NULL,
    run_id                TEXT REFERENCES runs (id), -- null in a catalog that was rebuilt
    started_at            TEXT NOT NULL CHECK (started_at GLOB '????-??-??T??:??:??.???Z'),
    finished_at           TEXT NOT NULL CHECK (finished_at GLOB '????-??-??T??:??:??.???Z'),
    seconds               REAL NOT NULL CHECK (seconds >= 0)
) STRICT;
CREATE INDEX backups_by_time ON backups (status, type, database, started_at);
CREATE INDEX backups_by_run ON backups (run_id);

-- Every object of every backup in every store in which it should be.
CREATE TABLE copies (
    backup_id  TEXT NOT NULL REFERENCES backups (id),
    object     TEXT NOT NULL,                        -- 'manifest', 'data.00000', ...
    store      TEXT NOT NULL CHECK (store IN ('local', 'r2', 'b2')),
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    sha256     TEXT NOT NULL CHECK (length(sha256) = 64),
    state      TEXT NOT NULL CHECK (state IN ('good', 'owed', 'missing', 'damaged', 'deleting')),
    seen_at    TEXT CHECK (seen_at GLOB '????-??-??T??:??:??.???Z'),     -- last found present with its size
    proven_at  TEXT CHECK (proven_at GLOB '????-??-??T??:??:??.???Z'),   -- last found to hold the right bytes
    proven_how TEXT CHECK (proven_how IN ('written', 'listed', 'read', 'decrypted', 'restored')),
    note       TEXT,
    PRIMARY KEY (backup_id, object, store),
    CHECK ((proven_at IS NULL) = (proven_how IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX copies_not_good ON copies (state, store) WHERE state <> 'good';
CREATE INDEX copies_by_proof ON copies (proven_at);

-- Every archived WAL file in every store in which it should be.
CREATE TABLE wal_segments (
    timeline       INTEGER NOT NULL CHECK (timeline > 0),
    segment        TEXT NOT NULL,                    -- the file's name as PostgreSQL has it
    content_sha256 TEXT NOT NULL CHECK (length(content_sha256) = 64),
    store          TEXT NOT NULL CHECK (store IN ('local', 'r2', 'b2')),
    size_bytes     INTEGER NOT NULL CHECK (size_bytes >= 0),
    state          TEXT NOT NULL CHECK (state IN ('good', 'owed', 'missing', 'damaged', 'deleting')),
    stored_at      TEXT CHECK (stored_at GLOB '????-??-??T??:??:??.???Z'),
    proven_at      TEXT CHECK (proven_at GLOB '????-??-??T??:??:??.???Z'),
    proven_how     TEXT CHECK (proven_how IN ('written', 'listed', 'read', 'decrypted', 'restored')),
    note           TEXT,
    PRIMARY KEY (segment, content_sha256, store),
    CHECK ((proven_at IS NULL) = (proven_how IS NULL))
) STRICT, WITHOUT ROWID;

-- Every restore and test restore, also the failed and the refused ones. Outlives the backups that it speaks of.
CREATE TABLE restore_log (
    id                INTEGER NOT NULL PRIMARY KEY,
    run_id            TEXT REFERENCES runs (id),
    backup_id         TEXT NOT NULL,
    initiated_by      TEXT NOT NULL,
    tenant_ids        TEXT CHECK (tenant_ids IS NULL OR json_valid(tenant_ids)), -- JSON array; null: everything
    restore_mode      TEXT NOT NULL CHECK (restore_mode IN ('full', 'merge', 'pitr')),
    target_timestamp  TEXT CHECK (target_timestamp GLOB '????-??-??T??:??:??.???Z'),
    source_database   TEXT,
    target_database   TEXT,
    staging_database  TEXT,                          -- filled and checked before it is swapped in
    previous_database TEXT,                          -- the name under which the replaced one is kept
    state             TEXT NOT NULL DEFAULT 'running'
                      CHECK (state IN ('running', 'done', 'failed', 'interrupted', 'died', 'refused')),
    started_at        TEXT NOT NULL CHECK (started_at GLOB '????-??-??T??:??:??.???Z'),
    ended_at          TEXT CHECK (ended_at GLOB '????-??-??T??:??:??.???Z'),
    seconds           REAL CHECK (seconds >= 0),
    rows              INTEGER CHECK (rows >= 0),
    checks            TEXT CHECK (checks IS NULL OR json_valid(checks)),
    message           TEXT,
    CHECK (state IN ('running', 'died') = (ended_at IS NULL))
) STRICT;
CREATE INDEX restore_log_by_time ON restore_log (started_at);
CREATE INDEX restore_log_by_run ON restore_log (run_id);

-- What somebody should look at, until somebody has.
CREATE TABLE alerts (
    id                    INTEGER NOT NULL PRIMARY KEY,
    alert_type            TEXT NOT NULL,
    severity              TEXT NOT NULL CHECK (severity IN ('INFO', 'WARNING', 'CRITICAL')),
    message               TEXT NOT NULL,
    notification_channels TEXT CHECK (notification_channels IS NULL OR json_valid(notification_channels)),
    created_at            TEXT NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    acknowledged_at       TEXT CHECK (acknowledged_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;

-- Commands that wait for their time or their turn; a higher priority goes first.
CREATE TABLE jobs (
    id            INTEGER NOT NULL PRIMARY KEY,
    command       TEXT NOT NULL,
    priority      INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 9),
    scheduled_for TEXT NOT NULL CHECK (scheduled_for GLOB '????-??-??T??:??:??.???Z'),
    state         TEXT NOT NULL DEFAULT 'waiting'
                  CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
    created_at    TEXT NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z')
) STRICT;
