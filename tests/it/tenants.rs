//! Tenants that share tables: their backups, and restores of one among others.

use std::collections::BTreeMap;

use crate::support::{Archiving, Cluster, Place, cluster};

/// Every table with rows of tenants, and whose they are, said once more by hand: what is compared must not come from what
/// is tested.
pub(crate) const OWNED: [(&str, &str); 19] = [
    ("app.tenants", "t.id"),
    ("app.users", "t.tenant_id"),
    ("app.projects", "t.tenant_id"),
    ("app.orders", "(SELECT u.tenant_id FROM app.users u WHERE u.id = t.user_id)"),
    (
        "app.items",
        "(SELECT u.tenant_id FROM app.orders o JOIN app.users u ON u.id = o.user_id WHERE o.id = t.order_id)",
    ),
    ("app.tasks", "t.project_tenant"),
    (
        "app.folders",
        "(WITH RECURSIVE up AS (SELECT t.id, t.parent_id, t.user_id UNION ALL SELECT f.id, f.parent_id, f.user_id \
         FROM app.folders f JOIN up ON f.id = up.parent_id) SELECT u.tenant_id FROM up JOIN app.users u ON u.id = up.user_id)",
    ),
    ("app.messages", "(SELECT u.tenant_id FROM app.users u WHERE u.id = t.sender)"),
    ("app.chickens", "(SELECT u.tenant_id FROM app.users u WHERE u.id = t.user_id)"),
    (
        "app.eggs",
        "(SELECT u.tenant_id FROM app.chickens c JOIN app.users u ON u.id = c.user_id WHERE c.id = t.chicken_id)",
    ),
    ("app.log", "t.tenant_id"),
    (
        "app.attachments",
        "coalesce((SELECT u.tenant_id FROM app.users u WHERE u.id = t.user_id), (SELECT u.tenant_id FROM app.orders o \
         JOIN app.users u ON u.id = o.user_id WHERE o.id = t.order_id))",
    ),
    ("app.events", "t.tenant_id"),
    ("ONLY app.notes", "t.tenant_id"),
    ("app.long_notes", "t.tenant_id"),
    ("app.secrets", "t.tenant_id"),
    ("app.counters", "t.tenant_id"),
    ("app.\"strange \"\"table\"\"\"", "t.tenant_id"),
    ("app.plans", "0"),
];

/// Rows by table and owner.
pub(crate) fn contents(cluster: &Cluster, database: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for (table, owner) in OWNED {
        let sql = format!(
            "SELECT o, string_agg(replace(r, E'\\n', '\\n'), E'\\x01' ORDER BY r) FROM (SELECT ({owner})::text AS o, t::text AS r FROM {table} t) x \
             GROUP BY o"
        );
        for line in cluster.psql(database, &sql).split('\n').filter(|line| !line.is_empty()) {
            let (owner, rows) = line.split_once('|').unwrap_or((line, ""));
            found.insert((table.to_owned(), owner.to_owned()), rows.to_owned());
        }
    }
    found
}

pub(crate) fn of(contents: &BTreeMap<(String, String), String>, tenant: &str) -> BTreeMap<String, String> {
    let mine = contents.iter().filter(|((_, owner), _)| owner == tenant);
    mine.map(|((table, _), rows)| (table.clone(), rows.clone())).collect()
}

pub(crate) fn without(
    contents: &BTreeMap<(String, String), String>,
    tenant: &str,
) -> BTreeMap<(String, String), String> {
    let mut others = contents.clone();
    others.retain(|(_, owner), _| owner != tenant);
    others
}

/// A database with so many tenants, and a place that knows how they share its tables.
pub(crate) fn ready(tenants: u32) -> (Place, String) {
    let cluster = cluster();
    let database = cluster.fresh_database();
    let place = Place::ready();
    fill(cluster, &place, &database, tenants);
    (place, database)
}

