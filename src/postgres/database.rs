//! What belongs to a database itself: reads it, makes a new database of the same kind, brings the rest back.
//!
//! The statements are those of `pg_dump --create` (`dumpDatabase` in `src/bin/pg_dump/pg_dump.c`,
//! `makeAlterConfigCommand` in `dumputils.c`), for the version of the server that they are sent to.

use anyhow::Context;
use tokio_postgres::error::SqlState;

use super::connection::Server;
use super::error::{failed, failed_with};
use super::quote::{identifier, literal};
use crate::format::database::{
    DatabaseLocale, DatabasePrivilege, DatabaseProperties, DatabaseSetting, SecurityLabel,
};
use crate::model::{Fault, Kind};

/// Reads the properties of the database; on a connection inside a snapshot they belong to that instant.
pub async fn capture(server: &Server, name: &str) -> anyhow::Result<DatabaseProperties> {
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
    Ok(DatabaseProperties {
        name: name.to_owned(),
        owner: row.get(1),
        encoding: row.get(2),
        locale: DatabaseLocale {
            provider: provider_name(row.get(3)),
            collate: row.get(4),
            ctype: row.get(5),
            locale: row.get(6),
            icu_rules: row.get(7),
            collation_version: row.get(8),
        },
        tablespace: row.get(9),
        connection_limit: row.get(10),
        is_template: row.get(11),
        allow_connections: row.get(12),
        comment: row.get::<_, Option<String>>(13).filter(|comment| !comment.is_empty()),
        security_labels: security_labels(server, &action, oid).await?,
        default_privileges: row.get(14),
        privileges: privileges(server, &action, oid).await?,
        settings: settings(server, &action, oid).await?,
    })
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

async fn security_labels(server: &Server, action: &str, oid: i64) -> anyhow::Result<Vec<SecurityLabel>> {
    let sql = "SELECT provider, label FROM pg_shseclabel \
               WHERE classoid = 'pg_database'::regclass AND objoid::int8 = $1 ORDER BY provider";
    let rows = server.query(action, sql, &[&oid]).await?;
    Ok(rows.iter().map(|row| SecurityLabel { provider: row.get(0), label: row.get(1) }).collect())
}

/// In the order of the list itself: granted again in this order, it becomes the same list.
async fn privileges(server: &Server, action: &str, oid: i64) -> anyhow::Result<Vec<DatabasePrivilege>> {
    let sql = "SELECT coalesce(o.rolname::text, a.grantor::text), \
                      CASE a.grantee WHEN 0 THEN '' ELSE coalesce(e.rolname::text, a.grantee::text) END, \
                      a.privilege_type::text, a.is_grantable \
               FROM pg_database d \
               CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) \
                   WITH ORDINALITY AS a (grantor, grantee, privilege_type, is_grantable, place) \
               LEFT JOIN pg_roles o ON o.oid = a.grantor LEFT JOIN pg_roles e ON e.oid = a.grantee \
               WHERE d.oid::int8 = $1 ORDER BY a.place";
    let rows = server.query(action, sql, &[&oid]).await?;
    let read = |row: &tokio_postgres::Row| DatabasePrivilege {
        grantor: row.get(0),
        grantee: row.get(1),
        privilege: row.get(2),
        grantable: row.get(3),
    };
    Ok(rows.iter().map(read).collect())
}

async fn settings(server: &Server, action: &str, oid: i64) -> anyhow::Result<Vec<DatabaseSetting>> {
    let sql = "SELECT r.rolname::text, s.setting \
               FROM pg_db_role_setting c LEFT JOIN pg_roles r ON r.oid = c.setrole \
               CROSS JOIN LATERAL unnest(c.setconfig) WITH ORDINALITY AS s (setting, place) \
               WHERE c.setdatabase::int8 = $1 AND (c.setrole = 0 OR r.oid IS NOT NULL) \
               ORDER BY c.setrole <> 0, r.rolname, s.place";
    let rows = server.query(action, sql, &[&oid]).await?;
    Ok(rows.iter().map(|row| DatabaseSetting { role: row.get(0), setting: row.get(1) }).collect())
}

/// The roles that the properties name and the server does not have, sorted: to be asked before anything is made.
pub async fn missing_roles(server: &Server, properties: &DatabaseProperties) -> anyhow::Result<Vec<String>> {
    let mut names = vec![properties.owner.as_str()];
    names.extend(properties.settings.iter().filter_map(|setting| setting.role.as_deref()));
    if !properties.default_privileges {
        for privilege in &properties.privileges {
            names.extend([privilege.grantor.as_str(), privilege.grantee.as_str()]);
        }
    }
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    let sql = "SELECT n FROM unnest($1::text[]) n WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = n) ORDER BY n COLLATE \"C\"";
    let rows = server.query("look for the database's roles", sql, &[&names]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether the server lacks the database's tablespace.
pub async fn lacks_tablespace(server: &Server, properties: &DatabaseProperties) -> anyhow::Result<bool> {
    let sql = "SELECT NOT EXISTS (SELECT FROM pg_tablespace WHERE spcname::text = $1)";
    let row = server.query_one("look for the database's tablespace", sql, &[&properties.tablespace]).await?;
    Ok(row.get(0))
}

/// The `CREATE DATABASE` for a server of this version (`server_version_num`), with everything that cannot be
/// changed later and the owner. Fails for a locale that such a server cannot have.
pub fn create_statement(
    properties: &DatabaseProperties,
    new_name: &str,
    server_version: u32,
) -> anyhow::Result<String> {
    let locale = &properties.locale;
    let major = server_version / 10_000;
    let since = match locale.provider.as_str() {
        "libc" => 0,
        "icu" if locale.icu_rules.is_some() => 16,
        "icu" => 15,
        "builtin" => 17,
        _ => u32::MAX,
    };
    if major < since {
        return Fault::new(
            Kind::Postgres,
            format!(
                "PostgreSQL {major} cannot make a database like \"{}\": its locale provider is {}",
                properties.name, locale.provider
            ),
        )
        .hint("Restore it onto a server of the version that it came from, or a newer one.")
        .err();
    }

    let mut sql = format!(
        "CREATE DATABASE {} WITH TEMPLATE = template0 OWNER = {} ENCODING = {}",
        identifier(new_name),
        identifier(&properties.owner),
        literal(&properties.encoding)
    );
    // Always said: the target's template0 may have another one.
    if major >= 15 {
        sql.push_str(" LOCALE_PROVIDER = ");
        sql.push_str(&locale.provider);
    }
    let mut option = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            sql = format!("{sql} {name} = {}", literal(value));
        }
    };
    option("LC_COLLATE", Some(&locale.collate));
    option("LC_CTYPE", Some(&locale.ctype));
    match locale.provider.as_str() {
        "icu" => option("ICU_LOCALE", locale.locale.as_deref()),
        "builtin" => option("BUILTIN_LOCALE", locale.locale.as_deref()),
        _ => {}
    }
    option("ICU_RULES", locale.icu_rules.as_deref());
    if properties.tablespace != "pg_default" {
        sql = format!("{sql} TABLESPACE = {}", identifier(&properties.tablespace));
    }
    Ok(sql)
}

/// Makes the empty database. After a failure there is none, or, if the connection was lost, one that is
/// complete or that the server will remove.
pub async fn create(server: &Server, properties: &DatabaseProperties, new_name: &str) -> anyhow::Result<()> {
    let sql = create_statement(properties, new_name, server.version_num())?;
    let action = format!("create the database \"{new_name}\"");
    let Err(error) = server.client().batch_execute(&sql).await else { return Ok(()) };
    let Some(code) = error.code() else { return Err(server.failed(&action, &error).await) };
    let hint = if *code == SqlState::UNDEFINED_OBJECT {
        "Create the role and the tablespace that the database needs first."
    } else if *code == SqlState::WRONG_OBJECT_TYPE || *code == SqlState::INVALID_PARAMETER_VALUE {
        "Install the locale on the PostgreSQL server's machine (Debian: package locales, `locale-gen`), and \
         restart the server."
    } else if *code == SqlState::DUPLICATE_DATABASE {
        "Choose another name, or drop that database."
    } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        "Connect as a superuser, or as a role with CREATEDB that is a member of the database's owner."
    } else {
        return Err(failed(action, &error));
    };
    Err(failed_with(action, &error, hint))
}

