//! Reads what a database is.

use crate::format::database::{
    DatabaseLocale, DatabasePrivilege, DatabaseProperties, DatabaseSetting, SecurityLabel,
};
use crate::model::{Fault, Kind};
use crate::postgres::Server;
use crate::postgres::text::ServerText;
use tokio_postgres::Row;

/// The properties of a database as they were read.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The properties.
    pub properties: DatabaseProperties,
    /// Those of their texts that were not UTF-8, in the form that they have there (`caf\xe9`): a restore cannot bring
    /// them back as they were. Roles and settings are shared by all databases and may come from one of another
    /// encoding.
    pub altered: Vec<String>,
}

/// Collects texts, and which of them were not UTF-8.
#[derive(Debug, Default)]
struct Texts {
    altered: Vec<String>,
}

impl Texts {
    fn take(&mut self, row: &Row, column: usize) -> String {
        self.note(&row.get(column))
    }

    fn take_or_null(&mut self, row: &Row, column: usize) -> Option<String> {
        row.get::<_, Option<ServerText>>(column).map(|text| self.note(&text))
    }

    fn note(&mut self, text: &ServerText) -> String {
        let shown = text.shown();
        if !text.is_utf8() && !self.altered.contains(&shown) {
            self.altered.push(shown.clone());
        }
        shown
    }
}

/// Reads the properties of the database; on a connection inside a snapshot they belong to that instant.
pub async fn capture(server: &Server, name: &str) -> anyhow::Result<Captured> {
    let action = format!("read the properties of database \"{name}\"");
    let version = server.version_num();
    let (provider, collation_version) =
        if version >= 150_000 { ("d.datlocprovider::text", "d.datcollversion") } else { ("'c'", "NULL") };
    let locale = match version {
        170_000.. => "d.datlocale",
        150_000.. => "d.daticulocale",
        _ => "NULL",
    };
    let rules = if version >= 160_000 { "d.daticurules" } else { "NULL" };
    let sql = format!(
        "SELECT d.oid::int8, r.rolname::text, pg_encoding_to_char(d.encoding)::text, {provider}, \
                d.datcollate::text, d.datctype::text, {locale}::text, {rules}::text, {collation_version}::text, \
                t.spcname::text, d.datconnlimit, d.datistemplate, d.datallowconn, \
                shobj_description(d.oid, 'pg_database'), d.datacl IS NULL \
         FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba JOIN pg_tablespace t ON t.oid = d.dattablespace \
         WHERE d.datname = $1"
    );
    let rows = server.query(&action, &sql, &[&name]).await?;
    let Some(row) = rows.first() else {
        return Fault::new(Kind::Postgres, format!("there is no database \"{name}\""))
            .hint("Name a database that exists; `psql -l` lists them.")
            .err();
    };
    let oid: i64 = row.get(0);
    let mut texts = Texts::default();
    let properties = DatabaseProperties {
        name: name.to_owned(),
        owner: texts.take(row, 1),
        encoding: texts.take(row, 2),
        locale: DatabaseLocale {
            provider: provider_name(&texts.take(row, 3)),
            collate: texts.take(row, 4),
            ctype: texts.take(row, 5),
            locale: texts.take_or_null(row, 6),
            icu_rules: texts.take_or_null(row, 7),
            collation_version: texts.take_or_null(row, 8),
        },
        tablespace: texts.take(row, 9),
        connection_limit: row.get(10),
        is_template: row.get(11),
        allow_connections: row.get(12),
        comment: texts.take_or_null(row, 13).filter(|comment| !comment.is_empty()),
        security_labels: security_labels(server, &action, oid, &mut texts).await?,
        default_privileges: row.get(14),
        privileges: privileges(server, &action, oid, &mut texts).await?,
        settings: settings(server, &action, oid, &mut texts).await?,
    };
    Ok(Captured { properties, altered: texts.altered })
}

/// The word for the letter in `pg_database.datlocprovider`; a letter that is not known stays itself.
fn provider_name(letter: &str) -> String {
    match letter {
        "c" => "libc",
        "i" => "icu",
        "b" => "builtin",
        other => other,
    }
    .to_owned()
}

async fn security_labels(
    server: &Server,
    action: &str,
    oid: i64,
    texts: &mut Texts,
) -> anyhow::Result<Vec<SecurityLabel>> {
    let sql = "SELECT provider, label FROM pg_shseclabel \
               WHERE classoid = 'pg_database'::regclass AND objoid::int8 = $1 ORDER BY provider";
    let rows = server.query(action, sql, &[&oid]).await?;
    let mut read = |row: &Row| SecurityLabel { provider: texts.take(row, 0), label: texts.take(row, 1) };
    Ok(rows.iter().map(&mut read).collect())
}

/// In the order of the list itself: granted again in this order, it becomes the same list.
async fn privileges(
    server: &Server,
    action: &str,
    oid: i64,
    texts: &mut Texts,
) -> anyhow::Result<Vec<DatabasePrivilege>> {
    let sql = "SELECT coalesce(o.rolname::text, a.grantor::text), \
                      CASE a.grantee WHEN 0 THEN '' ELSE coalesce(e.rolname::text, a.grantee::text) END, \
                      a.privilege_type::text, a.is_grantable \
               FROM pg_database d \
               CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) \
                   WITH ORDINALITY AS a (grantor, grantee, privilege_type, is_grantable, place) \
               LEFT JOIN pg_roles o ON o.oid = a.grantor LEFT JOIN pg_roles e ON e.oid = a.grantee \
               WHERE d.oid::int8 = $1 ORDER BY a.place";
    let rows = server.query(action, sql, &[&oid]).await?;
    let mut read = |row: &Row| DatabasePrivilege {
        grantor: texts.take(row, 0),
        grantee: texts.take(row, 1),
        privilege: texts.take(row, 2),
        grantable: row.get(3),
    };
    Ok(rows.iter().map(&mut read).collect())
}

async fn settings(
    server: &Server,
    action: &str,
    oid: i64,
    texts: &mut Texts,
) -> anyhow::Result<Vec<DatabaseSetting>> {
    let sql = "SELECT r.rolname::text, s.setting \
               FROM pg_db_role_setting c LEFT JOIN pg_roles r ON r.oid = c.setrole \
               CROSS JOIN LATERAL unnest(c.setconfig) WITH ORDINALITY AS s (setting, place) \
               WHERE c.setdatabase::int8 = $1 AND (c.setrole = 0 OR r.oid IS NOT NULL) \
               ORDER BY c.setrole <> 0, r.rolname, s.place";
    let rows = server.query(action, sql, &[&oid]).await?;
    let mut read =
        |row: &Row| DatabaseSetting { role: texts.take_or_null(row, 0), setting: texts.take(row, 1) };
    Ok(rows.iter().map(&mut read).collect())
}
