//! What belongs to a database itself: reads it, makes a new database of the same kind, brings the rest back.
//!
//! The statements are those of `pg_dump --create` (`dumpDatabase` in `src/bin/pg_dump/pg_dump.c`,
//! `makeAlterConfigCommand` in `dumputils.c`), for the version of the server that they are sent to.

mod apply;
mod capture;
mod create;

pub use apply::apply;
pub use capture::{Captured, capture};
pub use create::{create, create_statement, lacks_tablespace, missing_roles};

#[cfg(test)]
mod samples {
    use crate::format::database::{DatabaseLocale, DatabaseProperties};

    /// A database without anything special.
    pub(super) fn properties() -> DatabaseProperties {
        DatabaseProperties {
            name: "shop".to_owned(),
            owner: "boss".to_owned(),
            encoding: "UTF8".to_owned(),
            locale: DatabaseLocale {
                provider: "libc".to_owned(),
                collate: "C.UTF-8".to_owned(),
                ctype: "C.UTF-8".to_owned(),
                locale: None,
                icu_rules: None,
                collation_version: Some("153.80".to_owned()),
            },
            tablespace: "pg_default".to_owned(),
            connection_limit: -1,
            is_template: false,
            allow_connections: true,
            comment: None,
            security_labels: Vec::new(),
            default_privileges: true,
            privileges: Vec::new(),
            settings: Vec::new(),
        }
    }
}
