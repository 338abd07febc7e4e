//! Where the server is and as whom to log in: the settings with libpq's defaults filled in, for our own
//! connections and, as an environment, for the programs that come with PostgreSQL.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::model::{ConnectionSettings, Fault, Kind, SslMode};
use crate::system::caller;

/// The port that PostgreSQL listens at unless told otherwise.
const DEFAULT_PORT: u16 = 5432;

/// How long a connection may take to be made when `PGCONNECT_TIMEOUT` says nothing.
const DEFAULT_CONNECT_TIMEOUT: u64 = 10;

/// Where distributions put the socket, and where PostgreSQL's own build does.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Where operating systems keep the certificate authorities that they trust, in one file.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How the server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A directory that holds its socket.
    Socket(PathBuf),
    /// A name or an address.
    Name(String),
}

/// Where a connection goes, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The server.
    pub host: Host,
    /// Its port; for a socket the number in its name.
    pub port: u16,
    /// The role to log in as.
    pub user: String,
    /// The database to open.
    pub database: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Socket(directory) => write!(f, "{}:{}", directory.display(), self.port),
            Host::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Endpoint {
    /// Fills in what the settings leave to libpq; `database` goes before `PGDATABASE`, which goes before the
    /// user's name. Refuses what pgkeep does not do: several hosts, sockets without a file.
    pub fn resolve(settings: &ConnectionSettings, database: Option<&str>) -> Result<Self, Fault> {
        let port = settings.port.unwrap_or(DEFAULT_PORT);
        let host = match given(settings.host.as_ref()) {
            None => default_host(port),
            Some(text) if text.contains(',') => {
                return Err(Fault::new(Kind::Settings, format!("PGHOST names several servers: {text}"))
                    .hint(
                        "Name one: a backup belongs to one server, and pgkeep must know which one it is.",
                    ));
            }
            Some(text) if text.starts_with('@') => {
                return Err(Fault::new(Kind::Settings, format!("PGHOST is an abstract socket: {text}"))
                    .hint("Use a socket in a directory (unix_socket_directories), or a host's name."));
            }
            Some(text) if text.starts_with('/') => Host::Socket(text.into()),
            Some(text) => Host::Name(text.clone()),
        };
        let user = match given(settings.user.as_ref()) {
            Some(user) => user.clone(),
            None => caller::user_name(rustix::process::geteuid().as_raw()).ok_or_else(|| {
                Fault::new(Kind::Settings, "the operating system's user has no name in /etc/passwd")
                    .hint("Set PGUSER to the role to log in as.")
            })?,
        };
        let database = database
            .map(ToOwned::to_owned)
            .or_else(|| given(settings.database.as_ref()).cloned())
            .unwrap_or_else(|| user.clone());
        Ok(Self { host, port, user, database })
    }

    /// Whether this is a socket where libpq looks by itself; the password file calls it `localhost`.
    pub(super) fn is_default_socket(&self) -> bool {
        match &self.host {
            Host::Socket(directory) => {
                SOCKET_DIRECTORIES.iter().any(|default| directory == Path::new(default))
            }
            Host::Name(_) => false,
        }
    }

    /// Whether the connection goes through a socket of this machine: never encrypted, nobody can listen.
    pub fn is_socket(&self) -> bool {
        matches!(self.host, Host::Socket(_))
    }
}

fn default_host(port: u16) -> Host {
    let [distribution, upstream] = SOCKET_DIRECTORIES.map(Path::new);
    if distribution.is_dir() {
        Host::Socket(distribution.to_owned())
    } else if upstream.join(format!(".s.PGSQL.{port}")).exists() {
        Host::Socket(upstream.to_owned())
    } else {
        Host::Name("localhost".to_owned())
    }
}

/// An empty variable counts as one that is not set, as with libpq.
fn given(value: Option<&String>) -> Option<&String> {
    value.filter(|text| !text.is_empty())
}

/// How long making a connection may take; `None`: for ever, which `PGCONNECT_TIMEOUT=0` asks for.
pub(super) fn connect_timeout(settings: &ConnectionSettings) -> Option<std::time::Duration> {
    let seconds = settings.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
    (seconds > 0).then(|| std::time::Duration::from_secs(seconds))
}

/// The home directory, where libpq keeps its files.
fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// The password file: the one that is set, else the one at home.
pub(super) fn passfile(settings: &ConnectionSettings) -> Option<PathBuf> {
    settings.passfile.clone().or_else(|| home().map(|home| home.join(".pgpass")))
}

/// A file of libpq's in the home directory, if it is there.
fn file_at_home(name: &str) -> Option<PathBuf> {
    home().map(|home| home.join(".postgresql").join(name)).filter(|path| path.exists())
}