pub(crate) fn fill(cluster: &Cluster, place: &Place, database: &str, tenants: u32) {
    cluster.psql_file(database, &place.put("tenants.sql", include_str!("tenants.sql").as_bytes()));
    cluster.psql(database, &format!("SET my.tenants = {tenants}; {FILL}"));
    place.set("PGDATABASE", database);
    place.set("TENANT_TABLES", "attachments=via:attachments_user_id_fkey+attachments_order_id_fkey");
}

const FILL: &str = "
    INSERT INTO app.tenants SELECT n, 'tenant ' || n, n % 2 + 1, (ARRAY['DE', 'FR', 'IT'])[n % 3 + 1]
      FROM generate_series(1, current_setting('my.tenants')::int) n;
    INSERT INTO app.counters SELECT id FROM app.tenants;
    INSERT INTO app.users (id, tenant_id, email, mood, tags, face, born)
      SELECT t.id * 100 + n, t.id, E'user\\t' || n || E'@\\\\example', (ARRAY['good', 'bad \"mood\"', 'so, so', NULL])[n % 4 + 1]::app.mood,
             ARRAY['a', NULL, 'b,c'], decode('00ff5c0a', 'hex'), NULL FROM app.tenants t, generate_series(1, 5) n;
    INSERT INTO app.projects SELECT t.id, n, CASE n WHEN 1 THEN '' ELSE E'line\\nbreak' END, t.id * 100 + n
      FROM app.tenants t, generate_series(1, 3) n;
    INSERT INTO app.orders (id, user_id, plan_id) SELECT id * 10 + n, id, n FROM app.users, generate_series(1, 2) n;
    INSERT INTO app.items SELECT id, n, id / 100.0, '{\"b\": 1, \"a\": [1, 2]}' FROM app.orders, generate_series(1, 2) n;
    INSERT INTO app.tasks (id, project_tenant, project, parent_id, what)
      SELECT tenant_id * 100 + number, tenant_id, number, CASE WHEN number > 1 THEN tenant_id * 100 + number - 1 END, 'w'
      FROM app.projects ORDER BY 1;
    INSERT INTO app.folders SELECT u.id * 10, NULL, u.id, 'root' FROM app.users u;
    INSERT INTO app.folders SELECT u.id * 10 + n, u.id * 10 + n - 1, NULL, 'below' FROM app.users u, generate_series(1, 3) n ORDER BY 1;
    INSERT INTO app.messages SELECT u.id, u.id, v.id, 'hello' FROM app.users u JOIN app.users v ON v.tenant_id = u.tenant_id AND v.id = u.id / 100 * 100 + 1;
    BEGIN;
    INSERT INTO app.chickens SELECT id, id, NULL FROM app.users;
    INSERT INTO app.eggs SELECT id, id FROM app.chickens;
    UPDATE app.chickens SET egg_id = id;
    COMMIT;
    INSERT INTO app.log SELECT t.id, 'twice', '2026-01-01' FROM app.tenants t, generate_series(1, 2);
    INSERT INTO app.log VALUES (NULL, 'nobody''s', NULL);
    INSERT INTO app.attachments SELECT id, NULL, id, 'u' FROM app.users;
    INSERT INTO app.attachments SELECT id * 1000, id, NULL, 'o' FROM app.orders;
    INSERT INTO app.events SELECT t.id * 10 + n, t.id, date '2025-06-01' + n * 200, 'e' FROM app.tenants t, generate_series(0, 3) n;
    INSERT INTO app.notes SELECT id, id, 'note' FROM app.tenants;
    INSERT INTO app.long_notes SELECT id, id + 1000000, 'long', 'more' FROM app.tenants;
    INSERT INTO app.secrets SELECT id, id, 'psst' FROM app.tenants;
    INSERT INTO app.\"strange \"\"table\"\"\" SELECT id, 'x', id FROM app.tenants;
    SELECT setval('app.users_id_seq', 1000000), setval('app.tasks_id_seq', 1000000);
