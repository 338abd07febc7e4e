//! Where a database is brought to life: beside those in use, or on a server that is there for nothing else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Laps, Test, Tested};
use crate::catalog::RestorePlaces;
use crate::command::instance::{Instance, Wanted};
use crate::command::staging;
use crate::format::manifest::{Database, Manifest};
use crate::model::{Bytes, ConnectionSettings, Fault, Kind};
use crate::postgres::quote::identifier;
use crate::postgres::{Server, facts, swap, tools};
use crate::system::process::Running;
use crate::system::{durable, gentle, space};
use crate::target::database::{self as target, LoadPlan};

/// Memory that a throwaway server takes with its sessions.
const SERVER_MEMORY: u64 = 256 << 20;
/// The superuser of a throwaway server.
const SUPERUSER: &str = "postgres";

/// What a throwaway server needs no safety for: it is made anew if anything goes wrong.
pub(super) const THROWAWAY: [&str; 2] = ["full_page_writes=off", "synchronous_commit=off"];

/// What the test's sessions leave to others: no helpers beside them, and no waiting for standbys.
const MODEST: [&str; 3] = [
    "max_parallel_workers_per_gather TO 0",
    "max_parallel_maintenance_workers TO 0",
    "synchronous_commit TO local",
];

/// A place for one database.
pub(super) struct Home {
    pub(super) server: Server,
    pub(super) load: LoadPlan,
    /// The database's name.
    pub(super) staging: String,
    own: Option<Instance>,
}

