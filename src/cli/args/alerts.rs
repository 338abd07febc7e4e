//! The arguments of what watches and of what runs later.

use clap::{Args, Subcommand};

/// Alerts.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Alerts {
    /// Also those that are over, newest first
    #[arg(long)]
    pub all: bool,
    /// What to do with them [default: list those that are open]
    #[command(subcommand)]
    pub action: Option<AlertAction>,
}

/// What can be done about alerts.
#[derive(Debug, Subcommand)]
pub enum AlertAction {
    /// Write down that you have seen an alert: it is not sent again while it lasts
    Ack {
        /// Its number
        id: i64,
        /// What is to be said about it
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Send a test message through every channel that is set
    Test,
}

/// Jobs.
#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// Take back a job that waits
    Cancel {
        /// Its number
        id: i64,
    },
}