/// One statement of [`apply`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    what: String,
    sql: String,
}

/// Brings back what `CREATE DATABASE` does not: privileges with their grantors, settings, comment, security
/// labels, connection limit, template and connection flags. For a database that [`create`] made, after it is
/// filled: settings such as `default_transaction_read_only` would stand in the way of filling it.
///
/// What the server refuses (a setting that it does not know, a security provider that is not loaded) is left
/// out and told, one sentence each; the rest is done, in one transaction. May run again.
pub async fn apply(
    server: &Server,
    properties: &DatabaseProperties,
    name: &str,
) -> anyhow::Result<Vec<String>> {
    let action = format!("bring back the properties of database \"{name}\"");
    let before = capture(server, name).await?;
    let mut told = Vec::new();
    server.run(&action, "BEGIN").await?;
    for step in steps(properties, name, &before.privileges) {
        let sql = format!("SAVEPOINT pgkeep_step; {}; RELEASE pgkeep_step", step.sql);
        if let Err(error) = server.run(&step.what, &sql).await {
            // This fails as well if it was the connection that broke, and then nothing was done.
            server.run(&action, "ROLLBACK TO pgkeep_step; RELEASE pgkeep_step").await?;
            told.push(format!("could not {error:#}"));
        }
    }
    server.run(&action, "COMMIT").await?;
    if !properties.default_privileges {
        let now = capture(server, name).await.context("compare the privileges")?;
        told.extend(differences(&properties.privileges, &now.privileges));
    }
    Ok(told)
}

