//! The restore wizard: `pgkeep restore` without arguments, at a terminal.
//!
//! It asks what has happened, finds the narrowest restore that answers it, and makes a command line of that, which it
//! shows and hands to the same code as if it had been typed. Whoever leaves at a question leaves everything as it was.

mod ask;
mod paths;
mod picks;
mod shown;
mod when;

use std::io::IsTerminal;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser};

use super::args::{Arguments, Command, Restore};
use super::confirm::Ask;
use super::dispatch::Done;
use super::progress::Console;
use super::restoring;
use crate::command::Environment;
use crate::model::{Fault, Kind};

/// Whether what clap could not understand is `pgkeep restore` and nothing else, typed at a terminal; and the options
/// that stand around it.
pub(super) fn is_wanted(error: &clap::Error) -> Option<Arguments> {
    let at_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if error.kind() != ErrorKind::MissingRequiredArgument || !at_terminal {
        return None;
    }
    let words = std::env::args_os().chain(["latest".into()]);
    let matches = Arguments::command().try_get_matches_from(words).ok()?;
    let restore = matches.subcommand_matches("restore")?;
    let definition = Arguments::command();
    let mut of_restore = definition.find_subcommand("restore")?.get_arguments().map(clap::Arg::get_id);
    let is_typed = |id: &clap::Id| restore.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    if of_restore.any(|id| id != "backup" && is_typed(id)) {
        return None;
    }
    Arguments::from_arg_matches(&matches).ok()
}

/// The restore that answers what has happened.
struct Composed {
    /// Its command line, without `pgkeep`.
    words: Vec<String>,
    /// Who asks before it is done.
    consent: Consent,
}

/// Who asks before it is done.
enum Consent {
    /// `restore` itself, since something is replaced.
    OfRestore,
    /// The wizard: this is to be typed, which is so called.
    Typed { which: &'static str, name: String },
    /// Nobody: nothing is done.
    DryRun,
}

/// What was done already when somebody leaves.
#[derive(Debug, Default, Clone, Copy)]
struct Traces {
    catalog: bool,
}

/// Asks, and restores.
pub(super) async fn run(
    environment: &Environment,
    arguments: &Arguments,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    let mut traces = Traces::default();
    let result = Box::pin(lead(environment, arguments, progress, &mut traces)).await;
    result.map_err(|error| traces.explained(error))
}

impl Traces {
    /// What to say to somebody who has left; every other error stays as it is.
    fn explained(self, error: anyhow::Error) -> anyhow::Error {
        if !ask::has_left(&error) {
            return error;
        }
        let message = if self.catalog {
            "nothing was restored; the catalog that was made out of the stores stays"
        } else {
            "nothing was changed"
        };
        Fault::new(Kind::Interrupted, message).into()
    }
}

async fn lead(
    environment: &Environment,
    arguments: &Arguments,
    progress: &Arc<Console>,
    traces: &mut Traces,
) -> anyhow::Result<Done> {
    let Composed { mut words, consent } = paths::compose(environment, progress, traces).await?;
    environment.stop.check()?;
    if let Some(path) = &arguments.env_file {
        words.extend(["--env-file".to_owned(), path.display().to_string()]);
    }
    let line =
        format!("pgkeep {}", words.iter().map(|word| shown::quoted(word)).collect::<Vec<_>>().join(" "));
    let restore = parsed(&words)?;
    let environment = Environment { arguments: words.join(" "), ..environment.clone() };
    let carry_out = async |restore: &Restore, ask: &Ask<'_>| {
        restoring::run(&environment, "restore", restore, ask, progress).await
    };
    let shown = format!("The same as a command line:\n  {line}\n");
    let traces = *traces;
    let ask_at_plan = |plan: &str, which: &str, name: &str| {
        ask::show(&format!("\n{plan}\n{shown}"))?;
        // Written down as it is said, in the log of restores.
        ask::typed(which, name).map_err(|error| traces.explained(error))
    };
    match consent {
        Consent::OfRestore => carry_out(&restore, &Ask::With(&ask_at_plan)).await,
        Consent::DryRun => {
            ask::show(&format!("\n{shown}"))?;
            carry_out(&restore, &Ask::Nobody).await
        }
        Consent::Typed { which, name } => {
            let mut looking = parsed(&words)?;
            looking.dry_run = true;
            let plan = carry_out(&looking, &Ask::Nobody).await?;
            let plan = plan.text.replace("nothing was done (--dry-run)\n", "");
            progress.pause(|| ask_at_plan(&plan, which, &name))?;
            carry_out(&restore, &Ask::Nobody).await
        }
    }
}

/// The words as clap understands them: what is shown is what is done.
fn parsed(words: &[String]) -> anyhow::Result<Restore> {
    let words = std::iter::once("pgkeep").chain(words.iter().map(String::as_str));
    match Arguments::try_parse_from(words).map(|arguments| arguments.command) {
        Ok(Command::Restore(restore)) => Ok(*restore),
        Ok(_) => Fault::new(Kind::Bug, "the wizard has made another command than restore").err(),
        Err(error) => Fault::new(Kind::Bug, format!("the wizard has made a wrong command: {error}")).err(),
    }
}