/// How the server's certificate is checked, and what we show of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsChoice {
    pub(super) mode: SslMode,
    pub(super) authorities: Authorities,
    /// Our certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Whose signatures are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Authorities {
    /// Nobody is asked.
    Unchecked,
    /// The operating system's.
    System,
    /// Those in the file.
    File(PathBuf),
}

impl TlsChoice {
    /// What libpq would do with these settings (manual, chapter "libpq", section "SSL Support"), save that
    /// without any root certificate the operating system's authorities are asked.
    pub(super) fn resolve(settings: &ConnectionSettings) -> Result<Self, Fault> {
        let system = settings.sslrootcert.as_deref() == Some(Path::new("system"));
        let mode = match settings.sslmode {
            // Two modes that differ only in what is tried first.
            SslMode::Allow | SslMode::Prefer if !system => SslMode::Prefer,
            SslMode::Prefer | SslMode::VerifyFull if system => SslMode::VerifyFull,
            weak if system => {
                return Err(Fault::new(
                    Kind::Settings,
                    format!("PGSSLMODE={} with PGSSLROOTCERT=system would trust any server", weak.as_str()),
                )
                .hint("Set PGSSLMODE=verify-full."));
            }
            mode => mode,
        };
        let file =
            if system { None } else { settings.sslrootcert.clone().or_else(|| file_at_home("root.crt")) };
        let (mode, authorities) = match (mode, file) {
            (SslMode::Require, Some(file)) => (SslMode::VerifyCa, Authorities::File(file)),
            (SslMode::VerifyCa | SslMode::VerifyFull, Some(file)) => (mode, Authorities::File(file)),
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => (mode, Authorities::System),
            (mode, _) => (mode, Authorities::Unchecked),
        };
        let certificate = settings.sslcert.clone().or_else(|| file_at_home("postgresql.crt"));
        let key = settings.sslkey.clone().or_else(|| file_at_home("postgresql.key"));
        Ok(Self { mode, authorities, identity: certificate.zip(key) })
    }
}

