//! Databases that are easily not quite the same afterwards: every kind of name, object, row and property.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Cluster, Place, base, cluster, give, quoted, run, set_mode, unique};

/// Rows of every table that has rows of its own, counted by the server.
fn counted(database: &str) -> BTreeMap<String, u64> {
    let counts = cluster().psql(
        database,
        "SELECT json_object_agg(nspname || '.' || relname, (xpath('/row/c/text()', query_to_xml(
                    format('SELECT count(*) AS c FROM ONLY %I.%I', nspname, relname), false, true, '')))[1]::text::int)
           FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
          WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')",
    );
    if counts.is_empty() { BTreeMap::new() } else { serde_json::from_str(&counts).unwrap() }
}

/// The same as the backup has it.
fn shown(place: &Place) -> BTreeMap<String, u64> {
    let report = place.pgkeep(&["--output", "json", "show", "latest"]).ok().json();
    let tables = report["tables"].as_array().expect("tables");
    let entry = |table: &serde_json::Value| {
        let text = |field: &str| table[field].as_str().unwrap();
        (format!("{}.{}", text("schema"), text("name")), table["rows"].as_u64().unwrap())
    };
    tables.iter().map(entry).collect()
}

/// Backs up, restores in place, and compares; the database is dropped in the end.
fn comes_back(database: &str) {
    comes_back_in(database, |name| cluster().dump_with_create(name));
}

fn comes_back_in(database: &str, dump: impl Fn(&str) -> String) {
    let place = Place::ready();
    let before = dump(database);
    let rows = counted(database);
    place.backup(database);
    assert_eq!(shown(&place), rows);
    let report = place.pgkeep(&["--output", "json", "restore", "latest", "--yes"]).ok().json();
    assert_same(&before, &dump(database));
    assert_eq!(counted(database), rows);
    // The old one under its derived name is still as it was, and can be dropped by the name that was given.
    let kept = report["kept_as"].as_str().expect("a name");
    assert_eq!(counted(kept), rows);
    for name in [database, kept] {
        cluster().psql("postgres", &format!("DROP DATABASE {}", quoted(name)));
    }
}

fn assert_same(before: &str, after: &str) {
    let differing = before.lines().zip(after.lines()).filter(|(one, other)| one != other).take(10);
    let shown: Vec<String> = differing.map(|(one, other)| format!("< {one}\n> {other}")).collect();
    assert!(before == after, "the dump differs:\n{}", shown.join("\n"));
}

#[test]
fn subscriptions_and_transforms_come_back_and_do_not_keep_the_old_database() {
    let database = cluster().fresh_database();
    cluster().psql(
        &database,
        "CREATE TABLE t AS SELECT generate_series(1, 7) AS n;
         CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal),
             TO SQL WITH FUNCTION int4recv(internal));
         COMMENT ON TRANSFORM FOR int LANGUAGE sql IS 'it''s one';
         CREATE SUBSCRIPTION \"súb\"\"scription\" CONNECTION 'host=nowhere.invalid dbname=other' PUBLICATION one, two
             WITH (connect = false, slot_name = 'a_slot')",
    );
    let place = Place::ready();
    let before = cluster().dump_with_create(&database);
    assert!(before.contains("CREATE SUBSCRIPTION") && before.contains("CREATE TRANSFORM"), "{before}");
    place.backup(&database);
    // Done, with a warning that stands.
    let run = place.pgkeep(&["restore", "latest", "--yes", "--drop-old"]).ended_with(3);
    insta::assert_snapshot!(crate::support::tidy(&run.stdout).lines().last().unwrap_or_default());
    assert_same(&before, &cluster().dump_with_create(&database));
    assert_eq!(cluster().databases_like(&database), [&*database]);
    // The one that is kept has its own, and what is printed drops it.
    let run = place.pgkeep(&["--output", "json", "restore", "latest", "--yes"]).ended_with(3).json();
    let kept = run["kept_as"].as_str().unwrap();
    let warning = run["warnings"][0].as_str().unwrap();
    let statements = warning.split("for each: ").nth(1).unwrap().split("; else").next().unwrap();
    cluster().psql(kept, statements);
    cluster().psql("postgres", &format!("DROP DATABASE {}", quoted(kept)));
    // What a restore that was cut off has left can be dropped, too.
    let cut_off = [("PGKEEP_TEST_STOP", "RestoreChecked:kill")];
    assert_eq!(place.pgkeep_with(&cut_off, &["restore", "latest", "--yes"]).code, 137);
    assert_eq!(cluster().databases_like(&database).len(), 2);
    let run = place.pgkeep(&["verify"]).ok();
    assert!(run.stderr.contains("dropped the unfinished database"), "{}", run.stderr);
    assert_eq!(cluster().databases_like(&database), [&*database]);
    assert_same(&before, &cluster().dump_with_create(&database));
}

