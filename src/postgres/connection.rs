//! A connection to the server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use super::endpoint::{self, Authorities, Endpoint, Host, TlsChoice};
use super::error::{ServerError, describe, failed};
use super::{passfile, tls};
use crate::model::{ConnectionSettings, Fault, Kind, SslMode};
use crate::system::Stop;

/// The oldest major version that pgkeep works with.
pub const OLDEST_SERVER: u32 = 13;

/// The newest major version that pgkeep was tested with.
pub const NEWEST_SERVER: u32 = 18;

/// What every session starts with: no time limits, since a backup takes as long as it takes; names that mean
/// the same for everybody; an error instead of a silently filtered table where row security applies; no compiling, which
/// costs more than many small queries themselves.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET jit = off; \
    SET idle_in_transaction_session_timeout = 0; SET client_encoding = 'UTF8'; \
    SET standard_conforming_strings = on; SET row_security = off; SET default_transaction_read_only = off; \
    SET search_path = pg_catalog, pg_temp";

/// An open connection. Dropping it closes it; the server rolls back what was not committed.
pub struct Server {
    client: Client,
    endpoint: Endpoint,
    settings: ConnectionSettings,
    connector: MakeRustlsConnect,
    version_num: u32,
    warnings: Vec<String>,
    ending: Arc<Ending>,
    task: JoinHandle<()>,
}

/// How the connection ended, once it has.
#[derive(Debug, Default)]
struct Ending {
    token: CancellationToken,
    reason: OnceLock<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("endpoint", &self.endpoint)
            .field("version_num", &self.version_num)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Connects to the database, or to the one that the settings name, and prepares the session.
    ///
    /// What is not set is filled in as libpq does; see [`Endpoint::resolve`]. Fails with [`Kind::Settings`] for
    /// settings that make no sense and with [`Kind::Postgres`] for a server that is down, refuses the login,
    /// has no such database or is older than [`OLDEST_SERVER`].
    pub async fn connect(
        settings: &ConnectionSettings,
        database: Option<&str>,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let endpoint = Endpoint::resolve(settings, database)?;
        Box::pin(stop.or(Self::open(settings, endpoint))).await
    }

    /// Opens another connection to the same place.
    pub async fn another(&self, stop: &Stop) -> anyhow::Result<Self> {
        Box::pin(stop.or(Self::open(&self.settings, self.endpoint.clone()))).await
    }

    /// Opens another connection to the same server, into this database.
    pub async fn beside(&self, database: &str, stop: &Stop) -> anyhow::Result<Self> {
        Self::connect(&self.settings, Some(database), stop).await
    }

    async fn open(settings: &ConnectionSettings, endpoint: Endpoint) -> anyhow::Result<Self> {
        let choice = if endpoint.is_socket() {
            TlsChoice { mode: SslMode::Disable, authorities: Authorities::Unchecked, identity: None }
        } else {
            TlsChoice::resolve(settings)?
        };
        let connector = tls::connector(&choice)?;
        let mut warnings = Vec::new();
        let mut password = settings.password.clone().filter(|password| !password.is_empty());
        if password.is_none()
            && let Some(path) = endpoint::passfile(settings)
        {
            let found = passfile::look_up(&path, &endpoint);
            password = found.password;
            warnings.extend(found.warning);
        }
        let config = configuration(settings, &endpoint, password.as_deref());
        let limit = endpoint::connect_timeout(settings);
        let opened = open_as(config, &choice, &connector, limit).await;
        let opened = opened.map_err(|failure| explain(&endpoint, &choice, failure, &warnings))?;
        let (client, connection) = opened;

        let ending = Arc::new(Ending::default());
        let task = tokio::spawn({
            let ending = Arc::clone(&ending);
            async move {
                let reason = match connection.await {
                    Ok(()) => "it was closed".to_owned(),
                    Err(error) => describe(&error),
                };
                let _ = ending.reason.set(reason);
                ending.token.cancel();
            }
        });
        let settings = settings.clone();
        let mut server =
            Self { client, endpoint, settings, connector, version_num: 0, warnings, ending, task };
        server.prepare_session().await?;
        Ok(server)
    }

    async fn prepare_session(&mut self) -> anyhow::Result<()> {
        const ACTION: &str = "prepare the session";
        // Asked first: what is set below depends on it.
        let row = self
            .query_one(ACTION, "SELECT pg_catalog.current_setting('server_version_num')::int4", &[])
            .await?;
        self.version_num = u32::try_from(row.get::<_, i32>(0)).unwrap_or(0);
        let major = self.major();
        if major < OLDEST_SERVER {
            return Fault::new(
                Kind::Postgres,
                format!("the server at {} is PostgreSQL {}, which is too old", self.endpoint, major),
            )
            .hint(format!("Upgrade it to PostgreSQL {OLDEST_SERVER} or newer; pgkeep needs that."))
            .err();
        }
        if major > NEWEST_SERVER {
            self.warnings.push(format!(
                "the server is PostgreSQL {major}, newer than any that pgkeep was tested with ({NEWEST_SERVER})"
            ));
        }
        self.run(ACTION, SESSION).await?;
        let row = self.query_one(ACTION, "SELECT pg_catalog.getdatabaseencoding()::text", &[]).await?;
        if row.get::<_, String>(0) == "SQL_ASCII" {
            // Such a database holds bytes of any encoding, and the server would refuse to show those that are not
            // UTF-8. They come as they are, and everything that names something is read as bytes.
            self.run(ACTION, "SET client_encoding = 'SQL_ASCII'").await?;
        }
        if major >= 14 {
            self.run(ACTION, "SET idle_session_timeout = 0").await?;
        }
        if major >= 17 {
            self.run(ACTION, "SET transaction_timeout = 0").await?;
        }
        Ok(())
    }

