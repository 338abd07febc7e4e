//! Putting a restored database into the place of the one in use, by renaming both in one transaction.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::connection::Server;
use super::error::sqlstate;
use super::facts::{self, Connection};
use super::quote::identifier;
use crate::model::{Fault, Kind};
use crate::system::Stop;

/// The longest name that PostgreSQL keeps, in bytes (`NAMEDATALEN` - 1); longer ones it cuts off.
pub const LONGEST_NAME: usize = 63;

/// How often one looks who is connected, and ends connections while a rename waits for them.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many times one looks again before those who are connected count as staying.
const LOOKS: u32 = 20;

/// How many times PostgreSQL's own 5 s of waiting are tried when connections are being ended.
const ATTEMPTS: u32 = 6;

/// What is put into whose place.
#[derive(Debug, Clone, Copy)]
pub struct Swap<'a> {
    /// The name in use, which the restored database gets.
    pub current: &'a str,
    /// The restored database's name until now.
    pub staging: &'a str,
    /// The name under which the database that is in use is kept; `None` when there is none (it was dropped).
    pub keep_as: Option<&'a str>,
    /// Whether connections in the way are ended; else they are named and the swap is refused.
    pub terminate: bool,
}

/// Renames `current` to `keep_as` and `staging` to `current`, in one transaction: at no moment is there none.
///
/// `on_prepared` runs when both renames are done and nothing is committed; its error undoes them. The connection
/// must be in a third database. Without `terminate`, connections in the way are [`Kind::Refused`]. After any error
/// all names are as they were, unless the connection was lost during the commit: then one of the two states is there,
/// and which one can be asked of the server.
pub async fn swap(
    server: &Server,
    swap: Swap<'_>,
    stop: &Stop,
    on_prepared: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let helper = if swap.terminate { Some(server.another(stop).await?) } else { None };
    refuse_if_held(server, swap, stop).await?;
    let mut attempt = 1;
    // PostgreSQL gives up after 5 s; a process that is in the middle of something may need longer to end.
    while let Err(error) = rename_both(server, swap, helper.as_ref(), stop).await {
        roll_back(server).await;
        if sqlstate(&error) != Some(&SqlState::OBJECT_IN_USE) {
            return Err(error);
        }
        // Somebody came in between the look and the rename.
        refuse_if_held(server, swap, stop).await?;
        if helper.is_none() || attempt == ATTEMPTS {
            return Err(error);
        }
        attempt += 1;
    }
    if let Err(error) = on_prepared().and_then(|()| stop.check()) {
        roll_back(server).await;
        return Err(error);
    }
    server.run("swap the databases", "COMMIT").await
}

/// The transaction is over with the connection in any case; here it is only over sooner.
async fn roll_back(server: &Server) {
    let _ = server.run("undo the renames", "ROLLBACK").await;
}

async fn rename_both(
    server: &Server,
    swap: Swap<'_>,
    helper: Option<&Server>,
    stop: &Stop,
) -> anyhow::Result<()> {
    server.run("swap the databases", "BEGIN").await?;
    if let Some(keep_as) = swap.keep_as {
        rename(server, swap.current, keep_as, helper, stop).await?;
    }
    rename(server, swap.staging, swap.current, helper, stop).await
}

/// `ALTER DATABASE ... RENAME` locks out new connections, then waits up to 5 s until the others are gone. While it
/// waits, the helper ends them: before, new ones would come in their place.
async fn rename(
    server: &Server,
    from: &str,
    to: &str,
    helper: Option<&Server>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let action = format!("rename the database \"{from}\" to \"{to}\"");
    let sql = format!("ALTER DATABASE {} RENAME TO {}", identifier(from), identifier(to));
    let work = server.run(&action, &sql);
    let mut work = std::pin::pin!(work);
    let mut cancelled = false;
    loop {
        tokio::select! {
            result = &mut work => {
                stop.check()?;
                return result;
            }
            () = stop.requested(), if !cancelled => {
                // The statement then ends with an error, and the transaction is rolled back as after any other.
                cancelled = true;
                server.cancel().await?;
            }
            () = tokio::time::sleep(PATIENCE) => {
                if let Some(helper) = helper {
                    let pids: Vec<i32> = facts::connections(helper, from).await?.iter().map(|held| held.pid).collect();
                    facts::terminate(helper, &pids).await?;
                }
            }
        }
    }
}

/// Names whoever stands in the way and may not be ended.
async fn refuse_if_held(server: &Server, swap: Swap<'_>, stop: &Stop) -> anyhow::Result<()> {
    let mut names = vec![swap.staging];
    names.extend(swap.keep_as.map(|_| swap.current));
    for name in names {
        let prepared = facts::prepared_transactions(server, name).await?;
        if !prepared.is_empty() {
            let fault = Fault::new(
                Kind::Refused,
                format!("the database \"{name}\" has prepared transactions: {}", prepared.join(", ")),
            );
            return fault.hint("End each with COMMIT PREPARED or ROLLBACK PREPARED in that database.").err();
        }
        if !swap.terminate {
            refuse_if_connected(server, name, stop).await?;
        }
    }
    Ok(())
}

/// Gives those a moment who are just leaving: a server process outlives its client by some milliseconds, and the
/// clients that filled the restored database have only just ended.
async fn refuse_if_connected(server: &Server, name: &str, stop: &Stop) -> anyhow::Result<()> {
    let mut held = facts::connections(server, name).await?;
    for _ in 0..LOOKS {
        if held.is_empty() {
            break;
        }
        stop.check()?;
        tokio::time::sleep(PATIENCE).await;
        held = facts::connections(server, name).await?;
    }
    if held.is_empty() { Ok(()) } else { in_use(name, &held).err() }
}

fn in_use(name: &str, held: &[Connection]) -> Fault {
    let named: Vec<String> = held.iter().map(ToString::to_string).collect();
    Fault::new(Kind::Refused, format!("the database \"{name}\" is in use: {}", named.join("; ")))
        .hint("Close these connections, or let pgkeep end them with --terminate.")
}

/// A name made of `base` and `suffix` that PostgreSQL does not cut: `base` gives way, at a character's boundary.
pub fn derived_name(base: &str, suffix: &str) -> String {
    let room = LONGEST_NAME.saturating_sub(suffix.len());
    let mut end = base.len().min(room);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_name_fits_and_is_not_cut_inside_a_character() {
        assert_eq!(derived_name("shop", "_old"), "shop_old");
        let long = "ü".repeat(31);
        assert_eq!(derived_name(&long, ""), long);
        let derived = derived_name(&long, "_old");
        assert_eq!(derived, format!("{}_old", "ü".repeat(29)));
        assert!(derived.len() <= LONGEST_NAME);
    }

    #[test]
    fn everybody_in_the_way_is_named() {
        let held = Connection {
            pid: 12,
            user: Some("app".to_owned()),
            application: Some("web".to_owned()),
            address: Some("10.0.0.5".to_owned()),
            state: Some("idle".to_owned()),
            since: None,
        };
        let fault = in_use("shop", &[held.clone(), Connection { pid: 13, ..held }]);
        assert_eq!(fault.kind, Kind::Refused);
        assert_eq!(
            fault.message,
            "the database \"shop\" is in use: pid 12 of \"app\" (web) from 10.0.0.5; pid 13 of \"app\" (web) from \
             10.0.0.5"
        );
    }
}