";

/// Damages of every sort to one tenant.
pub(crate) fn wreck(cluster: &Cluster, database: &str, tenant: u32) {
    cluster.psql(
        database,
        &format!(
            "DELETE FROM app.users WHERE id = {tenant} * 100 + 2 AND false;
             DELETE FROM app.items WHERE order_id BETWEEN {tenant} * 1000 AND {tenant} * 1000 + 25;
             DELETE FROM app.attachments WHERE order_id = {tenant} * 1000 + 11;
             DELETE FROM app.orders WHERE id = {tenant} * 1000 + 11;
             UPDATE app.users SET email = 'wrecked' || id, tags = NULL WHERE tenant_id = {tenant};
             UPDATE app.folders SET name = 'lost' WHERE user_id IS NULL AND id / 1000 = {tenant};
             INSERT INTO app.users (tenant_id, email) VALUES ({tenant}, 'new');
             INSERT INTO app.orders (id, user_id) SELECT 900000000 + id, id FROM app.users WHERE tenant_id = {tenant} AND email = 'new';
             DELETE FROM app.log WHERE ctid = (SELECT min(ctid) FROM app.log WHERE tenant_id = {tenant});
             INSERT INTO app.log VALUES ({tenant}, 'new', now());
             DELETE FROM app.events WHERE tenant_id = {tenant} AND day > '2026-01-01';
             UPDATE app.events SET what = 'moved', day = '2026-03-03' WHERE tenant_id = {tenant} AND id = {tenant} * 10;
             UPDATE app.secrets SET secret = 'told' WHERE tenant_id = {tenant};
             DELETE FROM app.\"strange \"\"table\"\"\" WHERE tenant_id = {tenant};
             UPDATE app.tenants SET name = 'bankrupt' WHERE id = {tenant}"
        ),
    );
}

#[test]
fn a_wrecked_tenant_becomes_exactly_what_it_was_and_nobody_else_notices() {
    let (place, database) = ready(20);
    let cluster = cluster();
    let before = contents(cluster, &database);
    let made = place.pgkeep(&["--output", "json", "backup", "tenant", "7"]).ok().json();
    assert_eq!(made["backups"][0]["tenant"], "7");
    let rows: usize = of(&before, "7").values().map(|rows| rows.split('\u{1}').count()).sum();
    assert_eq!(made["backups"][0]["rows"], rows, "{made}");
    wreck(cluster, &database, 7);
    // Others go on.
    wreck(cluster, &database, 8);
    let wrecked = contents(cluster, &database);
    assert_ne!(of(&wrecked, "7"), of(&before, "7"));
    let plan = place.pgkeep(&["restore", "--tenant", "7", "--dry-run", "--show-rows", "3"]).ok();
    assert!(plan.stdout.contains("nothing was done"), "{}", plan.stdout);
    assert_eq!(contents(cluster, &database), wrecked);
    place.pgkeep(&["restore", "--tenant", "7"]).fails_with(5);
    let restored = place.pgkeep(&["restore", "--tenant", "7", "--yes", "--prove-others"]).ok();
    let after = contents(cluster, &database);
    assert_eq!(of(&after, "7"), of(&before, "7"), "{}", restored.stdout);
    assert_eq!(without(&after, "7"), without(&wrecked, "7"), "{}", restored.stdout);
    // What was there before comes back just as exactly.
    let undo = restored
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("pgkeep restore "))
        .expect("an undo");
    let undo: Vec<&str> = undo.split(' ').collect();
    place.pgkeep(&[&["restore"], undo.as_slice(), &["--yes"]].concat()).ok();
    assert_eq!(contents(cluster, &database), wrecked);
    let log = place.catalog("SELECT restore_mode, tenant_ids, state FROM restore_log ORDER BY id");
    assert_eq!(log.len(), 3, "{log:?}");
    assert_eq!(log[1], ["full", "[\"7\"]", "done"]);
    assert_eq!(log[0][2], "refused");
}

