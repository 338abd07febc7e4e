//! A tenant made anew beside the old one.

use crate::support::{Cluster, Place, cluster};
use crate::tenants::ready;

const TABLES: &str = "
    CREATE TABLE orgs (id int PRIMARY KEY, name text NOT NULL, parent_id int REFERENCES orgs);
    CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int NOT NULL REFERENCES orgs, email text NOT NULL,
        UNIQUE (tenant_id, email));
    CREATE TABLE projects (tenant_id int NOT NULL REFERENCES orgs, number int NOT NULL, boss bigint REFERENCES users,
        PRIMARY KEY (tenant_id, number));
    CREATE TABLE tasks (id serial PRIMARY KEY, tenant_id int NOT NULL, project int NOT NULL, parent_id int REFERENCES tasks,
        FOREIGN KEY (tenant_id, project) REFERENCES projects);
    CREATE TABLE files (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id bigint NOT NULL REFERENCES users, name text);
    CREATE TABLE versions (file_id uuid NOT NULL REFERENCES files, number int NOT NULL, bytes int, PRIMARY KEY (file_id, number));
    CREATE TABLE profiles (user_id bigint PRIMARY KEY REFERENCES users, bio text);
    CREATE TABLE log (tenant_id int, line text);
    -- Decided by a foreign key although it has the column; numbered without a key, twice the same; no room behind the last.
    CREATE TABLE drafts (user_id bigint NOT NULL REFERENCES users, tenant_id bigint, number serial, body text);
    CREATE TABLE marks (id smallserial PRIMARY KEY, tenant_id int NOT NULL REFERENCES orgs);
    INSERT INTO orgs VALUES (1, 'one', NULL), (2, 'two', 1), (3, 'three', 2);
    INSERT INTO users (tenant_id, email) SELECT o.id, 'user' || n FROM orgs o, generate_series(1, 4) n;
    INSERT INTO projects SELECT u.tenant_id, 1 + u.id % 4, u.id FROM users u;
    INSERT INTO tasks (tenant_id, project, parent_id) SELECT tenant_id, number, NULL FROM projects;
    INSERT INTO tasks (tenant_id, project, parent_id) SELECT tenant_id, project, id FROM tasks;
    INSERT INTO files (user_id, name) SELECT id, 'file of ' || email FROM users;
    INSERT INTO versions SELECT id, n, n * 10 FROM files, generate_series(1, 3) n;
    INSERT INTO profiles SELECT id, 'bio of ' || email FROM users;
    INSERT INTO log SELECT id, 'twice' FROM orgs, generate_series(1, 2);
    INSERT INTO drafts (user_id, tenant_id, number, body) SELECT id, tenant_id, 1 + (id - 1) / 2, email FROM users;
    INSERT INTO marks SELECT 32760 + id, id FROM orgs; INSERT INTO marks VALUES (32767, 1);
    SELECT setval('drafts_number_seq', 100)";

/// What a tenant has, told without any of its own keys.
fn told(cluster: &Cluster, database: &str, tenant: u32) -> String {
    cluster.psql(
        database,
        &format!(
            "SELECT o.name, o.parent_id FROM orgs o WHERE id = {tenant};
             SELECT email, bio FROM users u JOIN profiles p ON p.user_id = u.id WHERE tenant_id = {tenant} ORDER BY 1;
             SELECT number, u.email, u.tenant_id = p.tenant_id FROM projects p JOIN users u ON u.id = boss WHERE p.tenant_id = {tenant} ORDER BY 1;
             SELECT t.project, p.project, p.tenant_id = t.tenant_id FROM tasks t LEFT JOIN tasks p ON p.id = t.parent_id WHERE t.tenant_id = {tenant} ORDER BY 1, 2;
             SELECT f.name, v.number, v.bytes FROM files f JOIN users u ON u.id = f.user_id JOIN versions v ON v.file_id = f.id
               WHERE u.tenant_id = {tenant} ORDER BY 1, 2;
             SELECT line FROM log WHERE tenant_id = {tenant};
             SELECT d.body, d.tenant_id = u.tenant_id, dense_rank() OVER (ORDER BY number) FROM drafts d JOIN users u ON u.id = d.user_id
               WHERE u.tenant_id = {tenant} ORDER BY 1;
             SELECT count(*) FROM marks WHERE tenant_id = {tenant} HAVING count(*) > 0"
        ),
    )
}

fn small() -> (Place, String) {
    let database = cluster().fresh_database();
    let place = Place::ready();
    place.set("PGDATABASE", &database);
    place.set("TENANT_TABLES", "drafts=via:drafts_user_id_fkey");
    cluster().psql(&database, TABLES);
    (place, database)
}

