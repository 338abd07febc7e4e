-- What keeping, proving and watching need: pins, test restores, alerts that are delivered, jobs, and sizes over time.

-- A backup that somebody wants kept whatever its age, and why; and why and when one was deleted.
ALTER TABLE backups ADD COLUMN kept_at TEXT CHECK (kept_at GLOB '????-??-??T??:??:??.???Z');
ALTER TABLE backups ADD COLUMN kept_by TEXT;
ALTER TABLE backups ADD COLUMN kept_reason TEXT;
ALTER TABLE backups ADD COLUMN deleted_at TEXT CHECK (deleted_at GLOB '????-??-??T??:??:??.???Z');
ALTER TABLE backups ADD COLUMN deleted_reason TEXT;
-- When somebody last took such a wish back: an older one in a saved catalog does not come back.
ALTER TABLE backups ADD COLUMN unkept_at TEXT CHECK (unkept_at GLOB '????-??-??T??:??:??.???Z');
CREATE INDEX backups_kept ON backups (kept_at) WHERE kept_at IS NOT NULL;

-- Stretches of WAL that were deleted because nothing needed them any more: no holes.
CREATE TABLE wal_deleted (
    timeline   INTEGER NOT NULL CHECK (timeline > 0),
    first      TEXT NOT NULL,                        -- names of segments, both included
    last       TEXT NOT NULL,
    deleted_at TEXT NOT NULL CHECK (deleted_at GLOB '????-??-??T??:??:??.???Z'),
    PRIMARY KEY (timeline, first),
    CHECK (first <= last)
) STRICT, WITHOUT ROWID;

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

-- The archive in sums, kept by triggers: how much each store holds of it, where it has gaps and how fast it grows is known
-- without reading a row for each segment. A block is what the first 16 digits of a segment's name say, 4 GiB of WAL.
CREATE TABLE wal_blocks (
    block    TEXT NOT NULL,
    store    TEXT NOT NULL CHECK (store IN ('local', 'r2', 'b2')),
    files    INTEGER NOT NULL CHECK (files >= 0),        -- good copies, and their size
    bytes    INTEGER NOT NULL CHECK (bytes >= 0),
    segments INTEGER NOT NULL CHECK (segments >= 0),     -- those of them that are whole segments
    owed     INTEGER NOT NULL CHECK (owed >= 0),
    missing  INTEGER NOT NULL CHECK (missing >= 0),
    damaged  INTEGER NOT NULL CHECK (damaged >= 0),
    clashing INTEGER NOT NULL CHECK (clashing IN (0, 1)), -- a name has, or once had, two contents: look at each file
    PRIMARY KEY (block, store)
) STRICT, WITHOUT ROWID;
CREATE TABLE wal_hours (
    hour  TEXT NOT NULL CHECK (hour GLOB '????-??-??T??'), -- UTC
    store TEXT NOT NULL CHECK (store IN ('local', 'r2', 'b2')),
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, store)
) STRICT, WITHOUT ROWID;
INSERT INTO wal_blocks
    SELECT substr(segment, 1, 16), store, sum(state = 'good'), sum(iif(state = 'good', size_bytes, 0)),
           sum(state = 'good' AND length(segment) = 24), sum(state = 'owed'), sum(state = 'missing'),
           sum(state = 'damaged'), count(*) > count(DISTINCT segment)
    FROM wal_segments GROUP BY substr(segment, 1, 16), store;
INSERT INTO wal_hours
    SELECT substr(stored_at, 1, 13), store, count(*), sum(size_bytes) FROM wal_segments
    WHERE state = 'good' AND stored_at IS NOT NULL GROUP BY substr(stored_at, 1, 13), store;
CREATE TRIGGER wal_sums_insert AFTER INSERT ON wal_segments BEGIN
    INSERT INTO wal_blocks VALUES (substr(NEW.segment, 1, 16), NEW.store, NEW.state = 'good',
        iif(NEW.state = 'good', NEW.size_bytes, 0), NEW.state = 'good' AND length(NEW.segment) = 24, NEW.state = 'owed',
        NEW.state = 'missing', NEW.state = 'damaged', EXISTS (SELECT 1 FROM wal_segments
            WHERE segment = NEW.segment AND content_sha256 <> NEW.content_sha256))
        ON CONFLICT (block, store) DO UPDATE SET files = files + excluded.files, bytes = bytes + excluded.bytes,
        segments = segments + excluded.segments, owed = owed + excluded.owed, missing = missing + excluded.missing,
        damaged = damaged + excluded.damaged, clashing = max(clashing, excluded.clashing);
    INSERT INTO wal_hours SELECT substr(NEW.stored_at, 1, 13), NEW.store, 1, NEW.size_bytes
        WHERE NEW.state = 'good' AND NEW.stored_at IS NOT NULL
        ON CONFLICT (hour, store) DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER wal_sums_update AFTER UPDATE OF state, size_bytes, stored_at ON wal_segments BEGIN
    UPDATE wal_blocks SET files = files - (OLD.state = 'good') + (NEW.state = 'good'),
        bytes = bytes - iif(OLD.state = 'good', OLD.size_bytes, 0) + iif(NEW.state = 'good', NEW.size_bytes, 0),
        segments = segments + ((NEW.state = 'good') - (OLD.state = 'good')) * (length(NEW.segment) = 24),
        owed = owed - (OLD.state = 'owed') + (NEW.state = 'owed'),
        missing = missing - (OLD.state = 'missing') + (NEW.state = 'missing'),
        damaged = damaged - (OLD.state = 'damaged') + (NEW.state = 'damaged')
        WHERE block = substr(NEW.segment, 1, 16) AND store = NEW.store;
    UPDATE wal_hours SET files = files - 1, bytes = bytes - OLD.size_bytes
        WHERE OLD.state = 'good' AND hour = substr(OLD.stored_at, 1, 13) AND store = OLD.store;
    INSERT INTO wal_hours SELECT substr(NEW.stored_at, 1, 13), NEW.store, 1, NEW.size_bytes
        WHERE NEW.state = 'good' AND NEW.stored_at IS NOT NULL
        ON CONFLICT (hour, store) DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER wal_sums_delete AFTER DELETE ON wal_segments BEGIN
    UPDATE wal_blocks SET files = files - (OLD.state = 'good'),
        bytes = bytes - iif(OLD.state = 'good', OLD.size_bytes, 0),
        segments = segments - (OLD.state = 'good' AND length(OLD.segment) = 24), owed = owed - (OLD.state = 'owed'),
        missing = missing - (OLD.state = 'missing'), damaged = damaged - (OLD.state = 'damaged')
        WHERE block = substr(OLD.segment, 1, 16) AND store = OLD.store;
    UPDATE wal_hours SET files = files - 1, bytes = bytes - OLD.size_bytes
        WHERE OLD.state = 'good' AND hour = substr(OLD.stored_at, 1, 13) AND store = OLD.store;
END;
