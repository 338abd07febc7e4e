-- What tells this catalog's copies in the stores from those of other catalogs of the same cluster, such as that of a
-- machine that is gone: 8 hexadecimal digits, given when the catalog is first used. No history is taken over twice.
ALTER TABLE cluster ADD COLUMN lineage TEXT CHECK (length(lineage) = 8);

-- That the run ended and could not clear away what it had stored, or not be sure of it: the next run does.
ALTER TABLE runs ADD COLUMN unsettled INTEGER NOT NULL DEFAULT 0 CHECK (unsettled IN (0, 1));
