//! Fifty random damages to one tenant among 200, while others are being written to; what a restore of each mode must leave
//! is worked out by a model and compared row by row.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::support::faults::wait_for;
use crate::support::{Cluster, Running, cluster};
use crate::tenants::{OWNED, ready};

/// The primary key of each table of `OWNED`, in its order; where there is none, a row is its own key.
const KEYS: [&str; 18] = [
    "t.id",
    "t.id",
    "t.tenant_id || ',' || t.number",
    "t.id",
    "t.order_id || ',' || t.line",
    "t.id",
    "t.id",
    "t.id",
    "t.id",
    "t.id",
    "t::text",
    "t.id",
    "t.id || ',' || t.day",
    "t.id",
    "t.id",
    "t.id",
    "t.tenant_id",
    "t.\"select\"",
];

/// The tenants that the writer writes to; nobody looks at their rows.
const WRITTEN: std::ops::RangeInclusive<u32> = 150..=200;

/// By table and key: the row as text, and how often it is there (more than once only without a key).
type Rows = BTreeMap<(usize, String), (String, usize)>;

/// Every tenant's rows.
fn rows(cluster: &Cluster, database: &str) -> BTreeMap<u32, Rows> {
    // What is asked for row by row is found by its key; plans that would pay for all rows at once cost seconds.
    let mut sql = String::from("SET jit = off; SET enable_hashjoin = off; SET enable_mergejoin = off; ");
    for (number, ((table, owner), key)) in OWNED.iter().zip(KEYS).enumerate() {
        let all = if number == 0 { "" } else { " UNION ALL " };
        // Inheriting tables are asked for themselves.
        write!(
            sql,
            "{all}SELECT {number}, ({owner})::text, replace(({key})::text, '|', '/'), replace(t::text, E'\\n', '\\n') FROM {table} t"
        )
        .unwrap();
    }
    let mut found: BTreeMap<u32, Rows> = BTreeMap::new();
    for line in cluster.psql(database, &sql).lines() {
        let mut fields = line.splitn(4, '|');
        let mut next = || fields.next().unwrap_or_else(|| panic!("{line}")).to_owned();
        let (number, owner, key, row) = (next().parse().unwrap(), next(), next(), next());
        // Rows that are nobody's have no owner.
        let owner = owner.parse().unwrap_or(0);
        found.entry(owner).or_default().entry((number, key)).or_insert((row, 0)).1 += 1;
    }
    found
}

/// Numbers that look random; the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A user with all that hangs on him.
fn remove_user(user: &str) -> String {
    format!(
        "DELETE FROM app.attachments WHERE user_id = {user} OR order_id IN (SELECT id FROM app.orders WHERE user_id = {user});
         DELETE FROM app.messages WHERE sender = {user} OR recipient = {user};
         UPDATE app.chickens SET egg_id = NULL WHERE user_id = {user};
         DELETE FROM app.eggs WHERE chicken_id IN (SELECT id FROM app.chickens WHERE user_id = {user});
         DELETE FROM app.chickens WHERE user_id = {user};
         DELETE FROM app.folders WHERE id / 10 = {user};
         UPDATE app.projects SET boss = NULL WHERE boss = {user};
         DELETE FROM app.users WHERE id = {user};"
    )
}

/// Everything of a tenant.
fn remove_tenant(tenant: u32) -> String {
    let mut sql: String = (1..=5).map(|n| remove_user(&format!("({tenant} * 100 + {n})"))).collect();
    write!(
        sql,
        "DELETE FROM app.tasks WHERE project_tenant = {tenant}; DELETE FROM app.projects WHERE tenant_id = {tenant};
         DELETE FROM app.log WHERE tenant_id = {tenant}; DELETE FROM app.events WHERE tenant_id = {tenant};
         DELETE FROM app.notes WHERE tenant_id = {tenant}; DELETE FROM app.secrets WHERE tenant_id = {tenant};
         DELETE FROM app.counters WHERE tenant_id = {tenant};
         DELETE FROM app.\"strange \"\"table\"\"\" WHERE tenant_id = {tenant}; DELETE FROM app.tenants WHERE id = {tenant};"
    )
    .unwrap();
    sql
}