impl Home {
    /// Opens it. `bytes`: how much the database will take.
    pub(super) async fn open(
        test: &Test<'_>,
        staging: String,
        major: u32,
        bytes: u64,
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<Self> {
        let context = test.context;
        let mut load = LoadPlan {
            connection: context.settings.postgres.clone(),
            jobs: test.jobs(),
            bindir: context.settings.pg_bindir.clone(),
            no_owner: test.request.own_server,
            no_privileges: test.request.own_server,
        };
        if !test.request.own_server {
            let server = target::connect_beside(&load.connection, &[&staging], &context.stop).await?;
            refuse_little_room(test, &server, bytes).await?;
            // The log knows of it before it is there: whatever becomes of this run, the next one removes it.
            context.catalog.restores().set_places(
                test.entry,
                RestorePlaces {
                    system_identifier: facts::system_identifier(&server).await.ok(),
                    staging: &staging,
                    previous: None,
                },
            )?;
            tested.place = format!("database \"{staging}\" beside those in use");
            return Ok(Self { server, load, staging, own: None });
        }
        refuse_little_memory()?;
        refuse_full(&context.settings.scratch_dir, bytes)?;
        let root = context.scratch()?.join("server");
        initialise(test, &root, major).await?;
        let wanted = Wanted {
            root: &root,
            major: tools::find("initdb", major, context.settings.pg_bindir.as_deref())?.version.major,
            config_file: None,
            settings: &THROWAWAY,
            what: "the throwaway server",
        };
        let mut own = Instance::start(context, &wanted).await?;
        own.connection.user = Some(SUPERUSER.to_owned());
        let opened = async {
            context.stop.or(own.follow(context)).await?;
            target::connect_beside(&own.connection, &[], &context.stop).await
        };
        let server = match opened.await {
            Ok(server) => server,
            Err(error) => {
                own.end(context).await?;
                return Err(error);
            }
        };
        load.connection = own.connection.clone();
        "a throwaway server".clone_into(&mut tested.place);
        tested.warnings.extend(test.make_roles(&server).await);
        laps.lap(tested, "start");
        Ok(Self { server, load, staging, own: Some(own) })
    }

    /// Makes the empty database, with what keeps it modest.
    pub(super) async fn create(&self, test: &Test<'_>, database: &Database) -> anyhow::Result<()> {
        let mut database = database.clone();
        if self.own.is_some() {
            SUPERUSER.clone_into(&mut database.properties.owner);
            "pg_default".clone_into(&mut database.properties.tablespace);
        }
        target::create(&self.server, &database, &self.staging, &self.load).await?;
        if let Some(number) = facts::database_oid(&self.server, &self.staging).await?
            && self.own.is_none()
        {
            test.context.catalog.restores().set_database(test.entry, number)?;
        }
        for setting in MODEST {
            let sql = format!("ALTER DATABASE {} SET {setting}", identifier(&self.staging));
            self.server.run("keep the test modest", &sql).await?;
        }
        Ok(())
    }

    /// A connection to the database.
    pub(super) async fn connect(&self, test: &Test<'_>) -> anyhow::Result<Server> {
        Server::connect(&self.load.connection, Some(&self.staging), &test.context.stop).await
    }

    /// Removes the database, or the whole server.
    pub(super) async fn close(self, test: &Test<'_>) -> anyhow::Result<()> {
        if let Some(own) = self.own {
            self.server.close().await;
            return own.end(test.context).await;
        }
        let (connection, avoid) = (&self.load.connection, [self.staging.as_str()]);
        staging::remove(test.context, &self.server, connection, &avoid, &self.staging, test.entry).await?;
        self.server.close().await;
        Ok(())
    }
}

impl Test<'_> {
    /// Unpacks a dump, and opens a place for it: of the database of this name, which will take so many bytes.
    pub(super) async fn enter(
        &self,
        manifest: &Arc<Manifest>,
        (name, bytes): (&str, u64),
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<(Home, PathBuf)> {
        let context = self.context;
        refuse_full(&context.settings.scratch_dir, manifest.original_size)?;
        let directory = context.stop.or(self.unpack(manifest, tested)).await?;
        laps.lap(tested, "fetch");
        let staging = swap::derived_name(name, &format!("_test_{}", context.run));
        let major = manifest.postgres_version_num / 10_000;
        let home = Home::open(self, staging, major, bytes, tested, laps).await?;
        Ok((home, directory))
    }

    /// Removes both, whatever was proven.
    pub(super) async fn leave(
        &self,
        home: Home,
        directory: &Path,
        proven: anyhow::Result<()>,
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<()> {
        let closed = home.close(self).await;
        laps.lap(tested, "drop");
        durable::remove_dir_if_there(directory)?;
        proven?;
        closed
    }

    /// Makes the roles that are on the server in use, without rights: policies and the like name them. What can't be asked
    /// or made is a warning, since it may not matter.
    async fn make_roles(&self, own: &Server) -> Vec<String> {
        let asked = async {
            let settings = &self.context.settings.postgres;
            let server = target::connect_beside(settings, &[], &self.context.stop).await?;
            let sql = "SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1";
            let rows = server.query("list the roles", sql, &[]).await?;
            server.close().await;
            Ok::<_, anyhow::Error>(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>())
        };
        let names = match asked.await {
            Ok(names) => names,
            Err(error) => {
                return vec![format!(
                    "the roles of the server in use are not on the throwaway one: {error:#}"
                )];
            }
        };
        let mut warnings = Vec::new();
        for name in names.iter().filter(|name| *name != SUPERUSER) {
            let sql = format!("CREATE ROLE {} NOLOGIN", identifier(name));
            if let Err(error) = own.run(&format!("make the role \"{name}\""), &sql).await {
                warnings.push(format!("{error:#}"));
            }
        }
        warnings
    }
}

async fn initialise(test: &Test<'_>, root: &Path, major: u32) -> anyhow::Result<()> {
    let initdb = tools::find("initdb", major, test.context.settings.pg_bindir.as_deref())?;
    let mut directory = OsString::from("--pgdata=");
    directory.push(root);
    let mut arguments: Vec<OsString> = vec![directory];
    let user = format!("--username={SUPERUSER}");
    for argument in [user.as_str(), "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"] {
        arguments.push(argument.into());
    }
    let ended = Running::start_with_ours(&initdb.path, &arguments).await?.wait(&test.context.stop).await?;
    if ended.status.success() {
        return Ok(());
    }
    durable::remove_dir_if_there(root)?;
    Fault::new(Kind::Postgres, format!("make a throwaway server: {}", ended.account()))
        .hint("See what initdb says; or leave out --own-server.")
        .err()
}

/// Refuses to begin when a server of its own would push others out of memory.
pub(super) fn refuse_little_memory() -> anyhow::Result<()> {
    let Some(free) = gentle::available_memory().filter(|free| *free < SERVER_MEMORY) else { return Ok(()) };
    let message =
        format!("a throwaway server needs {}, and {} of memory is free", Bytes(SERVER_MEMORY), Bytes(free));
    Fault::new(Kind::Refused, message).hint("Run it when less is going on, or on another machine.").err()
}

/// Where the server's data lies on this machine, it must have room for one more database.
async fn refuse_little_room(test: &Test<'_>, server: &Server, bytes: u64) -> anyhow::Result<()> {
    let known = match &test.context.settings.data_directory {
        Some(directory) => Some(directory.clone()),
        None if server.endpoint().is_socket() => facts::data_directory(server).await?,
        None => None,
    };
    match known.filter(|directory| directory.exists()) {
        Some(directory) => refuse_full(&directory, bytes),
        None => Ok(()),
    }
}

pub(super) fn refuse_full(directory: &Path, need: u64) -> anyhow::Result<()> {
    let free = space::of(directory)?.free;
    if free >= need {
        return Ok(());
    }
    let message = format!("{} has {} free, the test needs {}", directory.display(), Bytes(free), Bytes(need));
    Fault::new(Kind::Store, message)
        .hint("Make room there; BACKUP_SCRATCH_DIR says where things are unpacked, --own-server works there too.")
        .err()
}

/// How much a database takes that was dumped with so many bytes, if nobody can say better: rows have heads, and indexes
/// come to them.
pub(super) fn estimate(original_size: u64) -> u64 {
    original_size.saturating_mul(2)
}

/// How much the database of this name takes now, on the server in use; the estimate where it can't be asked.
pub(super) async fn size_of(test: &Test<'_>, name: &str, original_size: u64) -> u64 {
    let connection: &ConnectionSettings = &test.context.settings.postgres;
    let asked = async {
        let server = target::connect_beside(connection, &[], &test.context.stop).await?;
        let size = facts::database_size(&server, name).await;
        server.close().await;
        size
    };
    asked.await.ok().flatten().unwrap_or_else(|| estimate(original_size))
}
