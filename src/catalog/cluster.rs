//! The table `cluster`: whose backups the catalog knows.
//!
//! Under another cluster's name every backup would look lost, because all keys in the stores begin with that name.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::Catalog;
use crate::model::{ClusterName, Fault, Kind};

impl Catalog {
    /// Fails with [`Kind::Refused`] when the catalog is another cluster's. One in which there is nothing yet is
    /// nobody's. Changes nothing.
    pub fn refuse_another_cluster(&self, cluster: &ClusterName) -> anyhow::Result<()> {
        match self.read("look whose catalog it is", known)? {
            Some(owner) if owner.is_settled && owner.name != cluster.as_str() => {
                self.another(&owner.name, cluster).err()
            }
            _ => Ok(()),
        }
    }

    /// Makes the catalog this cluster's, if there is nothing in it yet; fails with [`Kind::Refused`] when it is
    /// another's. May run again.
    pub fn take_for(&self, cluster: &ClusterName) -> anyhow::Result<()> {
        let is_ours = |owner: &Option<Owner>| owner.as_ref().is_some_and(|it| it.name == cluster.as_str());
        // As a rule it is: then nobody has to wait for whoever writes.
        if is_ours(&self.read("look whose catalog it is", known)?) {
            return Ok(());
        }
        let other = self.write("write down whose catalog it is", |transaction| {
            match known(transaction)? {
                Some(owner) if owner.is_settled => return Ok(Some(owner.name)),
                _ => transaction.execute(
                    "INSERT INTO cluster (one, name) VALUES (1, :name) \
                     ON CONFLICT (one) DO UPDATE SET name = excluded.name",
                    named_params! { ":name": cluster.as_str() },
                )?,
            };
            Ok(None)
        })?;
        match other {
            Some(other) if other != cluster.as_str() => self.another(&other, cluster).err(),
            _ => Ok(()),
        }
    }

    fn another(&self, name: &str, wanted: &ClusterName) -> Fault {
        let message = format!(
            "the catalog {} is that of the cluster {name}, and BACKUP_CLUSTER is {wanted}",
            self.path().display()
        );
        Fault::new(Kind::Refused, message).hint(format!(
            "Set BACKUP_CLUSTER={name}; another server needs a BACKUP_STATE_DIR of its own and `pgkeep init`."
        ))
    }
}

struct Owner {
    name: String,
    /// Whether something is there under this name: a backup, or what a run that has not ended may have stored.
    is_settled: bool,
}

fn known(connection: &Connection) -> rusqlite::Result<Option<Owner>> {
    let sql = "SELECT name, EXISTS (SELECT 1 FROM backups) \
                      OR EXISTS (SELECT 1 FROM runs WHERE outcome = 'running' AND subject IS NOT NULL) AS is_settled \
               FROM cluster";
    let owner =
        |row: &rusqlite::Row<'_>| Ok(Owner { name: row.get("name")?, is_settled: row.get("is_settled")? });
    connection.query_row(sql, [], owner).optional()
}
