-- What telling each recipient by itself, long jobs, quiet runs, an idle server and certificates need.

-- To whom a message goes: an address or a number. Empty: a webhook; or one of before, which was for all of them.
ALTER TABLE deliveries ADD COLUMN recipient TEXT NOT NULL DEFAULT '';
-- How often it was handed over and nobody said whether it was taken.
ALTER TABLE deliveries ADD COLUMN unanswered INTEGER NOT NULL DEFAULT 0 CHECK (unanswered >= 0);
-- Whether who got it knows that it is over, or has a message on the way that says so.
ALTER TABLE deliveries ADD COLUMN told_over INTEGER NOT NULL DEFAULT 0 CHECK (told_over IN (0, 1));
UPDATE deliveries SET told_over = 1
    WHERE event = 'closed' OR alert_id IN (SELECT id FROM alerts WHERE closed_at IS NOT NULL);
CREATE INDEX deliveries_untold ON deliveries (alert_id) WHERE state = 'delivered' AND told_over = 0;

-- The directory in which a job was put off: its relative paths are meant from there.
ALTER TABLE jobs ADD COLUMN directory TEXT;

-- A run that only looked and found nothing new: the next one of its command takes its place.
ALTER TABLE runs ADD COLUMN quiet INTEGER NOT NULL DEFAULT 0 CHECK (quiet IN (0, 1));
CREATE INDEX runs_quiet ON runs (command) WHERE quiet = 1;

-- How far the server had written when somebody looked: since when something can be in no archive.
CREATE TABLE wal_seen (
    seen_at  TEXT NOT NULL PRIMARY KEY CHECK (seen_at GLOB '????-??-??T??:??:??.???Z'),
    timeline INTEGER NOT NULL CHECK (timeline > 0),
    lsn      TEXT NOT NULL,
    archived INTEGER NOT NULL CHECK (archived IN (0, 1)) -- all of it was in enough stores
) STRICT, WITHOUT ROWID;

-- Until when the certificates are good that services have shown.
CREATE TABLE certificates (
    place      TEXT NOT NULL PRIMARY KEY,            -- such as 'SMTP_HOST mail.example.com:587'
    asked_at   TEXT NOT NULL CHECK (asked_at GLOB '????-??-??T??:??:??.???Z'),
    not_before TEXT CHECK (not_before GLOB '????-??-??T??:??:??.???Z'), -- null: it has never shown one
    not_after  TEXT CHECK (not_after GLOB '????-??-??T??:??:??.???Z'),
    error      TEXT                                  -- why it could not be asked the last time
) STRICT, WITHOUT ROWID;
