//! The ways through the wizard that are gone less often: every answer that `wizard.rs` leaves out.

use crate::pitr::fresh;
use crate::support::dialog::{CTRL_C, Dialog, ENTER, ESC};
use crate::support::{Archiving, give};
use crate::wizard::{DATABASE, MACHINE, REHEARSE, ROWS, TENANT, WHAT, Way, orders, wizard, wrecked};

/// Ends well.
#[track_caller]
fn ends(dialog: &mut Dialog) {
    let (code, text) = dialog.end();
    assert_eq!(code, 0, "{text}");
}

#[test]
fn requirement_6_26_a_rehearsal_restores_a_database_under_another_name() {
    let archiving = wrecked();
    let mut dialog = wizard(&archiving.place);
    dialog
        .answer(WHAT, REHEARSE)
        .answer("What do you want to rehearse?", "another name")
        .answer("Which backup?", "local")
        .answer("Name of the new database:", "")
        .answer("Type the name of the new database (shop_restored) to go on:", "shop_restored");
    ends(&mut dialog);
    assert_eq!(archiving.cluster.psql("shop_restored", "SELECT count(*) FROM orders"), "300");
    assert_eq!(orders(&archiving, "acme"), "10", "nothing of what is in use has changed");
}

#[test]
fn requirement_6_26_with_the_machine_gone_one_database_can_come_first() {
    let archiving = wrecked();
    archiving.cluster.psql("postgres", "DROP DATABASE shop");
    let mut dialog = wizard(&archiving.place);
    dialog
        .answer(WHAT, MACHINE)
        .answer("Do that now?", "n")
        .answer("What is to come back first?", "one database")
        .answer("Where to?", "in its place")
        .answer("Which backup?", "local")
        .answer("End the connections", "n")
        .answer("Type the name of the database (shop) to go on:", "shop");
    ends(&mut dialog);
    assert_eq!(orders(&archiving, "acme"), "100");
}

#[test]
fn requirement_6_26_between_two_backups_of_a_database_there_is_the_server_as_it_was() {
    let archiving = wrecked();
    archiving.archive();
    let data = fresh().join("data");
    let mut dialog = wizard(&archiving.place);
    dialog
        .answer(WHAT, DATABASE)
        .answer("Where to?", "in its place")
        .answer("Which backup?", "none of these")
        .answer("Back to which state?", "the newest")
        .answer("Data directory for it:", data.to_str().unwrap())
        .answer("Start the server there when it is done?", "n")
        .answer("Type the directory", data.to_str().unwrap());
    ends(&mut dialog);
    assert!(data.join("PG_VERSION").exists());
}

#[test]
fn requirement_6_26_a_tenants_changed_rows_are_undone_and_new_ones_stay() {
    let archiving = wrecked();
    archiving.cluster.psql(
        "shop",
        "UPDATE orders SET what = 'wrong' WHERE id = 2; INSERT INTO orders VALUES (1000, 'globex', 'new')",
    );
    let before = archiving.cluster.psql("shop", "SELECT tenant_id FROM orders WHERE id = 2");
    assert_eq!(before, "initech");
    let mut dialog = wizard(&archiving.place);
    dialog
        .answer(WHAT, ROWS)
        .answer("Which is the smallest that helps?", "one tenant's")
        // Nothing has that in its name, so Enter takes nothing.
        .expect("Which tenant?")
        .keys("zzz")
        .keys(ENTER)
        .keys("\x7f\x7f\x7f")
        .keys("TECH")
        .keys(ENTER)
        .answer("Another tenant too?", "n")
        .answer("Back to which state?", "its own")
        .answer("What becomes of the rows that are there now?", "undo what was changed")
        .expect("--tenant=initech --database shop --mode merge --on-conflict take")
        .answer("Type the tenant (initech) to go on:", "initech");
    ends(&mut dialog);
    assert_eq!(archiving.cluster.psql("shop", "SELECT what FROM orders WHERE id = 2"), "thing 2");
    assert_eq!(orders(&archiving, "globex"), "101");
    assert_eq!(orders(&archiving, "acme"), "10");
}

