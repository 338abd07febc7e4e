-- Where cluster backups lie in the stream of WAL, and when a backup's data is of; null in rows of earlier schemas, until
-- a rebuild or the next look at the manifest.
ALTER TABLE backups ADD COLUMN consistent_at TEXT CHECK (consistent_at GLOB '????-??-??T??:??:??.???Z');
ALTER TABLE backups ADD COLUMN timeline INTEGER CHECK (timeline > 0);
ALTER TABLE backups ADD COLUMN start_lsn TEXT;
ALTER TABLE backups ADD COLUMN stop_lsn TEXT;
ALTER TABLE backups ADD COLUMN wal_segment_size INTEGER CHECK (wal_segment_size > 0);
-- Pages whose checksum was wrong when they were read.
ALTER TABLE backups ADD COLUMN damaged_pages INTEGER CHECK (damaged_pages >= 0);

-- The directory into which a cluster was restored.
ALTER TABLE restore_log ADD COLUMN target_directory TEXT;

-- By time: what recovery can reach, and what is owed.
CREATE INDEX wal_segments_not_good ON wal_segments (state, store) WHERE state <> 'good';

-- Where timelines left their ancestors: the content of history files, so that what can be recovered is known without
-- asking a store.
CREATE TABLE timelines (
    timeline INTEGER NOT NULL PRIMARY KEY CHECK (timeline > 0),
    history  TEXT NOT NULL
) STRICT;