#[test]
fn a_merge_adds_what_is_missing_and_keeps_or_takes_what_differs() {
    let (place, database) = ready(4);
    let cluster = cluster();
    let before = contents(cluster, &database);
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    cluster.psql(
        &database,
        "DELETE FROM app.items WHERE order_id / 1000 = 2 AND line = 1;
         UPDATE app.tenants SET name = 'renamed' WHERE id = 2;
         INSERT INTO app.users (id, tenant_id, email) VALUES (777, 2, 'newer')",
    );
    place.pgkeep(&["restore", "--tenant", "2", "--mode", "merge", "--yes"]).ok();
    let count = |sql: &str| cluster.psql(&database, sql);
    assert_eq!(count("SELECT name FROM app.tenants WHERE id = 2"), "renamed");
    assert_eq!(count("SELECT count(*) FROM app.users WHERE id = 777"), "1");
    assert_eq!(of(&contents(cluster, &database), "2")["app.items"], of(&before, "2")["app.items"]);
    place.pgkeep(&["restore", "--tenant", "2", "--mode", "merge", "--on-conflict", "take", "--yes"]).ok();
    assert_eq!(count("SELECT name FROM app.tenants WHERE id = 2"), "tenant 2");
    assert_eq!(count("SELECT count(*) FROM app.users WHERE id = 777"), "1", "a merge removes nothing");
}

#[test]
fn all_tenants_are_backed_up_at_one_instant_and_listed() {
    let (place, database) = ready(12);
    let made = place.pgkeep(&["--output", "json", "backup", "tenant", "--all"]).ok().json();
    assert_eq!(made["backups"].as_array().unwrap().len(), 12);
    let listed = place.pgkeep(&["--output", "json", "list", "--tenants"]).ok().json();
    let listed = listed["tenants"].as_array().unwrap();
    assert_eq!(listed.len(), 12);
    for (listed, made) in listed.iter().zip(made["backups"].as_array().unwrap()) {
        assert_eq!(listed["tenant"], made["tenant"]);
        assert_eq!(listed["rows"], made["rows"]);
        assert_eq!(listed["backup"], made["id"]);
        assert_eq!(listed["consistent_at"], made["consistent_at"]);
    }
    place.pgkeep(&["verify", "--deep"]).ok();
    let odd = place.pgkeep(&["restore", "--tenant", " 03", "--tenant", "3", "--dry-run"]).ok();
    assert_eq!(odd.stdout.matches("tenant 3 of database").count(), 1, "{}", odd.stdout);
    place.pgkeep(&["restore", "--tenant", "3'; DROP TABLE app.log; --", "--dry-run"]).fails_with(1);
    let missing = place.pgkeep(&["backup", "tenant", "3", "99", "nobody"]).fails_with(1);
    assert!(missing.stderr.contains("\"99\", \"nobody\""), "{}", missing.stderr);
    drop(database);
}

#[test]
fn a_tenant_comes_back_out_of_a_backup_of_the_database() {
    let (place, database) = ready(6);
    let cluster = cluster();
    let before = contents(cluster, &database);
    place.backup(&database);
    wreck(cluster, &database, 3);
    let wrecked = contents(cluster, &database);
    place.pgkeep(&["restore", "--tenant", "3", "--yes"]).ok();
    let after = contents(cluster, &database);
    assert_eq!(of(&after, "3"), of(&before, "3"));
    assert_eq!(without(&after, "3"), without(&wrecked, "3"));
    assert_eq!(
        cluster.databases_like(&database),
        std::slice::from_ref(&database),
        "nothing is left beside it"
    );
}