/// Another database, that has no tenants.
fn and_another(archiving: &Archiving) {
    archiving.cluster.psql("postgres", "CREATE DATABASE other");
    archiving.cluster.psql("other", "CREATE TABLE plain AS SELECT 1 AS n");
    archiving.place.backup("other");
}

#[test]
fn requirement_6_26_of_two_databases_the_right_one_is_asked_for() {
    let archiving = wrecked();
    and_another(&archiving);
    archiving.cluster.psql("other", "DROP TABLE plain");
    let mut dialog = wizard(&archiving.place);
    dialog
        .answer(WHAT, DATABASE)
        .answer("Which database?", "other")
        .expect("database other")
        .answer("Where to?", "beside")
        .answer("Which backup?", "local")
        .answer("Name of the new database:", "")
        .answer("Type the name of the new database (other_restored) to go on:", "other_restored");
    ends(&mut dialog);
    assert_eq!(archiving.cluster.psql("other_restored", "TABLE plain"), "1");
}

#[test]
fn requirement_6_26_whoever_leaves_at_a_rarer_question_leaves_nothing_behind() {
    let archiving = wrecked();
    and_another(&archiving);
    let used = fresh();
    std::fs::write(used.join("file"), "in use").unwrap();
    give(&used.join("file"));
    let text = |text: &str| text.to_owned();
    // Each with the questions at which somebody leaves.
    let ways: [(Way, &[usize]); 4] = [
        (
            vec![
                (WHAT, text(TENANT)),
                ("Which database?", text("other")),
                ("The tenant's key:", text("17")),
                ("Back to which state?", text("the database")),
                ("What becomes of the rows that are there now?", text("new key")),
                ("The new tenant's key:", text("18")),
            ],
            &[1, 2, 5],
        ),
        (vec![(WHAT, text(REHEARSE)), ("What do you want to rehearse?", text("another name"))], &[1]),
        (
            vec![
                (WHAT, text(MACHINE)),
                ("Do that now?", text("n")),
                ("What is to come back first?", text("the whole server")),
                ("Back to which state?", text("the newest")),
                ("Data directory for it:", used.display().to_string()),
                ("There is something in it.", text("choose another")),
                ("Data directory for it:", text("")),
            ],
            &[5, 6],
        ),
        (
            vec![
                (WHAT, text(TENANT)),
                ("Which database?", text("shop")),
                ("Which tenant?", text("acme")),
                ("Another tenant too?", text("y")),
                ("Which tenant?", text("init")),
                ("Another tenant too?", text("n")),
                ("Back to which state?", text("the newest")),
                ("What becomes of the rows that are there now?", text("only put back")),
                ("Type how many tenants these are", text("")),
            ],
            &[4, 8],
        ),
    ];
    let state = || {
        (
            archiving.cluster.databases_like(""),
            archiving.place.files("store/test/backups"),
            archiving.place.files("state/locks"),
        )
    };
    let before = state();
    for (way, leave) in &ways {
        for at in *leave {
            for key in [ESC, CTRL_C] {
                let mut dialog = wizard(&archiving.place);
                for (question, answer) in &way[..*at] {
                    dialog.answer(question, answer);
                }
                let question = way[*at].0;
                dialog.expect(question).keys(key);
                let (code, text) = dialog.end();
                assert_eq!(code, 130, "{question} {key:?}: {text}");
                assert!(text.contains("nothingwaschanged"), "{question} {key:?}: {text}");
            }
        }
    }
    assert_eq!(state(), before);
    assert_eq!(std::fs::read_to_string(used.join("file")).unwrap(), "in use");
    assert!(archiving.place.catalog("SELECT * FROM restore_log WHERE state <> 'interrupted'").is_empty());
}