/// The whole environment of a program such as `pg_dump` or `pg_restore`, so that it goes where our own
/// connections go: nothing is inherited, and no key of ours is among it.
///
/// The database is named by `PGDATABASE`, the one way in which no name is read as a connection string.
pub fn child_environment(
    settings: &ConnectionSettings,
    database: Option<&str>,
) -> anyhow::Result<Vec<(OsString, OsString)>> {
    let endpoint = Endpoint::resolve(settings, database)?;
    let mut environment: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |name: &str, value: &OsStr| environment.push((name.into(), value.to_owned()));

    set("PATH", &std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
    for name in ["HOME", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            set(name, &value);
        }
    }
    // Messages are shown as they come; names in them can be of any script.
    set("LANG", "C.UTF-8".as_ref());
    set("LC_ALL", "C.UTF-8".as_ref());

    match &endpoint.host {
        Host::Socket(directory) => set("PGHOST", directory.as_os_str()),
        Host::Name(name) => set("PGHOST", name.as_ref()),
    }
    set("PGPORT", endpoint.port.to_string().as_ref());
    set("PGUSER", endpoint.user.as_ref());
    set("PGDATABASE", endpoint.database.as_ref());
    set("PGAPPNAME", "pgkeep".as_ref());
    if let Some(password) = given(settings.password.as_ref()) {
        set("PGPASSWORD", password.as_ref());
    }
    if let Some(passfile) = &settings.passfile {
        set("PGPASSFILE", passfile.as_os_str());
    }
    let timeout = settings.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
    set("PGCONNECT_TIMEOUT", timeout.to_string().as_ref());
    if let Some(options) = given(settings.options.as_ref()) {
        set("PGOPTIONS", options.as_ref());
    }

    if !endpoint.is_socket() {
        let tls = TlsChoice::resolve(settings)?;
        set("PGSSLMODE", tls.mode.as_str().as_ref());
        match &tls.authorities {
            Authorities::Unchecked => {}
            Authorities::File(file) => set("PGSSLROOTCERT", file.as_os_str()),
            // libpq before 16 does not know the word `system`.
            Authorities::System => {
                let bundle = SYSTEM_AUTHORITIES.iter().find(|path| Path::new(path).exists());
                set("PGSSLROOTCERT", bundle.copied().unwrap_or("system").as_ref());
            }
        }
        if let Some((certificate, key)) = &tls.identity {
            set("PGSSLCERT", certificate.as_os_str());
            set("PGSSLKEY", key.as_os_str());
        }
    }
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ConnectionSettings {
        ConnectionSettings {
            host: Some("db.example".to_owned()),
            user: Some("keeper".to_owned()),
            ..ConnectionSettings::default()
        }
    }

    #[test]
    fn what_is_not_set_is_filled_in_as_libpq_does() {
        let endpoint = Endpoint::resolve(&settings(), None).expect("resolve");
        assert_eq!(endpoint.to_string(), "db.example:5432");
        assert_eq!(endpoint.database, "keeper");
        let with_default = ConnectionSettings { database: Some("shop".to_owned()), ..settings() };
        assert_eq!(Endpoint::resolve(&with_default, None).expect("resolve").database, "shop");
        assert_eq!(Endpoint::resolve(&with_default, Some("other")).expect("resolve").database, "other");
        let socket = ConnectionSettings { host: Some("/srv/pg".to_owned()), port: Some(5433), ..settings() };
        let endpoint = Endpoint::resolve(&socket, None).expect("resolve");
        assert_eq!(endpoint.to_string(), "/srv/pg:5433");
        assert!(endpoint.is_socket());
        let address = ConnectionSettings { host: Some("::1".to_owned()), ..settings() };
        assert_eq!(Endpoint::resolve(&address, None).expect("resolve").to_string(), "[::1]:5432");
        let empty = ConnectionSettings { host: Some(String::new()), ..settings() };
        assert_ne!(Endpoint::resolve(&empty, None).expect("resolve").to_string(), ":5432");
    }

    #[test]
    fn several_hosts_and_abstract_sockets_are_refused() {
        for host in ["one,two", "@pg"] {
            let settings = ConnectionSettings { host: Some(host.to_owned()), ..settings() };
            let fault = Endpoint::resolve(&settings, None).expect_err(host);
            assert_eq!(fault.kind, Kind::Settings);
            assert!(fault.hint.is_some());
        }
    }

    #[test]
    fn a_child_gets_its_own_environment_and_nothing_else() {
        let settings = ConnectionSettings {
            password: Some("secret".to_owned()),
            passfile: Some("/srv/pgpass".into()),
            sslmode: SslMode::VerifyFull,
            sslrootcert: Some("/srv/root.crt".into()),
            options: Some("-c work_mem=1MB".to_owned()),
            ..settings()
        };
        let environment = child_environment(&settings, Some("a=b")).expect("environment");
        let get = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.to_string_lossy().into_owned())
        };
        assert_eq!(get("PGDATABASE").as_deref(), Some("a=b"));
        assert_eq!(get("PGHOST").as_deref(), Some("db.example"));
        assert_eq!(get("PGPASSWORD").as_deref(), Some("secret"));
        assert_eq!(get("PGPASSFILE").as_deref(), Some("/srv/pgpass"));
        assert_eq!(get("PGSSLMODE").as_deref(), Some("verify-full"));
        assert_eq!(get("PGSSLROOTCERT").as_deref(), Some("/srv/root.crt"));
        assert_eq!(get("PGCONNECT_TIMEOUT").as_deref(), Some("10"));
        assert_eq!(get("PGOPTIONS").as_deref(), Some("-c work_mem=1MB"));
        assert_eq!(get("LC_ALL").as_deref(), Some("C.UTF-8"));
        let known = ["PATH", "HOME", "TZ", "LANG", "LC_ALL"];
        for (name, _) in &environment {
            let name = name.to_string_lossy();
            assert!(name.starts_with("PG") || known.contains(&name.as_ref()), "{name}");
        }
    }

    #[test]
    fn require_checks_the_chain_once_a_root_certificate_is_given() {
        let choose = |sslmode, root: Option<&str>| {
            TlsChoice::resolve(&ConnectionSettings {
                sslmode,
                sslrootcert: root.map(PathBuf::from),
                ..settings()
            })
        };
        let root = Some("/srv/root.crt");
        let file = Authorities::File("/srv/root.crt".into());
        let chosen = choose(SslMode::Require, root).expect("choose");
        assert_eq!((chosen.mode, chosen.authorities), (SslMode::VerifyCa, file.clone()));
        let chosen = choose(SslMode::VerifyFull, root).expect("choose");
        assert_eq!((chosen.mode, chosen.authorities), (SslMode::VerifyFull, file));
        let chosen = choose(SslMode::Prefer, root).expect("choose");
        assert_eq!((chosen.mode, chosen.authorities), (SslMode::Prefer, Authorities::Unchecked));
        let chosen = choose(SslMode::Prefer, Some("system")).expect("choose");
        assert_eq!((chosen.mode, chosen.authorities), (SslMode::VerifyFull, Authorities::System));
        assert_eq!(choose(SslMode::VerifyCa, Some("system")).expect_err("refused").kind, Kind::Settings);
    }
}
