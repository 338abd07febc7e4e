//! `pgkeep cleanup`, `keep` and `unkeep`: from arguments to commands.

use std::sync::Arc;

use super::args::Command;
use super::dispatch::{Done, done};
use super::progress::Console;
use super::text;
use crate::command::cleanup::CleanupRequest;
use crate::command::{self, Context, Environment};

/// Carries out one of the three.
pub(super) async fn run(
    environment: &Environment,
    words: &str,
    command: &Command,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    let context = Context::open(environment, words).await?;
    let result = match command {
        Command::Keep { backup, reason } => command::keep::keep(&context, backup, reason).await,
        Command::Unkeep { backup } => command::keep::unkeep(&context, backup).await,
        Command::Cleanup(cleanup) => {
            progress.announce(words);
            let request = CleanupRequest { dry_run: cleanup.dry_run, yes: cleanup.yes };
            let result = command::cleanup::run(&context, request).await;
            return done(&context.conclude(result).await?, text::cleanup);
        }
        _ => anyhow::bail!("{words} is none of the commands that keep and delete"),
    };
    done(&context.conclude(result).await?, text::keep)
}
