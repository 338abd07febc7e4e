//! What the user types and sees: arguments, text and JSON, progress, confirmation.

pub mod args;
mod confirm;
mod dispatch;
mod keeping;
mod manual;
mod progress;
mod restoring;
mod text;
mod wizard;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};
use serde_json::json;

use crate::command::run_due::JOB_VARIABLE;
use crate::command::{Environment, Stop, Verdict, judge, wal_fetch, wal_push};
use crate::config::Inputs;
use crate::model::Kind;
use args::{Arguments, Command, Output};

/// Runs pgkeep with the process's arguments.
pub fn main() -> ExitCode {
    // Before anything else: this process may be there only to guard pg_dump, or to become it.
    match crate::command::tethered() {
        None => {}
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(error)) => {
            let _ = writeln!(std::io::stderr(), "pgkeep: {error:#}");
            return ExitCode::from(Kind::Bug.exit_code());
        }
    }
    crate::command::leave_no_core_file();
    let (arguments, is_wizard) =
        match Arguments::command().try_get_matches().and_then(|found| Arguments::from_arg_matches(&found)) {
            Ok(arguments) => (arguments, false),
            Err(error) if let Some(arguments) = wizard::is_wanted(&error) => (arguments, true),
            Err(error) => {
                let _ = error.print();
                let is_fetch = std::env::args_os().any(|word| word == "wal-fetch");
                // PostgreSQL would take an ordinary failure for "not in the archive".
                let wrong = if is_fetch { Kind::CannotTell } else { Kind::Usage };
                return ExitCode::from(if error.use_stderr() { wrong.exit_code() } else { 0 });
            }
        };
    // A panic is a bug like any other: said in one line, with its own exit code.
    let outcome = std::panic::catch_unwind(|| run(&arguments, is_wizard));
    ExitCode::from(outcome.unwrap_or_else(|_| heard(&arguments.command, Kind::Bug.exit_code())))
}

/// The exit code as whoever has called understands it: PostgreSQL reads meanings of its own into some.
fn heard(command: &Command, code: u8) -> u8 {
    match command {
        Command::WalPush { .. } => wal_push::exit_code(code),
        Command::WalFetch { .. } => wal_fetch::exit_code(code),
        _ => code,
    }
}

fn run(arguments: &Arguments, is_wizard: bool) -> u8 {
    let output = arguments.output;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(output, &judge(&error.into())),
    };
    let result = runtime.block_on(async {
        let stop = Stop::on_signals()?;
        let progress = progress::Console::new(arguments.quiet, arguments.verbose, arguments.command.words());
        let environment = Environment {
            inputs: Inputs::from_process(arguments.env_file.clone())?,
            progress: Arc::clone(&progress) as Arc<dyn crate::model::Progress>,
            stop,
            // Paths need not be UTF-8.
            arguments: std::env::args_os()
                .skip(1)
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" "),
            wait: arguments.wait,
            job: std::env::var(JOB_VARIABLE).ok().and_then(|job| job.parse().ok()),
        };
        let result = if is_wizard {
            Box::pin(wizard::run(&environment, arguments, &progress)).await
        } else {
            Box::pin(dispatch::run(&environment, arguments, &progress)).await
        };
        progress.finish();
        result
    });
    // Threads that still read or compress for a run that has failed are not waited for.
    runtime.shutdown_background();
    match result {
        Ok(done) => {
            let shown = match output {
                Output::Json => format!("{:#}\n", done.json),
                Output::Text if arguments.quiet && done.code == 0 && !arguments.command.only_answers() => {
                    String::new()
                }
                Output::Text => done.text,
            };
            // A reader that has seen enough (`pgkeep list | head`) is no failure.
            let _ = std::io::stdout().write_all(shown.as_bytes());
            done.code
        }
        Err(error) => {
            let verdict = judge(&error);
            let exit_code = heard(&arguments.command, verdict.exit_code);
            fail(output, &Verdict { exit_code, ..verdict })
        }
    }
}

fn fail(output: Output, verdict: &Verdict) -> u8 {
    if output == Output::Json {
        let document = json!({ "error": verdict });
        let _ = writeln!(std::io::stdout(), "{document:#}");
    }
    let mut text = format!("pgkeep: {}\n", verdict.message);
    if let Some(hint) = &verdict.hint {
        text.push_str("hint: ");
        text.push_str(hint);
        text.push('\n');
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    verdict.exit_code
}
