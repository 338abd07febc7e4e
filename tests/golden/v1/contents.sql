-- What the golden backups hold. Kept for the reader; the backups were made once from it and are never made again.
CREATE DATABASE golden OWNER postgres TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
COMMENT ON DATABASE golden IS 'held for ever';
ALTER DATABASE golden SET work_mem = '8MB';
\connect golden
CREATE TABLE tenants (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    length integer GENERATED ALWAYS AS (char_length(name)) STORED
);
INSERT INTO tenants (name) VALUES
    ('Äpfel & Söhne'), ('line' || chr(10) || 'break'), ('tab' || chr(9) || 'back\slash'), ('\.'), ('日本'), ('');
CREATE SCHEMA "Größe; ""x""";
CREATE TABLE "Größe; ""x"""."events of -- all" (
    id bigint PRIMARY KEY,
    tenant integer NOT NULL REFERENCES tenants,
    "at" timestamptz NOT NULL,
    note text
);
-- More than two full frames, and small when compressed.
INSERT INTO "Größe; ""x"""."events of -- all"
SELECT n, n % 6 + 1, timestamptz '2026-01-01 00:00:00+00' + n * interval '1 hour',
       CASE WHEN n % 7 <> 0 THEN repeat('the same words again and again, ', 15) END
FROM generate_series(1, 24000) AS n;
CREATE INDEX ON "Größe; ""x"""."events of -- all" (tenant, "at");
CREATE TABLE empty (a integer, b text);
CREATE VIEW totals AS SELECT tenant, count(*) FROM "Größe; ""x"""."events of -- all" GROUP BY tenant;
-- A large object whose bytes do not repeat.
SELECT lo_from_bytea(4711, string_agg(sha256(n::text::bytea), '' ORDER BY n)) FROM generate_series(1, 500) AS n;
