//! What others make while a schema is being replaced, and what would then hang on the one of before: views, functions and
//! foreign keys elsewhere.

use std::time::{Duration, Instant};

use super::Replacing;
use crate::model::{Fault, Kind};
use crate::postgres::Server;
use crate::postgres::tenants::places;

/// How long one waits for those who are in the middle of making something.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same when the restored schema is in its place, and nothing can be refused any more.
const PATIENCE_AFTERWARDS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

impl Replacing<'_> {
    /// Refuses to commit when something was made since the plan that hangs on the schema of before, or is being made.
    pub async fn refuse_hanging(&self) -> anyhow::Result<()> {
        let Some(kept) = &self.plan.keep_as else { return Ok(()) };
        let (server, schema) = (self.server, &self.plan.becomes);
        let making = wait(server, kept, false, PATIENCE).await?;
        if !making.is_empty() {
            let message = format!(
                "somebody is making something that may hang on the schema \"{schema}\", in a transaction that is open: {}",
                making.join(", ")
            );
            return Fault::new(Kind::Refused, message)
                .hint("Nothing was changed. Wait until it has ended, and run the restore again.")
                .err();
        }
        // Within this transaction the schema of before has the name already under which it is kept.
        let hanging = places::hanging_on(server, kept).await?;
        if hanging.is_empty() {
            return Ok(());
        }
        let message = format!(
            "something outside of the schema \"{schema}\" was made while it was being restored, and would go on hanging on \
             the one of before: {}",
            hanging.join(", ")
        );
        Fault::new(Kind::Refused, message)
            .hint("Nothing was changed. Drop it for the time of the restore, and make it again afterwards.")
            .err()
    }
}

/// When the restored schema is in its place: what hangs on the one that is kept. Whoever was in the middle of making it had
/// found the old one already.
pub async fn made_meanwhile(server: &Server, kept: &str) -> anyhow::Result<Vec<String>> {
    // Who only goes on writing rows may take as long as he likes.
    wait(server, kept, true, PATIENCE_AFTERWARDS).await?;
    places::hanging_on(server, kept).await
}

/// Gives them time to end; returns who has not.
async fn wait(
    server: &Server,
    schema: &str,
    writers: bool,
    patience: Duration,
) -> anyhow::Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let making = places::making(server, schema, writers).await?;
        if making.is_empty() || begun.elapsed() >= patience {
            return Ok(making);
        }
        tokio::time::sleep(LOOK).await;
    }
}
