//! `pgkeep backup database`.

use crate::support::{Place, cluster};

#[test]
fn a_database_comes_back_as_it_was() {
    let place = Place::ready();
    let shop = cluster().fresh_shop();
    let before = cluster().dump_with_create(&shop);
    place.backup(&shop);
    cluster().psql("postgres", &format!("DROP DATABASE {shop}"));
    place.pgkeep(&["restore", "latest", "--yes"]).ok();
    assert_eq!(cluster().dump_with_create(&shop), before);
}
