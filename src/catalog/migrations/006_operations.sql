-- What keeping, proving and watching need: pins, test restores, alerts that are delivered, jobs, and sizes over time.

-- A backup that somebody wants kept whatever its age, and why; and why and when one was deleted.
ALTER TABLE backups ADD COLUMN kept_at TEXT CHECK (kept_at GLOB '????-??-??T??:??:??.???Z');
ALTER TABLE backups ADD COLUMN kept_by TEXT;
ALTER TABLE backups ADD COLUMN kept_reason TEXT;
ALTER TABLE backups ADD COLUMN deleted_at TEXT CHECK (deleted_at GLOB '????-??-??T??:??:??.???Z');
ALTER TABLE backups ADD COLUMN deleted_reason TEXT;
CREATE INDEX backups_kept ON backups (kept_at) WHERE kept_at IS NOT NULL;

-- A test restore is a restore that is dropped again. How long each phase took is what the next one will take.
ALTER TABLE restore_log ADD COLUMN purpose TEXT NOT NULL DEFAULT 'restore' CHECK (purpose IN ('restore', 'test'));
ALTER TABLE restore_log ADD COLUMN store TEXT CHECK (store IN ('local', 'r2', 'b2')); -- null: as BACKUP_READ_ORDER says
ALTER TABLE restore_log ADD COLUMN phases TEXT CHECK (phases IS NULL OR json_valid(phases)); -- JSON object: phase to seconds
ALTER TABLE restore_log ADD COLUMN bytes_fetched INTEGER CHECK (bytes_fetched >= 0);
ALTER TABLE restore_log ADD COLUMN wal_segments INTEGER CHECK (wal_segments >= 0);
-- One schema of the database instead of all of it: its name, its number (pg_namespace.oid) once it is made, and the name
-- under which the replaced one is kept.
ALTER TABLE restore_log ADD COLUMN target_schema TEXT;
ALTER TABLE restore_log ADD COLUMN schema_oid INTEGER CHECK (schema_oid > 0);
ALTER TABLE restore_log ADD COLUMN previous_schema TEXT;
CREATE INDEX restore_log_tests ON restore_log (started_at) WHERE purpose = 'test';

-- One condition is one alert: it is open from when it is first found until it is found to be over.
ALTER TABLE alerts ADD COLUMN subject TEXT NOT NULL DEFAULT '';      -- what it is about: a store, a database, a segment
ALTER TABLE alerts ADD COLUMN last_seen_at TEXT CHECK (last_seen_at GLOB '????-??-??T??:??:??.???Z');
ALTER TABLE alerts ADD COLUMN times INTEGER NOT NULL DEFAULT 1 CHECK (times > 0);
ALTER TABLE alerts ADD COLUMN closed_at TEXT CHECK (closed_at GLOB '????-??-??T??:??:??.???Z');
ALTER TABLE alerts ADD COLUMN closed_message TEXT;
ALTER TABLE alerts ADD COLUMN acknowledged_by TEXT;
ALTER TABLE alerts ADD COLUMN note TEXT;
ALTER TABLE alerts ADD COLUMN run_id TEXT;
CREATE INDEX alerts_open ON alerts (alert_type, subject) WHERE closed_at IS NULL;
CREATE INDEX alerts_by_time ON alerts (created_at);

-- Each message to each channel, until it is delivered.
CREATE TABLE deliveries (
    id           INTEGER NOT NULL PRIMARY KEY,
    alert_id     INTEGER NOT NULL REFERENCES alerts (id),
    channel      TEXT NOT NULL CHECK (channel IN ('email', 'sms', 'webhook')),
    event        TEXT NOT NULL CHECK (event IN ('raised', 'repeated', 'closed')),
    state        TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given up')),
    attempts     INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    not_before   TEXT NOT NULL CHECK (not_before GLOB '????-??-??T??:??:??.???Z'),
    delivered_at TEXT CHECK (delivered_at GLOB '????-??-??T??:??:??.???Z'),
    last_error   TEXT,
    created_at   TEXT NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    CHECK ((state = 'delivered') = (delivered_at IS NOT NULL))
) STRICT;
CREATE INDEX deliveries_waiting ON deliveries (not_before) WHERE state = 'waiting';
CREATE INDEX deliveries_of_alerts ON deliveries (alert_id);

-- Nothing has ever written jobs: the table is made anew with what running them needs.
DROP TABLE jobs;
CREATE TABLE jobs (
    id            INTEGER NOT NULL PRIMARY KEY,
    command       TEXT NOT NULL,                     -- as runs.command: 'backup database'
    arguments     TEXT NOT NULL CHECK (json_valid(arguments)), -- JSON array: what stands behind `pgkeep`, without --at
    env_file      TEXT,                              -- with which settings, if not the default ones
    priority      INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 9),
    scheduled_for TEXT NOT NULL CHECK (scheduled_for GLOB '????-??-??T??:??:??.???Z'),
    state         TEXT NOT NULL DEFAULT 'waiting'
                  CHECK (state IN ('waiting', 'running', 'done', 'incomplete', 'failed', 'cancelled', 'died')),
    requested_by  TEXT NOT NULL,
    created_at    TEXT NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    started_at    TEXT CHECK (started_at GLOB '????-??-??T??:??:??.???Z'),
    ended_at      TEXT CHECK (ended_at GLOB '????-??-??T??:??:??.???Z'),
    exit_code     INTEGER CHECK (exit_code BETWEEN 0 AND 255),
    run_id        TEXT,
    message       TEXT
) STRICT;
CREATE INDEX jobs_waiting ON jobs (scheduled_for) WHERE state IN ('waiting', 'running');

-- Who waits for a turn, and with what right to it.
ALTER TABLE runs ADD COLUMN priority INTEGER CHECK (priority BETWEEN 1 AND 9);
ALTER TABLE runs ADD COLUMN waited_seconds REAL CHECK (waited_seconds >= 0);
ALTER TABLE runs ADD COLUMN job_id INTEGER;

-- What each store held when it was last listed on a day (UTC): for charts, and for a quota.
CREATE TABLE store_usage (
    day     TEXT NOT NULL CHECK (day GLOB '????-??-??'),
    store   TEXT NOT NULL CHECK (store IN ('local', 'r2', 'b2')),
    bytes   INTEGER NOT NULL CHECK (bytes >= 0),
    objects INTEGER NOT NULL CHECK (objects >= 0),
    PRIMARY KEY (day, store)
) STRICT, WITHOUT ROWID;
