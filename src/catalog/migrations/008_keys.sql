-- Under which of the operator's keys things are: what opens only with one that the settings lack must be told of.

-- The fingerprint of the key that seals its manifest; null: nobody has looked since this column is there.
ALTER TABLE backups ADD COLUMN key TEXT;
CREATE INDEX backups_key ON backups (key) WHERE status = 'complete';

-- Keys under which WAL is, and when the last of it was sealed.
CREATE TABLE wal_keys (
    key       TEXT NOT NULL PRIMARY KEY,
    sealed_at TEXT NOT NULL CHECK (sealed_at GLOB '????-??-??T??:??:??.???Z')
) STRICT, WITHOUT ROWID;
