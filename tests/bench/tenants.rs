//! Tenants that share tables: all of them against a backup of the whole database, and one put back among others.

use super::measure::{cost, in_turns};
use super::support::{Cluster, Place};

/// 1,000 tenants, about 1 GB; one of them, number 7, has 10,000 rows more.
const FILL: &str = "
    CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE users (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES tenants, email text NOT NULL UNIQUE);
    CREATE TABLE orders (id bigint PRIMARY KEY, user_id int NOT NULL REFERENCES users, note text NOT NULL, price numeric(12, 2));
    INSERT INTO tenants SELECT n, 'tenant ' || n FROM generate_series(1, 1000) n;
    INSERT INTO users SELECT n, 1 + n % 1000, 'user' || n || '@example.com' FROM generate_series(1, 100000) n;
    INSERT INTO orders SELECT n, 1 + n % 100000, md5(n::text) || repeat('some words ', (n % 12)::int) || md5((n * 3)::text), n / 100.0
      FROM generate_series(1, 4500000) n;
    INSERT INTO orders SELECT 5000000 + n, u.id, md5(n::text), n FROM generate_series(1, 100) n, (SELECT id FROM users WHERE tenant_id = 7) u
      ON CONFLICT DO NOTHING;
    CREATE INDEX ON users (tenant_id);
    CREATE INDEX ON orders (user_id);
    VACUUM ANALYZE";

/// All of it.
pub(crate) fn tenants() {
    let cluster =
        Cluster::own(&[("shared_buffers", "512MB"), ("max_wal_size", "8GB"), ("autovacuum", "off")]);
    let place = Place::on(&cluster);
    place.init();
    cluster.create_database("saas");
    for statement in FILL.split(";\n") {
        cluster.psql("saas", statement);
    }
    place.set("PGDATABASE", "saas");
    let size = cluster.psql("postgres", "SELECT pg_size_pretty(pg_database_size('saas'))");
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
            cluster.psql("saas", "DELETE FROM orders USING users u WHERE u.id = user_id AND u.tenant_id = 7 AND orders.id % 2 = 0");
            cost(&mut place.command(&["-q", "restore", "--tenant", "7", "--yes"]))
        }],
    );
    println!(
        "restore of one tenant, half of its {} rows: {:.1} s, saving what it had before included; wanted: a few seconds",
        cluster
            .psql("saas", "SELECT count(*) FROM orders JOIN users u ON u.id = user_id WHERE u.tenant_id = 7"),
        restored[0].wall
    );
}
