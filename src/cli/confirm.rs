//! Asking before something is replaced.

use std::io::{BufRead, IsTerminal, Write};

use super::progress::Console;
use super::text;
use crate::command::Context;
use crate::command::restore::RestorePlan;
use crate::command::restore_cluster::ClusterPlan;
use crate::command::restore_tenant::TenantPlan;
use crate::model::{Fault, Kind};

/// Who is asked before something is replaced.
pub(super) enum Ask<'a> {
    /// Nobody: `--yes`, or the answer is known.
    Nobody,
    /// Whoever sits at the terminal, in one plain line.
    Plainly,
    /// The same, by somebody who shows the plan and asks for what is so called to be typed.
    With(&'a AskAtPlan<'a>),
}

/// Shows a plan and asks for a name to be typed: the plan, how the name is called, the name.
pub(super) type AskAtPlan<'a> = dyn Fn(&str, &str, &str) -> anyhow::Result<()> + Send + Sync + 'a;

impl Ask<'_> {
    /// By the flag `--yes`.
    pub(super) fn unless(yes: bool) -> Self {
        if yes { Self::Nobody } else { Self::Plainly }
    }
}

/// The run that asks, and where it shows how far it is.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) context: &'a Context,
    pub(super) progress: &'a Console,
}

/// Shows the plan and asks for the database's name to be typed; without a terminal and without `--yes` it refuses.
pub(super) fn restore(plan: &RestorePlan, ask: &Ask<'_>, of: Asking<'_>) -> anyhow::Result<()> {
    let name = &plan.target_database;
    let what = format!("restoring over database \"{name}\"");
    typed(&what, &text::plan(plan), "the name of the database", name, ask, of)
}

fn typed(
    what: &str,
    plan: &str,
    which: &str,
    name: &str,
    ask: &Ask<'_>,
    Asking { context, progress }: Asking<'_>,
) -> anyhow::Result<()> {
    match ask {
        Ask::Nobody => return Ok(()),
        Ask::With(asked) => {
            context.let_go();
            return progress.pause(|| asked(plan, which, name));
        }
        Ask::Plainly => {}
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Fault::new(Kind::Refused, format!("{what} was not confirmed"))
            .hint("There is no terminal to ask at: give --yes if this is what you want.")
            .err();
    }
    context.let_go();
    progress.pause(|| {
        let mut stderr = std::io::stderr();
        write!(stderr, "{plan}\nType {which} to go on: ")?;
        stderr.flush()?;
        wait_for_input()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        if line.trim_end_matches(['\r', '\n']) == name {
            return Ok(());
        }
        Fault::new(Kind::Refused, format!("{what} was not confirmed")).hint("Nothing was done.").err()
    })
}

/// Shows the plan and asks for the tenant's key to be typed, whose rows are going to be replaced.
pub(super) fn tenant(plan: &TenantPlan, ask: &Ask<'_>, of: Asking<'_>) -> anyhow::Result<()> {
    let what = format!("restoring tenant \"{}\" of database \"{}\"", plan.tenant, plan.database);
    typed(&what, &text::tenant_plan(plan), "the tenant", &plan.tenant, ask, of)
}

/// Shows the plan and asks for the directory to be typed, which is going to be replaced.
pub(super) fn replace(plan: &ClusterPlan, ask: &Ask<'_>, of: Asking<'_>) -> anyhow::Result<()> {
    let name = &plan.to_dir;
    let what = format!("replacing the data directory {name}");
    typed(&what, &text::cluster_plan(plan), "the directory", name, ask, of)
}

/// Offers to make the catalog out of the stores; without a terminal and without `--yes` it refuses.
pub(super) fn rebuild(what: &str, ask: &Ask<'_>, progress: &Console) -> anyhow::Result<()> {
    if matches!(ask, Ask::Nobody) {
        return Ok(());
    }
    let no = || {
        Fault::new(Kind::NotInitialised, what.to_owned())
            .hint("Make it out of the stores with `pgkeep catalog rebuild`, or give --yes; nothing was done.")
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return no().err();
    }
    progress.pause(|| {
        let mut stderr = std::io::stderr();
        write!(stderr, "{what}. Make it out of the stores now? No backup in them is changed. [y/N] ")?;
        stderr.flush()?;
        wait_for_input()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { no().err() }
    })
}

/// Waits until there is a line to read. A signal ends the wait: reading would go on as if nothing had happened.
fn wait_for_input() -> anyhow::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdin = std::io::stdin();
    match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::INTR) => Err(crate::command::Interrupted.into()),
        Err(error) => Err(error.into()),
    }
}
