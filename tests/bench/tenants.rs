//! Tenants that share tables: all of them against a backup of the whole database, one put back among others out of its backup,
//! and one put back as it was at a point in time. `PGKEEP_BENCH_TENANT_ROWS` sets the rows of the largest table (default
//! 4,500,000, about 1 GB; for the last 1.4 times as many), `PGKEEP_BENCH_TENANT_WAL` the segments that are replayed (50).

use super::measure::{cost, in_turns};
use super::support::{Archiving, Cluster, Place};

/// 1,000 tenants; one of them, number 7, has 10,000 rows, the others about half as many.
const FILL: &str = "
    CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE users (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, email text NOT NULL UNIQUE);
    CREATE TABLE orders (id bigint PRIMARY KEY, user_id int NOT NULL REFERENCES users, note text NOT NULL, price numeric(12, 2));
    INSERT INTO tenants SELECT n, 'tenant ' || n FROM generate_series(1, 1000) n;
    INSERT INTO users SELECT n, 1 + n % 1000, 'user' || n || '@example.com' FROM generate_series(1, 100000) n;
    INSERT INTO orders SELECT n, 1 + n % 100000, md5(n::text) || repeat('some words ', (n % 12)::int) || md5((n * 3)::text), n / 100.0
      FROM generate_series(1, {rows}) n;
    INSERT INTO orders SELECT 50000000 + n, (SELECT id FROM users WHERE tenant_id = 7 ORDER BY id OFFSET n % 100 LIMIT 1), md5(n::text), n
      FROM generate_series(1, 10000 - (SELECT count(*) FROM orders o JOIN users u ON u.id = o.user_id WHERE u.tenant_id = 7)) n;
    CREATE INDEX ON users (tenant_id);
    CREATE INDEX ON orders (user_id);
    VACUUM ANALYZE;
    CHECKPOINT";

const HALF: &str =
    "DELETE FROM orders USING users u WHERE u.id = user_id AND u.tenant_id = 7 AND orders.id % 2 = 0";
const ROWS: &str = "SELECT count(*) FROM orders JOIN users u ON u.id = user_id WHERE u.tenant_id = 7";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn rows() -> u64 {
    number("PGKEEP_BENCH_TENANT_ROWS", 4_500_000)
}

fn fill(cluster: &Cluster, place: &Place, rows: u64) -> String {
    cluster.create_database("saas");
    for statement in FILL.replace("{rows}", &rows.to_string()).split(";\n") {
        cluster.psql("saas", statement);
    }
    place.set("PGDATABASE", "saas");
    cluster.psql("postgres", "SELECT pg_size_pretty(pg_database_size('saas'))")
}

/// All of them, and one out of its backup.
pub(crate) fn tenants() {
    let cluster =
        Cluster::own(&[("shared_buffers", "512MB"), ("max_wal_size", "8GB"), ("autovacuum", "off")]);
    let place = Place::on(&cluster);
    place.init();
    let size = fill(&cluster, &place, rows());
    println!("\n## 1,000 tenants in a database of {size}");
    let costs = in_turns(
        3,
        &mut [&mut || cost(&mut place.command(&["-q", "backup", "database", "saas"])), &mut || {
            cost(&mut place.command(&["-q", "backup", "tenant", "--all"]))
        }],
    );
    println!(
        "backup tenant --all: {:.2} of the wall time of a backup of the database ({:.1} s against {:.1} s), {:.2} of the \
         processor time; wanted: at most 2 times the wall time",
        costs[1].wall / costs[0].wall,
        costs[1].wall,
        costs[0].wall,
        costs[1].cpu / costs[0].cpu
    );
    let restored = in_turns(
        3,
        &mut [&mut || {
            cluster.psql("saas", HALF);
            cost(&mut place.command(&["-q", "restore", "--tenant", "7", "--yes"]))
        }],
    );
    println!(
        "restore of one tenant out of its backup, half of its {} orders gone: {:.1} s, saving what it had before included; \
         wanted: a few seconds",
        cluster.psql("saas", ROWS),
        restored[0].wall
    );
    cluster.psql("saas", HALF);
    println!("{}", one(&place, &["restore", "--tenant", "7", "--yes"]));
}

/// One of them as it was before the last of many segments of WAL.
pub(crate) fn back_in_time() {
    let archiving = Archiving::on(Cluster::own(&[
        ("shared_buffers", "512MB"),
        ("max_wal_size", "8GB"),
        ("autovacuum", "off"),
        ("archive_mode", "on"),
        // What it takes to make the rows is not what is measured.
        ("archive_command", "/bin/true"),
        ("max_wal_senders", "5"),
    ]));
    let (cluster, place) = (&archiving.cluster, &archiving.place);
    let rows = rows() / 10 * 14;
    fill(cluster, place, rows);
    archiving.begin();
    archiving.archive();
    place.pgkeep(&["-q", "backup", "cluster", "--fast"]).ok();
    let size = cluster.psql("postgres", "SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database");
    let segments = number("PGKEEP_BENCH_TENANT_WAL", 50);
    let begun = cluster.psql("postgres", "SELECT pg_current_wal_lsn()");
    let written = format!(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{begun}') >= {segments} * (SELECT setting::int8 FROM pg_settings \
         WHERE name = 'wal_segment_size')"
    );
    // Everybody's later work, all over the table.
    let mut turn = 0;
    while cluster.psql("postgres", &written) != "t" {
        let sql =
            format!("UPDATE orders SET price = price + 1 WHERE id % 97 = {} AND id < 50000000", turn % 97);
        cluster.psql("saas", &sql);
        turn += 1;
    }
    let instant = cluster.psql(
        "postgres",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    cluster.psql("saas", HALF);
    archiving.archive();
    println!("\n## One tenant back in time, out of a cluster of {size} and {segments} segments of WAL");
    let pitr = ["restore", "--mode", "pitr", "--tenant", "7", "--target-time", &instant, "--yes"];
    for _ in 0..3 {
        println!("{}", one(place, &pitr));
        cluster.psql("saas", HALF);
    }
}

/// Runs a restore, and says how long each of its parts took.
fn one(place: &Place, arguments: &[&str]) -> String {
    let report = place.pgkeep(&[&["--output", "json"], arguments].concat()).ok().json();
    let parts = report["phases"].as_array().expect("phases").iter().map(|phase| {
        let name = match phase["name"].as_str().expect("a name") {
            "restore the cluster" => "fetch",
            name => name,
        };
        format!("{name} {:.1} s", phase["seconds"].as_f64().expect("seconds"))
    });
    format!(
        "{:.1} s in all: {}; {} rows written",
        report["seconds"].as_f64().expect("seconds"),
        parts.collect::<Vec<_>>().join(", "),
        report["tenants"][0]["applied"]["written"]
    )
}