/// All statements that [`apply`] runs, in their order; `before` are the privileges that the database has now.
fn steps(properties: &DatabaseProperties, name: &str, before: &[DatabasePrivilege]) -> Vec<Step> {
    let database = identifier(name);
    let mut steps = privilege_steps(properties, name, before);
    let mut add = |what: String, sql: String| steps.push(Step { what, sql });
    for setting in &properties.settings {
        // A setting without a value can't be in the catalog; pg_dump passes over it in silence, too.
        let Some((variable, value)) = setting.setting.split_once('=') else { continue };
        let value = setting_value(variable, value);
        let variable_name = identifier(variable);
        match &setting.role {
            None => add(
                format!("set {variable} for the database"),
                format!("ALTER DATABASE {database} SET {variable_name} TO {value}"),
            ),
            Some(role) => add(
                format!("set {variable} for \"{role}\" in the database"),
                format!(
                    "ALTER ROLE {} IN DATABASE {database} SET {variable_name} TO {value}",
                    identifier(role)
                ),
            ),
        }
    }
    if let Some(comment) = &properties.comment {
        add(
            "set the database's comment".to_owned(),
            format!("COMMENT ON DATABASE {database} IS {}", literal(comment)),
        );
    }
    for SecurityLabel { provider, label } in &properties.security_labels {
        add(
            format!("set the database's security label of {provider}"),
            format!(
                "SECURITY LABEL FOR {} ON DATABASE {database} IS {}",
                identifier(provider),
                literal(label)
            ),
        );
    }
    // -2 marks a database whose removal was interrupted; nobody can be in there.
    if properties.connection_limit >= 0 {
        let limit = properties.connection_limit;
        add(
            "set the database's connection limit".to_owned(),
            format!("ALTER DATABASE {database} WITH CONNECTION LIMIT {limit}"),
        );
    }
    if properties.is_template {
        add(
            "mark the database as a template".to_owned(),
            format!("ALTER DATABASE {database} WITH IS_TEMPLATE true"),
        );
    }
    if !properties.allow_connections {
        add(
            "close the database for connections".to_owned(),
            format!("ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false"),
        );
    }
    steps
}

