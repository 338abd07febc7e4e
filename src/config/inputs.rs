//! What the settings are made of, as a value, so that tests need no global state.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use crate::model::{Fault, Kind};

/// Everything that decides what the settings are.
///
/// `Debug` leaves the environment out: it may hold secrets.
#[derive(Clone)]
pub struct Inputs {
    /// The file named with `--env-file`.
    pub env_file: Option<PathBuf>,
    /// The process's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where relative names begin, and where `pgkeep.env` is looked for first.
    pub current_dir: PathBuf,
    /// The home directory of the user.
    pub home: Option<PathBuf>,
    /// The env file of the machine, looked for last: [`Inputs::SYSTEM_ENV_FILE`] outside of tests.
    pub system_env_file: PathBuf,
}

impl Inputs {
    /// The env file that cron and `archive_command` find without being told.
    pub const SYSTEM_ENV_FILE: &str = "/etc/pgkeep/pgkeep.env";

    /// Takes them from the running process.
    pub fn from_process(env_file: Option<PathBuf>) -> Result<Self, Fault> {
        let current_dir = std::env::current_dir().map_err(|error| {
            Fault::new(Kind::Settings, format!("cannot find the current directory: {error}"))
                .hint("Change to a directory that exists.")
        })?;
        Ok(Self {
            env_file,
            environment: std::env::vars_os().collect(),
            current_dir,
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            system_env_file: PathBuf::from(Self::SYSTEM_ENV_FILE),
        })
    }

    /// The value of a variable of the environment; empty counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inputs")
            .field("env_file", &self.env_file)
            .field("current_dir", &self.current_dir)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}