#[test]
fn nasty_names_rows_objects_and_properties_come_back() {
    let name = "\"we\"\"ird – ünï; DROP = \\ 'x'";
    let database = quoted(name);
    let sql = |sql: &str| cluster().psql("postgres", &sql.replace("%d", &database));
    sql("CREATE ROLE objects_app LOGIN; CREATE ROLE \"objects – \"\"owner\"\"\"");
    sql("CREATE DATABASE %d OWNER \"objects – \"\"owner\"\"\" CONNECTION LIMIT 7");
    sql("COMMENT ON DATABASE %d IS 'it''s \"one\"; – of two
lines'");
    sql("ALTER DATABASE %d SET search_path = \"$user\", public, \"B c\", 'd''e'");
    sql("ALTER DATABASE %d SET DateStyle = 'ISO, DMY'");
    sql("ALTER DATABASE %d SET work_mem = '7MB'");
    sql("ALTER DATABASE %d SET myown.setting = 'a ''quoted'' – value'");
    sql("ALTER ROLE objects_app IN DATABASE %d SET statement_timeout = '5min'");
    sql("ALTER ROLE \"objects – \"\"owner\"\"\" IN DATABASE %d SET temp_tablespaces = ''");
    sql("REVOKE ALL ON DATABASE %d FROM PUBLIC");
    sql("GRANT CONNECT, TEMPORARY ON DATABASE %d TO objects_app WITH GRANT OPTION");
    let place = Place::new();
    cluster().psql_file(name, &place.put("objects.sql", include_str!("objects.sql").as_bytes()));
    comes_back(name);
}

#[test]
fn an_empty_database_comes_back() {
    comes_back(&cluster().fresh_database());
}

#[test]
fn a_database_with_a_name_as_long_as_names_can_be_comes_back() {
    for name in ["ü".repeat(31) + "x", "n".repeat(63)] {
        cluster().create_database(&name);
        cluster().psql(&name, "CREATE TABLE t AS SELECT n FROM generate_series(1, 3) n");
        comes_back(&name);
    }
}

#[test]
fn a_database_with_two_lines_in_its_name_comes_back() {
    let name = "first line\nsecond = 'line'";
    cluster().create_database(name);
    cluster().psql(name, "CREATE TABLE t AS SELECT n FROM generate_series(1, 3) n");
    // pg_dump refuses to write such a name into a script, so what is compared is the database without it.
    comes_back_in(name, |name| cluster().dump(name));
}

#[test]
fn another_encoding_and_locale_come_back() {
    let name = "objects_latin1";
    cluster()
        .psql("postgres", &format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"));
    cluster().psql(name, "CREATE TABLE t AS SELECT 'ünï' AS word");
    comes_back(name);
}

#[test]
fn a_database_in_a_tablespace_comes_back_there_and_without_it_is_refused() {
    let own = Cluster::own(&[]);
    let place = Place::on(&own);
    place.init();
    let outside = base().join(format!("space{}", unique()));
    fs::create_dir(&outside).unwrap();
    set_mode(&outside, 0o700);
    give(&outside);
    own.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", outside.display()));
    own.psql("postgres", "CREATE DATABASE spaced TABLESPACE fast");
    own.psql("postgres", "CREATE DATABASE plain");
    let table = "CREATE TABLE t TABLESPACE fast AS SELECT n FROM generate_series(1, 10) n; CREATE INDEX i ON t (n) TABLESPACE pg_default";
    for database in ["spaced", "plain"] {
        own.psql(database, table);
        place.backup(database);
        let before = own.dump_with_create(database);
        place.pgkeep(&["restore", "latest", "--database", database, "--yes", "--drop-old"]).ok();
        assert_eq!(own.dump_with_create(database), before);
    }
    let of = "SELECT t.spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE datname = 'spaced'";
    assert_eq!(own.psql("postgres", of), "fast");
    own.psql("postgres", "DROP DATABASE spaced");
    own.psql("postgres", "DROP DATABASE plain");
    own.psql("postgres", "DROP TABLESPACE fast");
    let refused = place.pgkeep(&["restore", "latest", "--database", "spaced", "--yes"]).fails_with(30);
    assert!(refused.stderr.contains("the server has no tablespace \"fast\""), "{}", refused.stderr);
    assert_eq!(own.databases_like("spaced"), [""; 0]);
}

/// Rows are counted from the bytes that are stored: no table is read a second time.
#[test]
fn every_table_is_read_once() {
    let own = Cluster::own(&[("autovacuum", "off")]);
    let place = Place::on(&own);
    place.init();
    own.create_database("once");
    own.psql("once", "CREATE TABLE one (n int); INSERT INTO one SELECT generate_series(1, 1000); CREATE TABLE two AS TABLE one");
    let scans = || {
        own.psql("once", "SELECT pg_stat_clear_snapshot(); SELECT string_agg(seq_scan::text, ',' ORDER BY relname) FROM pg_stat_user_tables")
    };
    let before = scans();
    place.backup("once");
    let numbers = |text: &str| text.trim().split(',').map(|it| it.parse().unwrap()).collect::<Vec<u64>>();
    let wanted: Vec<u64> = numbers(&before).into_iter().map(|scans| scans + 1).collect();
    crate::support::faults::wait_for("the server to have counted", || {
        (numbers(&scans()) >= wanted).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(numbers(&scans()), wanted);
}

#[test]
fn a_locale_of_icu_comes_back() {
    let name = "objects_icu";
    cluster().psql(
        "postgres",
        &format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu \
             ICU_LOCALE 'de-AT-u-co-phonebk' LOCALE 'C.UTF-8'"
        ),
    );
    // In a phone book the umlaut is sorted as if it were written out.
    cluster()
        .psql(name, "CREATE TABLE t AS SELECT unnest('{Ad,Ä,Af}'::text[]) AS word; CREATE INDEX ON t (word)");
    comes_back(name);
}

#[test]
fn a_database_under_load_comes_back_as_it_was_at_one_instant() {
    let place = Place::ready();
    let shop = cluster().fresh_database();
    // Whoever sees one table before and the other after a transaction sees another sum.
    cluster().psql(
        &shop,
        "CREATE TABLE left_side AS SELECT 100000 AS money; CREATE TABLE right_side AS SELECT 0 AS money;
         CREATE TABLE ballast AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n",
    );
    let mut psql = cluster().client("psql");
    psql.env("PGDATABASE", &shop).args([
        "-XAtqc",
        "DO $$ BEGIN FOR n IN 1..90000 LOOP
            UPDATE left_side SET money = money - 1; UPDATE right_side SET money = money + 1; COMMIT;
         END LOOP; END $$",
    ]);
    let mut transfers = crate::support::Running::start(&mut psql);
    let copy = format!("{shop}_copy");
    let mut seen = 0;
    for _ in 0..3 {
        place.backup(&shop);
        seen += u32::from(transfers.is_running());
        place.pgkeep(&["restore", "latest", "--to-database", &copy]).ok();
        let sum = "SELECT (SELECT money FROM left_side) + (SELECT money FROM right_side)";
        assert_eq!(cluster().psql(&copy, sum), "100000");
        cluster().psql("postgres", &format!("DROP DATABASE {copy}"));
    }
    assert!(seen > 0, "nothing was changed while the backups were made");
}

/// The names and rows of every table, in hexadecimal, of a database whose names are in no encoding.
fn raw_names_and_rows(database: &str) -> String {
    cluster().psql(
        database,
        "SELECT encode(convert_to(nspname || '.' || relname, 'SQL_ASCII'), 'hex'), (xpath('/row/c/text()', query_to_xml(
                    format('SELECT count(*) AS c FROM %I.%I', nspname, relname), false, true, '')))[1]::text,
                (xpath('/row/c/text()', query_to_xml(
                    format('SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) AS c FROM %I.%I t', nspname, relname),
                    false, true, '')))[1]::text
           FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
          WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
    )
}