/// The statements that make the database's list of privileges what it was. They begin with taking everything
/// from everybody, so that no privilege by default is left, and nothing of an earlier attempt.
fn privilege_steps(properties: &DatabaseProperties, name: &str, before: &[DatabasePrivilege]) -> Vec<Step> {
    if properties.default_privileges {
        return Vec::new();
    }
    let database = identifier(name);
    let mut steps = Vec::new();
    let mut grantees: Vec<&str> = before.iter().map(|privilege| privilege.grantee.as_str()).collect();
    grantees.sort_unstable();
    grantees.dedup();
    for grantee in grantees {
        let role = role_name(grantee);
        steps.push(Step {
            what: format!("revoke the database's privileges from {role}"),
            sql: format!("REVOKE ALL ON DATABASE {database} FROM {role} CASCADE"),
        });
    }
    for privilege in in_order_of_grants(&properties.owner, &properties.privileges) {
        let DatabasePrivilege { grantor, grantee, privilege: right, grantable } = privilege;
        let option = if *grantable { " WITH GRANT OPTION" } else { "" };
        let grant = format!("GRANT {right} ON DATABASE {database} TO {}{option}", role_name(grantee));
        let whom = if grantee.is_empty() { "everybody" } else { grantee };
        let what = format!("grant {right} on the database to \"{whom}\" as \"{grantor}\"");
        let word = right.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b' ');
        if !word {
            // Not a privilege of any server; it must not get into a statement.
            continue;
        }
        // What a superuser or a member of the owner grants counts as granted by the owner.
        let sql = if *grantor == properties.owner {
            grant
        } else {
            format!("SET LOCAL ROLE {}; {grant}; RESET ROLE", identifier(grantor))
        };
        steps.push(Step { what, sql });
    }
    steps
}

fn role_name(grantee: &str) -> String {
    if grantee.is_empty() { "PUBLIC".to_owned() } else { identifier(grantee) }
}

/// The privileges in an order in which each grantor already has the right to grant; those for which that is
/// never so come last. Where the list's own order will do, it stays.
fn in_order_of_grants<'a>(owner: &str, privileges: &'a [DatabasePrivilege]) -> Vec<&'a DatabasePrivilege> {
    let mut waiting: Vec<&DatabasePrivilege> = privileges.iter().collect();
    let mut ordered: Vec<&DatabasePrivilege> = Vec::new();
    loop {
        let may = |wanted: &DatabasePrivilege, done: &[&DatabasePrivilege]| {
            wanted.grantor == owner
                || done.iter().any(|earlier| {
                    earlier.grantable
                        && earlier.grantee == wanted.grantor
                        && earlier.privilege == wanted.privilege
                })
        };
        let Some(place) = waiting.iter().position(|wanted| may(wanted, &ordered)) else { break };
        ordered.push(waiting.remove(place));
    }
    ordered.extend(waiting);
    ordered
}

/// What is missing and what is too much, one sentence each.
fn differences(wanted: &[DatabasePrivilege], there: &[DatabasePrivilege]) -> Vec<String> {
    let say = |privilege: &DatabasePrivilege| {
        let whom = if privilege.grantee.is_empty() { "everybody" } else { &privilege.grantee };
        let option = if privilege.grantable { " with grant option" } else { "" };
        format!("{} to \"{whom}\"{option}, granted by \"{}\"", privilege.privilege, privilege.grantor)
    };
    let missing = wanted.iter().filter(|privilege| !there.contains(privilege));
    let extra = there.iter().filter(|privilege| !wanted.contains(privilege));
    missing
        .map(|privilege| format!("the database lacks a privilege: {}", say(privilege)))
        .chain(extra.map(|privilege| format!("the database has a privilege too many: {}", say(privilege))))
        .collect()
}