#[test]
fn one_tenant_goes_back_in_time_and_everybody_elses_later_work_stays() {
    let archiving = Archiving::ready();
    let (cluster, place) = (&archiving.cluster, &archiving.place);
    cluster.create_database("saas");
    fill(cluster, place, "saas", 12);
    crate::pitr::backup(&archiving);
    cluster.psql("saas", "UPDATE app.tenants SET name = 'later' WHERE id = 5");
    let good = contents(cluster, "saas");
    let instant = crate::pitr::now(cluster);
    archiving.archive();
    wreck(cluster, "saas", 5);
    wreck(cluster, "saas", 6);
    let wrecked = contents(cluster, "saas");
    archiving.archive();
    let restored = place
        .pgkeep(&["restore", "--mode", "pitr", "--tenant", "5", "--target-time", &instant, "--yes"])
        .ok();
    let after = contents(cluster, "saas");
    assert_eq!(of(&after, "5"), of(&good, "5"), "{}", restored.stdout);
    assert_eq!(without(&after, "5"), without(&wrecked, "5"));
    assert!(restored.stdout.contains(", replay "), "{}", restored.stdout);
    let log = place.catalog("SELECT restore_mode, tenant_ids, target_timestamp, state FROM restore_log WHERE tenant_ids IS NOT NULL");
    assert_eq!((log[0][0].as_str(), log[0][1].as_str(), log[0][3].as_str()), ("pitr", "[\"5\"]", "done"));
    assert!(instant.starts_with(&log[0][2][..19]), "{log:?}");
    assert_eq!(place.files("state/scratch"), [""; 0]);
    // A time that can't be reached is refused before anything is made.
    place
        .pgkeep(&[
            "restore",
            "--mode",
            "pitr",
            "--tenant",
            "5",
            "--target-time",
            "2199-01-01T00:00:00Z",
            "--yes",
        ])
        .fails_with(5);
}