#[test]
fn a_tenant_is_made_anew_beside_the_old_one_and_nobody_else_is_touched() {
    let (place, database) = small();
    let cluster = cluster();
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    let then = told(cluster, &database, 2);
    cluster.psql(
        &database,
        "UPDATE users SET email = 'later' || id WHERE tenant_id = 2; DELETE FROM log WHERE tenant_id = 2",
    );
    let others = || [1, 2, 3].map(|tenant| told(cluster, &database, tenant));
    let numbers = || cluster.psql(&database, "SELECT nextval('users_id_seq'), nextval('tasks_id_seq')");
    let before = others();
    // A plan draws no number.
    let first = numbers();
    let plan =
        place.pgkeep(&["restore", "--tenant", "2", "--as", "77", "--dry-run", "--show-rows", "2"]).ok();
    assert!(plan.stdout.contains("tenant 77, made anew of tenant 2"), "{}", plan.stdout);
    let (a, b) = first.split_once('|').unwrap();
    let next = |text: &str| text.parse::<u64>().unwrap() + 1;
    assert_eq!(numbers(), format!("{}|{}", next(a), next(b)), "drawn by a dry run");
    let made = place
        .pgkeep(&["--output", "json", "restore", "--tenant", "2", "--as", "77", "--yes", "--prove-others"])
        .ok();
    assert_eq!(made.json()["tenants"][0]["plan"]["made_of"], "2");
    assert_eq!(told(cluster, &database, 77), then);
    assert_eq!(others(), before);
    let shared =
        "SELECT count(*) FROM users a JOIN users b USING (id) WHERE a.tenant_id = 2 AND b.tenant_id = 77";
    assert_eq!(cluster.psql(&database, shared), "0");
    let twice = "SELECT count(*) FROM drafts a JOIN drafts b USING (number) WHERE a.tenant_id = 2 AND b.tenant_id = 77";
    assert_eq!(cluster.psql(&database, twice), "0", "numbers without a key are not there twice either");
    // The database goes on numbering behind what was made.
    cluster.psql(&database, "INSERT INTO users (tenant_id, email) VALUES (77, 'next'); INSERT INTO tasks (tenant_id, project) VALUES (77, 1)");
    // It is a tenant as every other.
    place.pgkeep(&["backup", "tenant", "77"]).ok();
    let listed = place.pgkeep(&["list", "--tenants"]).ok();
    assert!(listed.stdout.contains("\n77 "), "{}", listed.stdout);
    let log = place.catalog("SELECT tenant_ids, state FROM restore_log ORDER BY id DESC LIMIT 1");
    assert_eq!(log[0], ["[\"77\"]", "done"]);
    // Again: the key is taken.
    let taken = place.pgkeep(&["restore", "--tenant", "2", "--as", "77", "--yes"]).fails_with(5);
    assert!(taken.stderr.contains("tenant \"77\" has rows in public."), "{}", taken.stderr);
    place.pgkeep(&["restore", "--tenant", "2", "--as", "no number", "--yes"]).fails_with(1);
    place.pgkeep(&["restore", "--tenant", "2", "--tenant", "3", "--as", "78", "--yes"]).fails_with(2);
    place.pgkeep(&["restore", "--tenant", "2", "--as", "78", "--mode", "merge", "--yes"]).fails_with(2);
}

#[test]
fn a_tenant_whose_original_is_gone_comes_back_under_another_key_out_of_the_databases_backup() {
    let (place, database) = small();
    let cluster = cluster();
    let then = told(cluster, &database, 3);
    place.backup(&database);
    cluster.psql(
        &database,
        "DELETE FROM drafts WHERE tenant_id = 3; DELETE FROM marks WHERE tenant_id = 3;
         DELETE FROM versions v USING files f, users u WHERE f.id = file_id AND u.id = user_id AND tenant_id = 3;
         DELETE FROM files f USING users u WHERE u.id = user_id AND tenant_id = 3;
         DELETE FROM profiles p USING users u WHERE u.id = user_id AND tenant_id = 3;
         DELETE FROM tasks WHERE tenant_id = 3; DELETE FROM projects WHERE tenant_id = 3;
         DELETE FROM log WHERE tenant_id = 3; DELETE FROM users WHERE tenant_id = 3; DELETE FROM orgs WHERE id = 3",
    );
    let rest = [1, 2].map(|tenant| told(cluster, &database, tenant));
    place.pgkeep(&["restore", "--tenant", "3", "--as", "4", "--yes"]).ok();
    assert_eq!(told(cluster, &database, 4), then);
    assert_eq!([1, 2].map(|tenant| told(cluster, &database, tenant)), rest);
}

#[test]
fn keys_that_cannot_be_there_twice_stand_in_the_way_and_are_named() {
    let (place, database) = ready(3);
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    let count = "SELECT count(*) FROM app.tenants";
    let refused = place.pgkeep(&["restore", "--tenant", "2", "--as", "9", "--yes"]).fails_with(5);
    for table in ["app.folders", "app.messages", "app.eggs"] {
        let says = format!("{table}: ");
        assert!(refused.stderr.contains(&says), "{table}: {}", refused.stderr);
    }
    assert!(refused.stderr.contains("tenant \"2\" can't be made a second time"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("app.users: "), "its keys are made by the database: {}", refused.stderr);
    assert_eq!(cluster().psql(&database, count), "3");
    // Cut off, nothing is there; with the original gone, nothing stands in the way.
    let (place, database) = small();
    place.pgkeep(&["backup", "tenant", "2"]).ok();
    for step in ["TenantRemoved", "TenantWritten"] {
        let stop = format!("{step}:kill");
        place
            .pgkeep_with(&[("PGKEEP_TEST_STOP", &stop)], &["restore", "--tenant", "2", "--as", "9", "--yes"]);
        assert_eq!(told(cluster(), &database, 9), "", "{step}");
    }
}