#[test]
fn names_and_rows_that_are_not_utf8_come_back_byte_by_byte() {
    let place = Place::ready();
    let name = "objects_ascii";
    cluster().psql(
        "postgres",
        &format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"),
    );
    let mut sql = b"SET client_encoding = 'SQL_ASCII';
        CREATE TABLE \"caf\xe9\" (\"c\xf6l\" text CONSTRAINT \"k\xe9y\" UNIQUE); INSERT INTO \"caf\xe9\" VALUES ('\xe9'), ('\xff\xfe'), ('\xc3\xa9');
        CREATE TABLE \"caf\\xe9\" (n int); INSERT INTO \"caf\\xe9\" VALUES (1);
        CREATE TABLE \"caf\xc3\xa9\" (n int); INSERT INTO \"caf\xc3\xa9\" VALUES (1), (2);
        CREATE SCHEMA \"sch\xe9\"\"ma\"; CREATE TABLE \"sch\xe9\"\"ma\".\"t '\" AS SELECT generate_series(1, 5);
        ALTER TABLE \"caf\xe9\" ADD CONSTRAINT \"ch\xe9ck\" CHECK (length(\"c\xf6l\") < 9) NOT VALID;
        CREATE VIEW \"v\xfc\" AS SELECT * FROM \"caf\xe9\"; COMMENT ON TABLE \"caf\xe9\" IS '\xe9';"
        .to_vec();
    sql.push(b'\n');
    cluster().psql_file(name, &place.put("names.sql", &sql));
    let (rows, dump) = (raw_names_and_rows(name), cluster().dump(name));
    assert!(rows.contains("636166e9|3|"), "{rows}");
    place.backup(name);
    assert_eq!(
        shown(&place),
        [("public.caf\\xe9", 1), ("public.café", 2), ("sch\\xe9\"ma.t '", 5)]
            .map(|(table, rows)| (table.to_owned(), rows))
            .into()
    );
    let report = place.pgkeep(&["--output", "json", "restore", "latest", "--yes"]).ok().json();
    assert_eq!((raw_names_and_rows(name), cluster().dump(name)), (rows, dump));
    let kept = report["kept_as"].as_str().expect("a name");
    for name in [name, kept] {
        cluster().psql("postgres", &format!("DROP DATABASE {}", quoted(name)));
    }
}