#[test]
fn check_says_of_every_table_whose_its_rows_are_and_what_nobody_can_tell() {
    let (place, _) = ready(2);
    let shown = || place.pgkeep(&["check"]).stdout;
    let text = shown();
    for line in [
        "app.users: by column tenant_id",
        "app.tenants: the tenants, by id",
        "app.items: through app.orders (order_id)",
        "app.folders: through app.users (user_id), else as the row above (parent_id)",
        "app.tasks: through app.projects (project_tenant, project)",
        "shared, never written: app.countries, app.plans",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    place.unset("TENANT_TABLES");
    let text = shown();
    assert!(text.contains("app.attachments: its rows belong to a tenant through"), "{text}");
    let refused = place.pgkeep(&["backup", "tenant", "1"]).fails_with(5);
    assert!(refused.stderr.contains("app.attachments"), "{}", refused.stderr);
    place.set("TENANT_TABLES", "attachments=via:nonsense");
    place.pgkeep(&["backup", "tenant", "1"]).fails_with(20);
    place.set("TENANT_TABLES", "attachments");
    place.pgkeep(&["backup", "tenant", "1"]).fails_with(20);
}

#[test]
fn tables_that_have_changed_since_are_filled_as_far_as_that_can_be() {
    let (place, database) = ready(3);
    let cluster = cluster();
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    cluster.psql(
        &database,
        "ALTER TABLE app.users ADD COLUMN since date DEFAULT '2026-01-01'; UPDATE app.users SET since = '2026-02-02';
         ALTER TABLE app.users DROP COLUMN face;
         ALTER TABLE app.events ALTER COLUMN what TYPE varchar(20);
         UPDATE app.users SET email = 'changed' WHERE id = 201;
         DELETE FROM app.messages WHERE sender = 202 OR recipient = 202;
         DELETE FROM app.secrets WHERE tenant_id = 2",
    );
    let done = place.pgkeep(&["restore", "--tenant", "2", "--yes"]).ok();
    assert!(done.stdout.contains("column face is gone"), "{}", done.stdout);
    assert!(done.stdout.contains("column what was text and is character varying(20)"), "{}", done.stdout);
    let ask = |sql: &str| cluster.psql(&database, sql);
    assert_eq!(
        ask("SELECT since FROM app.users WHERE id = 201"),
        "2026-02-02",
        "what the backup does not know is kept"
    );
    assert_eq!(ask("SELECT email LIKE 'user%' FROM app.users WHERE id = 201"), "t");
    assert_eq!(ask("SELECT count(*) FROM app.secrets WHERE tenant_id = 2"), "1");
    cluster.psql(&database, "ALTER TABLE app.users ADD COLUMN must int; UPDATE app.users SET must = 1; ALTER TABLE app.users ALTER must SET NOT NULL");
    let refused = place.pgkeep(&["restore", "--tenant", "2", "--yes"]).fails_with(5);
    assert!(refused.stderr.contains("column must"), "{}", refused.stderr);
}

#[test]
fn what_stands_in_the_way_is_refused_by_name_and_nothing_is_changed() {
    let (place, database) = ready(5);
    let cluster = cluster();
    place.pgkeep(&["backup", "tenant", "3"]).ok();
    // Somebody else has the key; a shared row is gone; a row of another hangs on one that would go.
    for (damage, words) in [
        (
            "DELETE FROM app.notes WHERE tenant_id = 3; INSERT INTO app.notes VALUES (4, 3, 'mine')",
            "app.notes: 1 row with a key (id) that a row of somebody else has now",
        ),
        (
            "UPDATE app.tenants SET country = 'FR' WHERE country = 'DE'; DELETE FROM app.countries WHERE code = 'DE'",
            "1 row referring to rows of app.countries that are gone",
        ),
        (
            "INSERT INTO app.users (id, tenant_id, email) VALUES (5555, 3, 'new');
             INSERT INTO app.messages VALUES (5555, 401, 5555, 'from another')",
            "1 row of app.messages belonging to two tenants at once",
        ),
        (
            "INSERT INTO app.users (id, tenant_id, email) VALUES (5555, 3, 'new');
             UPDATE app.projects SET boss = 5555 WHERE tenant_id = 4 AND number = 1",
            "(foreign key projects_boss_fkey)",
        ),
    ] {
        let copy = cluster.fresh_database();
        cluster.psql("postgres", &format!("DROP DATABASE {copy}"));
        cluster.psql("postgres", &format!("CREATE DATABASE {copy} TEMPLATE {database}"));
        cluster.psql(&copy, damage);
        let before = contents(cluster, &copy);
        let backup = place.catalog("SELECT id FROM backups WHERE tenant_id = '3' AND NOT before_restore")[0]
            [0]
        .clone();
        let refused =
            place.pgkeep(&["restore", &backup, "--tenant", "3", "--database", &copy, "--yes"]).fails_with(5);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert_eq!(contents(cluster, &copy), before);
    }
}

#[test]
fn killed_at_any_step_the_tenant_is_as_before_or_as_after() {
    let (place, database) = ready(4);
    let cluster = cluster();
    let good = contents(cluster, &database);
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    for step in ["TenantRemoved", "TenantWritten", "TenantCommitted"] {
        for how in ["kill", "term", "fail"] {
            wreck(cluster, &database, 2);
            let wrecked = contents(cluster, &database);
            let stop = format!("{step}:{how}");
            let run =
                place.pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &["restore", "--tenant", "2", "--yes"]);
            // A signal may come a moment too late.
            assert!(run.code != 0 || how == "term", "{stop}");
            crate::support::faults::wait_for("the session to end", || {
                let sql = format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'pgkeep%'"
                );
                (cluster.psql("postgres", &sql) == "0").then_some(())
            });
            let after = contents(cluster, &database);
            if step == "TenantCommitted" || run.code == 0 {
                assert_eq!(of(&after, "2"), of(&good, "2"), "{stop}");
                assert_eq!(without(&after, "2"), without(&wrecked, "2"), "{stop}");
            } else {
                assert_eq!(after, wrecked, "{stop}");
            }
            place.pgkeep(&["restore", "--tenant", "2", "--yes"]).ok();
            assert_eq!(of(&contents(cluster, &database), "2"), of(&good, "2"), "{stop}");
        }
    }
    assert_eq!(crate::support::faults::leftovers(&place), [""; 0]);
}

