//! libpq's variables as far as pgkeep takes part in them (PostgreSQL's manual, "libpq", "Environment Variables").

use std::path::{Path, PathBuf};

use super::faults::Faults;
use super::values::{Value, Values};
use crate::model::{ConnectionSettings, Fault, SslMode};

const SSL_MODES: [SslMode; 6] = [
    SslMode::Disable,
    SslMode::Allow,
    SslMode::Prefer,
    SslMode::Require,
    SslMode::VerifyCa,
    SslMode::VerifyFull,
];

/// Reads the connection's settings; what is wrong goes to `faults`.
pub(super) fn read(values: &Values, current_dir: &Path, faults: &mut Faults) -> ConnectionSettings {
    let text = |name| values.get(name).map(|value| value.text.to_string());
    // libpq too begins at the current directory; a program started elsewhere must find the same file.
    let file = |name| values.get(name).map(|value| current_dir.join(value.text.as_str()));
    ConnectionSettings {
        host: values.get("PGHOST").and_then(|value| faults.keep(one_host(value))),
        port: values
            .get("PGPORT")
            .and_then(|value| faults.keep(value.number(1, 65_535)))
            .and_then(|port| u16::try_from(port).ok()),
        user: text("PGUSER"),
        database: text("PGDATABASE"),
        password: text("PGPASSWORD"),
        passfile: file("PGPASSFILE"),
        sslmode: values.get("PGSSLMODE").and_then(|value| faults.keep(ssl_mode(value))).unwrap_or_default(),
        sslrootcert: match values.get("PGSSLROOTCERT") {
            Some(value) if value.text.as_str() == "system" => Some(PathBuf::from("system")),
            _ => file("PGSSLROOTCERT"),
        },
        sslcert: file("PGSSLCERT"),
        sslkey: file("PGSSLKEY"),
        connect_timeout: values.get("PGCONNECT_TIMEOUT").and_then(|value| faults.keep(value.number(1, 3600))),
        options: text("PGOPTIONS"),
    }
}

fn one_host(value: &Value) -> Result<String, Fault> {
    if value.text.contains(',') {
        return Err(value
            .fault("a list of hosts is not understood by pgkeep")
            .hint("Name the one server that is to be backed up."));
    }
    Ok(value.text.to_string())
}

fn ssl_mode(value: &Value) -> Result<SslMode, Fault> {
    let found = SSL_MODES.into_iter().find(|mode| mode.as_str() == value.text.as_str());
    found.ok_or_else(|| {
        let words = SSL_MODES.map(SslMode::as_str).join(", ");
        value
            .fault(format_args!("\"{}\" is not an SSL mode", *value.text))
            .hint(format!("Use one of {words}."))
    })
}