#[test]
fn a_databases_own_texts_that_are_not_utf8_are_warned_of() {
    let place = Place::ready();
    let name = "objects_latin_comment";
    cluster().psql(
        "postgres",
        &format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"),
    );
    let sql = b"SET client_encoding = 'SQL_ASCII'; COMMENT ON DATABASE objects_latin_comment IS 'caf\xe9'; CREATE TABLE t ();";
    cluster().psql_file(name, &place.put("comment.sql", sql));
    let run = place.pgkeep(&["backup", "database", name]).ended_with(3);
    assert!(
        run.stderr.contains("is not UTF-8 and is kept as \"caf\\xe9\"")
            || run.stdout.contains("is not UTF-8 and is kept as \"caf\\xe9\""),
        "{}{}",
        run.stdout,
        run.stderr
    );
    place.pgkeep(&["restore", "latest", "--yes", "--drop-old"]).ok();
    cluster().psql("postgres", &format!("DROP DATABASE {name}"));
}

#[test]
fn a_database_whose_name_is_not_utf8_is_refused_and_stands_in_nobodys_way() {
    use std::os::unix::ffi::OsStrExt;
    let own = Cluster::own(&[]);
    let place = Place::on(&own);
    own.psql("postgres", "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    let sql = b"SET client_encoding = 'SQL_ASCII'; CREATE ROLE \"jos\xe9\" LOGIN;\n
        CREATE DATABASE \"caf\xe9\" OWNER \"jos\xe9\" TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C';\n
        GRANT CONNECT ON DATABASE postgres TO \"jos\xe9\";";
    own.psql_file("ascii", &place.put("name.sql", sql));
    place.init();
    let check = place.pgkeep(&["check"]);
    // A machine with little room is warned.
    assert!([0, 3].contains(&check.code), "{}{}", check.stdout, check.stderr);
    let mut command = place.command(&["backup", "database"]);
    command.arg(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    let run = run(&mut command).fails_with(2);
    assert!(run.stderr.contains("UTF-8"), "{}", run.stderr);
    // The role has a right on this one: kept as well as can be, and told.
    let run = place.pgkeep(&["backup", "database", "postgres"]).ended_with(3);
    assert!(format!("{}{}", run.stdout, run.stderr).contains("jos\\xe9"), "{}{}", run.stdout, run.stderr);
    let restore = ["restore", "latest", "--to-database", "copy"];
    let run = place.pgkeep(&restore).fails_with(30);
    assert!(run.stderr.contains("no role jos\\xe9") && run.stderr.contains("hint: "), "{}", run.stderr);
    place.pgkeep(&[&restore[..], &["--no-owner", "--no-privileges"]].concat()).ok();
}

#[test]
fn more_large_objects_than_may_wait_in_the_scratch_directory_come_back() {
    const OBJECTS: u32 = 5_000;
    let place = Place::ready();
    let database = cluster().fresh_database();
    let make = format!(
        "SELECT count(lo_from_bytea(0, convert_to('object ' || n, 'UTF8'))) FROM generate_series(1, {OBJECTS}) n"
    );
    assert_eq!(cluster().psql(&database, &make), OBJECTS.to_string());
    place.backup(&database);
    let objects =
        "SELECT count(*), md5(string_agg(lo_get(oid), '' ORDER BY oid)) FROM pg_largeobject_metadata";
    let before = cluster().psql(&database, objects);
    place.pgkeep(&["restore", "latest", "--yes", "--drop-old"]).ok();
    assert_eq!(cluster().psql(&database, objects), before);
}