#[test]
fn tenants_with_the_strangest_keys_are_told_apart() {
    let cluster = cluster();
    let database = cluster.fresh_database();
    let place = Place::ready();
    place.set("PGDATABASE", &database);
    let keys =
        ["it's", "two words", "a\tb\\n", "ünï 🦀", "'; DROP TABLE orgs; --", "\"quoted\"", "100%", "{a,b}"];
    cluster.psql(
        &database,
        "CREATE TABLE orgs (key text PRIMARY KEY); CREATE TABLE rows (id serial PRIMARY KEY, tenant_id text REFERENCES orgs, n int)",
    );
    for key in keys {
        let literal = key.replace('\'', "''");
        cluster.psql(
            &database,
            &format!("INSERT INTO orgs VALUES ('{literal}'); INSERT INTO rows (tenant_id, n) SELECT '{literal}', n FROM generate_series(1, 3) n"),
        );
    }
    let all = || cluster.psql(&database, "SELECT string_agg(r::text, '|' ORDER BY id) FROM rows r");
    let before = all();
    let made = place.pgkeep(&["--output", "json", "backup", "tenant", "--all"]).ok().json();
    assert_eq!(made["backups"].as_array().unwrap().len(), keys.len());
    for key in keys {
        let literal = key.replace('\'', "''");
        cluster.psql(&database, &format!("DELETE FROM rows WHERE tenant_id = '{literal}' AND n < 3"));
        place.pgkeep(&["restore", "--tenant", key, "--yes"]).ok();
        assert_eq!(all(), before, "{key}");
    }
}