    /// The client, for `COPY` and whatever else is not done through the methods here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where the connection goes, as whom, to which database.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The server's version as a number: 150018 is 15.18.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    /// The server's major version: 15.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// What the user should know about this connection, one sentence each: a password file that was ignored, a
    /// server newer than tested.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Waits until the connection is gone and says why, as an error; for use beside longer work in `select!`.
    pub async fn lost(&self) -> anyhow::Error {
        self.ending.token.cancelled().await;
        let reason = self.ending.reason.get().cloned().unwrap_or_default();
        anyhow::Error::new(ServerError::new(reason, None)).context(
            Fault::new(Kind::Postgres, format!("the connection to PostgreSQL at {} was lost", self.endpoint))
                .hint("Look into the server's log for the reason, and run the command again."),
        )
    }

    /// Asks the server to break off what this connection is doing; whether it did is not known.
    pub async fn cancel(&self) -> anyhow::Result<()> {
        let done = self.client.cancel_token().cancel_query(self.connector.clone()).await;
        done.map_err(|error| failed("cancel the running statement", &error))
    }

    /// Closes the connection and waits (5 s at most) until the server has been told.
    pub async fn close(self) {
        let Self { client, task, .. } = self;
        drop(client);
        // Whether or not the other side answers: nothing is lost any more.
        let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    }

    /// Runs a query; `action` says what for, in an error's message ("list the databases").
    pub async fn query(
        &self,
        action: &str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> anyhow::Result<Vec<Row>> {
        match self.client.query(sql, parameters).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.failed(action, &error).await),
        }
    }

    /// Runs a query whose answer is one row.
    pub async fn query_one(
        &self,
        action: &str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> anyhow::Result<Row> {
        match self.client.query_one(sql, parameters).await {
            Ok(row) => Ok(row),
            Err(error) => Err(self.failed(action, &error).await),
        }
    }

    /// Runs one or more statements without parameters and without an answer.
    pub async fn run(&self, action: &str, sql: &str) -> anyhow::Result<()> {
        match self.client.batch_execute(sql).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(action, &error).await),
        }
    }

    /// The error of a statement; for a connection that is gone, with the reason why.
    pub async fn failed(&self, action: &str, error: &tokio_postgres::Error) -> anyhow::Error {
        if error.is_closed() { self.lost().await.context(action.to_owned()) } else { failed(action, error) }
    }
}

type Opened = (Client, tokio_postgres::Connection<tokio_postgres::Socket, TlsStream>);
type TlsStream = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream;

/// Why there is no connection.
enum Failure {
    Refused(tokio_postgres::Error),
    TimedOut(Duration),
}

fn configuration(settings: &ConnectionSettings, endpoint: &Endpoint, password: Option<&str>) -> Config {
    let mut config = Config::new();
    match &endpoint.host {
        Host::Socket(directory) => config.host_path(directory),
        Host::Name(name) => config.host(name),
    };
    config.port(endpoint.port).user(&endpoint.user).dbname(&endpoint.database).application_name("pgkeep");
    // A peer that is gone without a word is noticed within about a minute.
    config.keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10));
    config.keepalives_retries(3);
    if let Some(password) = password {
        config.password(password);
    }
    if let Some(options) = settings.options.as_ref().filter(|options| !options.is_empty()) {
        config.options(options);
    }
    if let Some(limit) = endpoint::connect_timeout(settings) {
        config.connect_timeout(limit);
    }
    config
}

/// Connects; with `prefer`, a second time without encryption if the server wants it so, as libpq does.
async fn open_as(
    mut config: Config,
    choice: &TlsChoice,
    connector: &MakeRustlsConnect,
    limit: Option<Duration>,
) -> Result<Opened, Failure> {
    use tokio_postgres::config::SslMode as Negotiated;
    config.ssl_mode(match choice.mode {
        SslMode::Disable => Negotiated::Disable,
        SslMode::Allow | SslMode::Prefer => Negotiated::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Negotiated::Require,
    });
    let first = within(limit, config.connect(connector.clone())).await;
    match first {
        Err(Failure::Refused(error)) if choice.mode == SslMode::Prefer && plain_may_work(&error) => {
            config.ssl_mode(Negotiated::Disable);
            // If that fails too, the first answer is the one that counts.
            within(limit, config.connect(connector.clone())).await.map_err(|_| Failure::Refused(error))
        }
        other => other,
    }
}

