//! Makes an empty database of the same kind, and asks before what it will need.

use tokio_postgres::error::SqlState;

use crate::format::database::DatabaseProperties;
use crate::model::{Fault, Kind};
use crate::postgres::Server;
use crate::postgres::error::{failed, failed_with};
use crate::postgres::quote::{identifier, literal};
use crate::postgres::text::text;

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
    Ok(rows.iter().map(|row| text(row, 0)).collect())
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

#[cfg(test)]
mod tests {
    use super::super::samples::properties;
    use super::*;

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
}