#[test]
fn two_restores_of_one_tenant_do_not_mix_and_its_own_writers_are_noticed() {
    let (place, database) = ready(3);
    let cluster = cluster();
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    wreck(cluster, &database, 2);
    let before = contents(cluster, &database);
    // As another restore would hold it.
    let lock =
        "SELECT pg_advisory_lock(hashtextextended('pgkeep tenant app.tenants 2', 20261125)), pg_sleep(20)";
    let mut client = cluster.client("psql");
    client.args(["--no-psqlrc", "-d", &database, "-c", lock]);
    let holder = crate::support::Running::start(&mut client);
    crate::support::faults::wait_for("the lock", || {
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        (cluster.psql(&database, held) == "1").then_some(())
    });
    let refused = place.pgkeep(&["restore", "--tenant", "2", "--yes", "--wait", "0"]).fails_with(11);
    assert!(refused.stderr.contains("another restore of tenant \"2\""), "{}", refused.stderr);
    assert_eq!(contents(cluster, &database), before);
    cluster.psql("postgres", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"));
    holder.wait();
    place.pgkeep(&["restore", "--tenant", "2", "--yes"]).ok();
}

#[test]
fn what_nobody_would_check_is_refused_and_sequences_are_never_set_back() {
    let cluster = cluster();
    let database = cluster.fresh_database();
    let place = Place::ready();
    place.set("PGDATABASE", &database);
    let ask = |sql: &str| cluster.psql(&database, sql);
    ask("CREATE TABLE orgs (id int PRIMARY KEY);
         CREATE TABLE users (id serial PRIMARY KEY, tenant_id int NOT NULL REFERENCES orgs, slug text NOT NULL);
         CREATE TABLE lines (tenant_id int, line text);
         INSERT INTO orgs VALUES (1), (2);
         INSERT INTO users (tenant_id, slug) SELECT 1 + n % 2, 's' || n FROM generate_series(1, 30) n;
         INSERT INTO lines SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 700) n;
         INSERT INTO lines SELECT 1, 'short'");
    place.pgkeep(&["backup", "tenant", "--all"]).ok();
    // A sequence that was not asked since it was set; a line longer than an index can hold; a numbered column that is new.
    ask("SELECT setval('users_id_seq', 301, false); DELETE FROM users WHERE id = 4; DELETE FROM lines;
         ALTER TABLE lines ADD COLUMN id bigserial PRIMARY KEY");
    place.pgkeep(&["restore", "--tenant", "1", "--yes"]).ok();
    assert_eq!(ask("SELECT count(*) FROM users WHERE tenant_id = 1"), "15");
    assert_eq!(ask("SELECT count(*), max(length(line)) FROM lines"), "2|22400");
    assert_eq!(ask("SELECT nextval('users_id_seq')"), "301");
    // Of several tenants one is refused: what was done to the others is said, with what undoes it.
    ask(
        "DELETE FROM users WHERE id IN (4, 5); INSERT INTO orgs VALUES (3); INSERT INTO users VALUES (5, 3, 'taken')",
    );
    let owner = |id: u32| ask(&format!("SELECT tenant_id FROM users WHERE id = {id}"));
    let run = place.pgkeep(&["restore", "--tenant", "1", "--tenant", "2", "--yes"]).ended_with(3);
    assert!(run.stdout.contains("tenant 2 NOT restored: "), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("--tenant 1 --mode full"), "{}", run.stdout);
    assert_eq!((owner(4), owner(5)), ("1".to_owned(), "3".to_owned()));
    place.pgkeep(&["restore", "--tenant", "2", "--tenant", "1", "--yes"]).fails_with(5);
    ask("DELETE FROM users WHERE tenant_id = 3");
    // The server checks a deferrable constraint by a trigger.
    ask("ALTER TABLE users ADD UNIQUE (slug) DEFERRABLE");
    let refused = place.pgkeep(&["restore", "--tenant", "1", "--yes"]).fails_with(5);
    assert!(refused.stderr.contains("is deferrable"), "{}", refused.stderr);
    let missing = place.pgkeep(&["backup", "tenant", "nobody", "1"]).fails_with(1);
    assert!(missing.stderr.contains("\"nobody\""), "{}", missing.stderr);
}

#[test]
fn a_backup_whose_manifest_counts_other_rows_than_it_holds_is_refused() {
    use crate::golden::{open_with, reseal_with};
    let (place, database) = ready(3);
    let cluster = cluster();
    let made = place.pgkeep(&["--output", "json", "backup", "tenant", "2"]).ok().json();
    let id = made["backups"][0]["id"].as_str().unwrap().to_owned();
    wreck(cluster, &database, 2);
    let wrecked = contents(cluster, &database);
    let path = place.store().join("test/backups").join(&id).join("manifest");
    let key = place.setting("BACKUP_ENCRYPTION_KEY");
    let right = open_with(&path, &key);
    let tables = right.body["tenant"]["tables"].as_array().unwrap().len();
    for (table, more) in (0..tables).map(|table| (table, 1)).chain([(0, -1)]) {
        let mut wrong = open_with(&path, &key);
        let rows = &mut wrong.body["tenant"]["tables"][table]["rows"];
        *rows = (rows.as_i64().unwrap() + more).into();
        reseal_with(&path, &wrong, &key);
        std::fs::remove_dir_all(place.state()).unwrap();
        place.pgkeep(&["catalog", "rebuild"]).ok();
        let refused = place.pgkeep(&["restore", &id, "--tenant", "2", "--yes"]).fails_with(4);
        assert!(refused.stderr.contains("its manifest says"), "{}", refused.stderr);
        assert_eq!(contents(cluster, &database), wrecked, "table {table}");
        reseal_with(&path, &right, &key);
    }
    std::fs::remove_dir_all(place.state()).unwrap();
    place.pgkeep(&["catalog", "rebuild"]).ok();
    place.pgkeep(&["restore", &id, "--tenant", "2", "--yes"]).ok();
}