/// Whether the failure can come from the encryption: the handshake, or `hostnossl` in `pg_hba.conf`.
fn plain_may_work(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) || is_tls(error)
}

fn is_tls(error: &tokio_postgres::Error) -> bool {
    error.to_string() == "error performing TLS handshake"
}

/// The whole login has to be done in time: a server that hangs may accept connections and then say nothing.
async fn within(
    limit: Option<Duration>,
    work: impl Future<Output = Result<Opened, tokio_postgres::Error>>,
) -> Result<Opened, Failure> {
    let result = match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| Failure::TimedOut(limit))?,
    };
    result.map_err(Failure::Refused)
}

/// Says why there is no connection, and what to do.
fn explain(endpoint: &Endpoint, choice: &TlsChoice, failure: Failure, warnings: &[String]) -> anyhow::Error {
    let error = match failure {
        Failure::TimedOut(limit) => {
            return anyhow::anyhow!("no answer within {} s", limit.as_secs()).context(
                Fault::new(Kind::Postgres, format!("could not connect to PostgreSQL at {endpoint}")).hint(
                    "Check PGHOST and PGPORT and any firewall between; PGCONNECT_TIMEOUT allows for more seconds.",
                ),
            );
        }
        Failure::Refused(error) => error,
    };
    // The message says that already.
    let text = describe(&error);
    let text = text.strip_prefix("error connecting to server: ").unwrap_or(&text);
    let cause = ServerError::new(text.to_owned(), error.code().cloned());
    let Endpoint { user, database, .. } = endpoint;
    let (message, hint) = match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => (
            format!("could not log in to PostgreSQL at {endpoint} as \"{user}\""),
            format!("Set PGPASSWORD, or put the password into the file that PGPASSFILE names, for \"{user}\"."),
        ),
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => (
            format!("could not log in to PostgreSQL at {endpoint} as \"{user}\""),
            "Set PGUSER to a role that may log in from here, run pgkeep as the operating system's user of that \
             name, or allow it in the server's pg_hba.conf."
                .to_owned(),
        ),
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => (
            format!("could not open the database \"{database}\" at {endpoint}"),
            "Name a database that exists; `psql -l` lists them, and PGDATABASE sets the usual one.".to_owned(),
        ),
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => (
            format!("could not connect to PostgreSQL at {endpoint}"),
            "End connections that are not needed, or raise max_connections or the database's limit.".to_owned(),
        ),
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => (
            format!("could not connect to PostgreSQL at {endpoint}"),
            "Wait until the server has started.".to_owned(),
        ),
        Some(_) => (
            format!("could not connect to PostgreSQL at {endpoint} as \"{user}\" to \"{database}\""),
            "Look at the server's log and its pg_hba.conf.".to_owned(),
        ),
        None if cause.to_string().contains("password missing") => {
            let mut hint = "Set PGPASSWORD, or put the password into the file that PGPASSFILE names.".to_owned();
            for warning in warnings {
                hint = format!("{hint} Note that {warning}.");
            }
            let why = anyhow::anyhow!("the server asks for a password and none is set");
            let message = format!("could not log in to PostgreSQL at {endpoint} as \"{user}\"");
            return why.context(Fault::new(Kind::Postgres, message).hint(hint));
        }
        // With TLS 1.3 the server's verdict on our certificate comes after the handshake, as an alert.
        None if is_tls(&error) || cause.to_string().contains("received fatal alert") => {
            (format!("could not connect to PostgreSQL at {endpoint} over TLS"), tls_hint(choice, &cause))
        }
        None => (
            format!("could not connect to PostgreSQL at {endpoint}"),
            "Check that the server is running and that PGHOST and PGPORT point to it.".to_owned(),
        ),
    };
    anyhow::Error::new(cause).context(Fault::new(Kind::Postgres, message).hint(hint))
}

fn tls_hint(choice: &TlsChoice, cause: &ServerError) -> String {
    let text = cause.to_string();
    if text.contains("does not support TLS") {
        "Turn ssl on in postgresql.conf, or set PGSSLMODE=prefer if the network between can be trusted."
            .to_owned()
    } else if text.contains("not valid for name") {
        "Set PGHOST to a name that stands in the certificate's subjectAltName, or PGSSLMODE=verify-ca."
            .to_owned()
    } else if text.contains("UnsupportedCertVersion") {
        "Make the server's certificate anew as X.509 version 3, with the server's name in its subjectAltName."
            .to_owned()
    } else if choice.authorities == Authorities::System {
        "Set PGSSLROOTCERT to a file with the certificate of the authority that signed the server's."
            .to_owned()
    } else {
        "Check PGSSLROOTCERT, PGSSLCERT and PGSSLKEY, and the dates and the issuer of the server's certificate."
            .to_owned()
    }
}
