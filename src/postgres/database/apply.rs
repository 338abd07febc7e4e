//! Brings back what `CREATE DATABASE` does not.

use anyhow::Context;

use super::capture;
use crate::format::database::{DatabasePrivilege, DatabaseProperties, SecurityLabel};
use crate::postgres::Server;
use crate::postgres::quote::{identifier, literal};

/// One statement of [`apply`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    what: String,
    sql: String,
}

/// Brings back what `CREATE DATABASE` does not: privileges with their grantors, settings, comment, security
/// labels, connection limit, template and connection flags. For a database that `create` made, after it is
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
    let before = capture(server, name).await?.properties;
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
        let now = capture(server, name).await.context("compare the privileges")?.properties;
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
    use super::super::samples::properties;
    use super::*;

    fn privilege(grantor: &str, grantee: &str, right: &str, grantable: bool) -> DatabasePrivilege {
        DatabasePrivilege {
            grantor: grantor.to_owned(),
            grantee: grantee.to_owned(),
            privilege: right.to_owned(),
            grantable,
        }
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