/// The variables whose value is a list that the server has quoted already (`variable_is_guc_list_quote`).
const QUOTED_LISTS: [&str; 7] = [
    "local_preload_libraries",
    "oauth_validator_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// The value as it must stand in `SET ... TO`. A list that the server keeps quoted is taken apart and its
/// elements become literals: as one literal it would be a list of one.
fn setting_value(variable: &str, value: &str) -> String {
    if !QUOTED_LISTS.iter().any(|name| name.eq_ignore_ascii_case(variable)) {
        return literal(value);
    }
    match split_list(value) {
        Some(elements) if !elements.is_empty() => {
            elements.iter().map(|element| literal(element)).collect::<Vec<_>>().join(", ")
        }
        // An empty list is written as one empty element.
        Some(_) => "''".to_owned(),
        None => literal(value),
    }
}

/// Takes a list apart as `SplitGUCList` in `dumputils.c` does; `None` if it is not well formed.
fn split_list(text: &str) -> Option<Vec<String>> {
    // C's isspace.
    let space = |character: char| matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    let mut rest = text.trim_start_matches(space);
    let mut elements = Vec::new();
    if rest.is_empty() {
        return Some(elements);
    }
    loop {
        let mut element = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let end = rest.find('"')?;
                element.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                // A doubled quote stands for itself.
                let Some(more) = rest.strip_prefix('"') else { break };
                element.push('"');
                rest = more;
            }
        } else {
            let end = rest.find(|character| character == ',' || space(character)).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            element.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        elements.push(element);
        rest = rest.trim_start_matches(space);
        if rest.is_empty() {
            return Some(elements);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(space);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties() -> DatabaseProperties {
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

    fn privilege(grantor: &str, grantee: &str, right: &str, grantable: bool) -> DatabasePrivilege {
        DatabasePrivilege {
            grantor: grantor.to_owned(),
            grantee: grantee.to_owned(),
            privilege: right.to_owned(),
            grantable,
        }
    }

    #[test]
    fn a_database_is_created_as_the_targets_version_understands_it() {
        let create = |properties: &DatabaseProperties, version| {
            create_statement(properties, "new \"one\"", version).expect("a statement")
        };
        let libc = properties();
        assert_eq!(
            create(&libc, 130_020),
            "CREATE DATABASE \"new \"\"one\"\"\" WITH TEMPLATE = template0 OWNER = \"boss\" ENCODING = 'UTF8' \
             LC_COLLATE = 'C.UTF-8' LC_CTYPE = 'C.UTF-8'"
        );
        assert!(create(&libc, 150_018).contains(" LOCALE_PROVIDER = libc LC_COLLATE"));
        let mut icu = properties();
        icu.locale.provider = "icu".to_owned();
        icu.locale.locale = Some("de-AT-u-co-phonebk".to_owned());
        icu.tablespace = "fast".to_owned();
        assert!(create(&icu, 150_018).ends_with(
            "LOCALE_PROVIDER = icu LC_COLLATE = 'C.UTF-8' LC_CTYPE = 'C.UTF-8' \
             ICU_LOCALE = 'de-AT-u-co-phonebk' TABLESPACE = \"fast\""
        ));
        icu.locale.icu_rules = Some("&V << w <<< W".to_owned());
        assert!(create(&icu, 170_000).contains("ICU_RULES = '&V << w <<< W'"));
        let mut builtin = properties();
        builtin.locale.provider = "builtin".to_owned();
        builtin.locale.locale = Some("C.UTF-8".to_owned());
        assert!(create(&builtin, 170_000).contains("LOCALE_PROVIDER = builtin"));
        assert!(create(&builtin, 170_000).ends_with("BUILTIN_LOCALE = 'C.UTF-8'"));
    }

    #[test]
    fn a_locale_that_the_target_cannot_have_is_refused() {
        let mut icu = properties();
        icu.locale.provider = "icu".to_owned();
        assert!(create_statement(&icu, "new", 140_011).is_err());
        icu.locale.icu_rules = Some("&a < b".to_owned());
        assert!(create_statement(&icu, "new", 150_018).is_err());
        icu.locale.provider = "builtin".to_owned();
        assert!(create_statement(&icu, "new", 160_004).is_err());
        icu.locale.provider = "x".to_owned();
        assert!(create_statement(&icu, "new", 180_001).is_err());
    }

    #[test]
    fn lists_that_the_server_quotes_are_taken_apart() {
        let split = |text| split_list(text).map(|list| list.join("|"));
        assert_eq!(split(""), Some(String::new()));
        assert_eq!(split("\"$user\", public"), Some("$user|public".to_owned()));
        assert_eq!(split("\"a \"\"b\"\" c\" , d"), Some("a \"b\" c|d".to_owned()));
        assert_eq!(split("\"\""), Some(String::new()));
        for broken in ["\"a", "a,", ",a", "a b", "\"a\"b"] {
            assert_eq!(split(broken), None, "{broken}");
        }
        assert_eq!(setting_value("search_path", "\"$user\", \"Größe, m\""), "'$user', 'Größe, m'");
        assert_eq!(setting_value("Search_Path", "\"\""), "''");
        assert_eq!(setting_value("search_path", ""), "''");
        assert_eq!(setting_value("DateStyle", "ISO, DMY"), "'ISO, DMY'");
        assert_eq!(setting_value("app.path", r"C:\x"), r"E'C:\\x'");
    }

    #[test]
    fn privileges_are_granted_by_those_who_granted_them_and_in_an_order_that_works() {
        let mut properties = properties();
        properties.default_privileges = false;
        properties.privileges = vec![
            privilege("lead", "clerk", "CONNECT", false),
            privilege("boss", "boss", "CREATE", false),
            privilege("boss", "lead", "CONNECT", true),
            privilege("boss", "", "TEMPORARY", false),
        ];
        let before = [
            privilege("boss", "", "TEMPORARY", false),
            privilege("boss", "", "CONNECT", false),
            privilege("boss", "boss", "CREATE", false),
        ];
        let sql: Vec<String> = steps(&properties, "new", &before).into_iter().map(|step| step.sql).collect();
        assert_eq!(
            sql,
            [
                "REVOKE ALL ON DATABASE \"new\" FROM PUBLIC CASCADE",
                "REVOKE ALL ON DATABASE \"new\" FROM \"boss\" CASCADE",
                "GRANT CREATE ON DATABASE \"new\" TO \"boss\"",
                "GRANT CONNECT ON DATABASE \"new\" TO \"lead\" WITH GRANT OPTION",
                "SET LOCAL ROLE \"lead\"; GRANT CONNECT ON DATABASE \"new\" TO \"clerk\"; RESET ROLE",
                "GRANT TEMPORARY ON DATABASE \"new\" TO PUBLIC",
            ]
        );
    }

    #[test]
    fn a_database_without_anything_special_needs_nothing() {
        assert_eq!(steps(&properties(), "new", &[]), []);
    }

    #[test]
    fn what_differs_is_told() {
        let wanted = [privilege("boss", "", "CONNECT", false)];
        let there = [privilege("boss", "lead", "CREATE", true)];
        assert_eq!(
            differences(&wanted, &there),
            [
                "the database lacks a privilege: CONNECT to \"everybody\", granted by \"boss\"",
                "the database has a privilege too many: CREATE to \"lead\" with grant option, granted by \"boss\""
            ]
        );
        assert_eq!(differences(&wanted, &wanted), Vec::<String>::new());
    }
}