/// Statements that damage a tenant, none of which fails whatever was damaged before.
fn damage(seed: u64, tenant: u32, random: &mut Random) -> String {
    if seed % 11 == 10 {
        return remove_tenant(tenant);
    }
    let mut sql = String::new();
    for number in 0..3 + random.below(8) {
        let one = random.below(5) + 1;
        let user = format!("({tenant} * 100 + {one})");
        let new = 10_000_000 + seed * 1000 + number;
        let exists = format!("EXISTS (SELECT FROM app.users WHERE id = {user})");
        let statement = match random.below(14) {
            0 => remove_user(&user),
            1 => format!("UPDATE app.users SET email = 'damaged {new}', tags = '{{x}}', face = NULL WHERE id = {user};"),
            2 => format!("INSERT INTO app.users (id, tenant_id, email, mood) VALUES ({new}, {tenant}, 'new {new}', 'good');"),
            3 => format!("INSERT INTO app.orders (id, user_id, plan_id) SELECT {new}, {user}, 1 WHERE {exists};
                          INSERT INTO app.items SELECT id, n, 1 FROM app.orders, generate_series(1, 3) n WHERE id = {new};"),
            4 => format!("DELETE FROM app.items WHERE order_id / 10 = {user} AND line = {};", 1 + random.below(2)),
            5 => format!("UPDATE app.items SET price = price + 1, note = NULL WHERE order_id / 10 = {user};"),
            6 => format!("DELETE FROM app.log WHERE ctid IN (SELECT ctid FROM app.log WHERE tenant_id = {tenant} LIMIT {});
                          INSERT INTO app.log VALUES ({tenant}, 'seed {seed}', NULL);", random.below(3)),
            7 => format!("UPDATE app.events SET day = day + {one}, what = 'moved' WHERE tenant_id = {tenant} AND id % 4 = {};", random.below(4)),
            8 => format!("DELETE FROM app.events WHERE tenant_id = {tenant} AND id % 4 = {};
                          INSERT INTO app.events VALUES ({new}, {tenant}, '2024-02-29', 'new');", random.below(4)),
            9 => format!("UPDATE app.folders SET name = 'renamed {seed}' WHERE id = {user} * 10 + {};
                          DELETE FROM app.folders WHERE id = {user} * 10 + 3;", random.below(4)),
            10 => format!("INSERT INTO app.folders SELECT {new}, id, NULL, 'new' FROM app.folders WHERE id = {user} * 10;"),
            11 => format!("UPDATE app.chickens SET egg_id = NULL WHERE id = {user}; DELETE FROM app.eggs WHERE id = {user};"),
            12 => format!("UPDATE app.tasks SET parent_id = NULL, what = 'alone' WHERE project_tenant = {tenant};
                           DELETE FROM app.tasks WHERE project_tenant = {tenant} AND project = {};", 1 + random.below(3)),
            _ => format!("UPDATE app.tenants SET name = 'seed {seed}', country = NULL WHERE id = {tenant};
                          DELETE FROM app.secrets WHERE tenant_id = {tenant}; DELETE FROM ONLY app.notes WHERE tenant_id = {tenant};"),
        };
        sql.push_str(&statement);
    }
    sql
}

/// What must be there afterwards.
fn model(mode: &[&str], now: &Rows, then: &Rows) -> Rows {
    match mode {
        ["--mode", "full"] => then.clone(),
        ["--mode", "merge", rest @ ..] => {
            let mut merged = now.clone();
            for (key, (row, times)) in then {
                let here = merged.entry(key.clone()).or_insert_with(|| (row.clone(), *times));
                here.1 = here.1.max(*times);
                if rest.contains(&"take") {
                    here.0.clone_from(row);
                }
            }
            merged
        }
        _ => unreachable!(),
    }
}

/// Writes to some tenants for as long as it runs, at most two minutes a time.
fn writer(cluster: &Cluster, database: &str) -> Running {
    let (first, last) = (WRITTEN.start(), WRITTEN.end());
    let sql = format!(
        "DO $$ DECLARE tenant int; BEGIN FOR n IN 1..40000 LOOP tenant := {first} + n % ({last} - {first} + 1);
           UPDATE app.users SET email = 'written ' || n WHERE id = tenant * 100 + 1 + n % 5;
           INSERT INTO app.orders (id, user_id) VALUES (500000000 + n, tenant * 100 + 1 + n % 5) ON CONFLICT DO NOTHING;
           DELETE FROM app.items WHERE order_id = tenant * 1000 + 10 + n % 10;
           DELETE FROM app.orders WHERE id = 500000000 + n - 50;
           INSERT INTO app.log VALUES (tenant, 'written', now());
           COMMIT; PERFORM pg_sleep(0.003); END LOOP; END $$"
    );
    let mut psql = cluster.client("psql");
    let running = Running::start(psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", &sql]));
    let written = "SELECT count(*) FROM app.log WHERE line = 'written'";
    wait_for("the writer", || (cluster.psql(database, written) != "0").then_some(()));
    running
}

#[test]
fn after_each_of_fifty_random_damages_a_restore_leaves_what_the_model_says() {
    let cluster = cluster();
    let (place, database) = ready(200);
    let then = rows(cluster, &database);
    assert_eq!(then.len(), 201, "200 tenants, and what is nobody's");
    let ids: Vec<String> = (1..=20).map(|tenant: u32| tenant.to_string()).collect();
    let arguments: Vec<&str> =
        ["backup", "tenant"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    place.pgkeep(&arguments).ok();
    let of_the_database = place.backup(&database);
    let mut writing = writer(cluster, &database);
    let seen = |all: &BTreeMap<u32, Rows>, without: u32| {
        let mut others = all.clone();
        others.retain(|tenant, _| *tenant != without && !WRITTEN.contains(tenant));
        others
    };
    for seed in 0..50 {
        let tenant = 1 + u32::try_from(seed % 20).unwrap();
        let mode: &[&str] = match seed % 4 {
            0 | 1 => &["--mode", "full"],
            2 => &["--mode", "merge"],
            _ => &["--mode", "merge", "--on-conflict", "take"],
        };
        let damage = damage(seed, tenant, &mut Random(seed));
        cluster.psql(&database, &damage);
        if !writing.is_running() {
            let ended = writing.wait();
            assert_eq!(ended.code, 0, "the writer was held up: {}", ended.stderr);
            writing = writer(cluster, &database);
        }
        let now = rows(cluster, &database);
        let nothing = Rows::new();
        let mine = now.get(&tenant).unwrap_or(&nothing);
        let expected = model(mode, mine, &then[&tenant]);
        let id = tenant.to_string();
        let mut restore = vec!["restore", "--tenant", &id, "--yes"];
        if seed % 25 == 24 {
            restore.insert(1, &of_the_database);
        }
        restore.extend(mode);
        let run = place.pgkeep(&restore).ok();
        let after = rows(cluster, &database);
        let at = format!("seed {seed}, tenant {tenant}, {mode:?}, after {damage}\n{}", run.stdout);
        let got = after.get(&tenant).unwrap_or(&nothing);
        for (key, row) in &expected {
            assert_eq!(got.get(key), Some(row), "{} {}: {at}", OWNED[key.0].0, key.1);
        }
        for (key, row) in got {
            assert!(
                expected.contains_key(key),
                "{} {} should not be there: {row:?}: {at}",
                OWNED[key.0].0,
                key.1
            );
        }
        assert!(seen(&after, tenant) == seen(&now, tenant), "another tenant has changed: {at}");
        if mode[1] != "full" {
            place.pgkeep(&["restore", "--tenant", &id, "--mode", "full", "--yes"]).ok();
            assert!(rows(cluster, &database)[&tenant] == then[&tenant], "{at}");
        }
    }
    writing.signal(rustix::process::Signal::INT);
    writing.wait();
}
