-- What a later run needs in order to clear up after one that died, although the settings have changed since.

-- Whose backups these are; one row, made by the first run.
CREATE TABLE cluster (
    one  INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL CHECK (name <> '')            -- BACKUP_CLUSTER, what all objects' keys begin with
) STRICT;
-- A catalog of the first schema knows it by its backups; one without any belongs to whoever comes first.
INSERT INTO cluster (one, name)
    SELECT 1, substr(filename, 1, instr(filename, '/') - 1) FROM backups WHERE instr(filename, '/') > 1
    ORDER BY id DESC LIMIT 1;

-- Where the run had its files; null in rows of the first schema.
ALTER TABLE runs ADD COLUMN scratch_directory TEXT;
ALTER TABLE runs ADD COLUMN staging_directory TEXT;

-- On which server the restore worked (null: it could not be asked), and the number of the database that it made,
-- which no renaming changes (null: it made none yet).
ALTER TABLE restore_log ADD COLUMN system_identifier TEXT;
ALTER TABLE restore_log ADD COLUMN database_oid INTEGER CHECK (database_oid BETWEEN 1 AND 4294967295);
