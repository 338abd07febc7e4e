//! How to reach the server: libpq's variables as values.

use std::path::PathBuf;

use serde::Serialize;

/// What libpq calls `sslmode` (manual, chapter "libpq", section "SSL Support").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Treated as `prefer`: the server decides.
    Allow,
    /// Encrypted if the server can; nothing is checked.
    #[default]
    Prefer,
    /// Encrypted; the certificate is checked only if a root certificate is given.
    Require,
    /// Encrypted, certificate signed by a trusted authority.
    VerifyCa,
    /// The same, and issued for this host's name.
    VerifyFull,
}

impl SslMode {
    /// The word as libpq has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// The connection to the server as the settings have it. What is `None` is left to libpq's defaults.
///
/// `Debug` never shows the password.
#[derive(Clone, Default)]
pub struct ConnectionSettings {
    /// `PGHOST`: a name, an address, or a directory with the server's socket.
    pub host: Option<String>,
    /// `PGPORT`.
    pub port: Option<u16>,
    /// `PGUSER`; without it the operating system's user.
    pub user: Option<String>,
    /// `PGDATABASE`: what `backup database` takes when none is named; without it the user's name.
    pub database: Option<String>,
    /// `PGPASSWORD`.
    pub password: Option<String>,
    /// `PGPASSFILE`; without it `~/.pgpass`.
    pub passfile: Option<PathBuf>,
    /// `PGSSLMODE`.
    pub sslmode: SslMode,
    /// `PGSSLROOTCERT`; the word `system` means the machine's certificate authorities.
    pub sslrootcert: Option<PathBuf>,
    /// `PGSSLCERT`.
    pub sslcert: Option<PathBuf>,
    /// `PGSSLKEY`.
    pub sslkey: Option<PathBuf>,
    /// `PGCONNECT_TIMEOUT` in seconds; without it 10.
    pub connect_timeout: Option<u64>,
    /// `PGOPTIONS`: handed on to the server.
    pub options: Option<String>,
}

impl std::fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionSettings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("password", &self.password.as_ref().map(|_| "[redacted]"))
            .field("sslmode", &self.sslmode)
            .finish_non_exhaustive()
    }
}
