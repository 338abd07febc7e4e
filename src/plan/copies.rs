//! Which copies are to be made, and from where: what `pgkeep sync` does.

use std::collections::BTreeSet;

use crate::model::{BackupId, Digest, StoreName};

/// One object of one backup, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The backup.
    pub backup: BackupId,
    /// The object's name within it.
    pub name: String,
    /// Bytes as stored.
    pub size: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Digest,
    /// The stores that hold a good copy, in the order in which they are best read.
    pub good: Vec<StoreName>,
    /// The stores that should hold one and don't.
    pub lacking: Vec<StoreName>,
}

/// A copy to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The object.
    pub object: Object,
    /// The stores that are to get it; each of them can be written to now.
    pub to: Vec<StoreName>,
}

/// What is to be done, and what can't be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyPlan {
    /// Backup by backup, the volumes in their order, the manifest last.
    pub orders: Vec<Order>,
    /// Objects of which no store holds a good copy.
    pub lost: Vec<Object>,
    /// Objects of which a copy is owed to a store that can't be written to now, or whose good copies are all in stores
    /// that can't be read now.
    pub waiting: Vec<Object>,
}

/// Decides. `reachable` are the stores that answer; `manifest` is the name of the object that makes a backup exist.
///
/// A store gets a backup's manifest only when it has, or gets now, all of its other objects: a manifest without its
/// volumes would look like a backup.
pub fn plan(mut objects: Vec<Object>, reachable: &[StoreName], manifest: &str) -> CopyPlan {
    objects.sort_by(|left, right| {
        let key = |object: &Object| (object.backup.clone(), object.name == manifest, object.name.clone());
        key(left).cmp(&key(right))
    });
    let mut plan = CopyPlan::default();
    // Stores in which the present backup will not be whole.
    let mut incomplete: (Option<BackupId>, BTreeSet<StoreName>) = (None, BTreeSet::new());
    for object in objects {
        if incomplete.0.as_ref() != Some(&object.backup) {
            incomplete = (Some(object.backup.clone()), BTreeSet::new());
        }
        if object.lacking.is_empty() {
            continue;
        }
        if object.good.is_empty() {
            incomplete.1.extend(object.lacking.iter().copied());
            plan.lost.push(object);
            continue;
        }
        let readable = object.good.iter().any(|store| reachable.contains(store));
        let to: Vec<StoreName> = object
            .lacking
            .iter()
            .copied()
            .filter(|store| readable && reachable.contains(store))
            .filter(|store| object.name != manifest || !incomplete.1.contains(store))
            .collect();
        if to.len() < object.lacking.len() {
            incomplete.1.extend(object.lacking.iter().copied().filter(|store| !to.contains(store)));
            plan.waiting.push(object.clone());
        }
        if !to.is_empty() {
            plan.orders.push(Order { object, to });
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use StoreName::{B2, Local, R2};

    fn object(name: &str, good: &[StoreName], lacking: &[StoreName]) -> Object {
        Object {
            backup: "20261122T020000Z-database-1a2b3c4d".parse().unwrap(),
            name: name.to_owned(),
            size: 1,
            sha256: Digest::from_bytes([7; 32]),
            good: good.to_vec(),
            lacking: lacking.to_vec(),
        }
    }

    fn orders(plan: &CopyPlan) -> Vec<(&str, &[StoreName])> {
        plan.orders.iter().map(|order| (order.object.name.as_str(), &order.to[..])).collect()
    }

    #[test]
    fn what_is_everywhere_needs_nothing() {
        let plan = plan(vec![object("manifest", &[Local, R2, B2], &[])], &[Local, R2, B2], "manifest");
        assert_eq!(plan, CopyPlan::default());
    }

    #[test]
    fn volumes_come_before_the_manifest() {
        let objects = vec![
            object("manifest", &[Local], &[R2]),
            object("data.00001", &[Local], &[R2]),
            object("zeta", &[Local], &[R2]),
            object("data.00000", &[Local, B2], &[R2]),
        ];
        let plan = plan(objects, &[Local, R2], "manifest");
        let expected: Vec<(&str, &[StoreName])> =
            vec![("data.00000", &[R2]), ("data.00001", &[R2]), ("zeta", &[R2]), ("manifest", &[R2])];
        assert_eq!(orders(&plan), expected);
    }

    #[test]
    fn a_store_that_lacks_a_lost_volume_gets_no_manifest() {
        let objects = vec![
            object("data.00000", &[], &[Local, R2]),
            object("data.00001", &[B2], &[Local]),
            object("manifest", &[B2], &[Local, R2]),
        ];
        let plan = plan(objects, &[Local, R2, B2], "manifest");
        assert_eq!(orders(&plan), vec![("data.00001", &[Local][..])]);
        assert_eq!(plan.lost.len(), 1);
        assert_eq!(plan.waiting.len(), 1);
    }

    #[test]
    fn a_store_that_is_away_waits_and_keeps_nobody_waiting() {
        let objects =
            vec![object("data.00000", &[Local], &[R2, B2]), object("manifest", &[Local], &[R2, B2])];
        let plan = plan(objects, &[Local, B2], "manifest");
        assert_eq!(orders(&plan), vec![("data.00000", &[B2][..]), ("manifest", &[B2][..])]);
        assert_eq!((plan.lost.len(), plan.waiting.len()), (0, 2));
    }

    #[test]
    fn copies_that_only_a_store_that_is_away_has_are_not_lost() {
        let plan = plan(vec![object("data.00000", &[R2], &[Local])], &[Local, B2], "manifest");
        assert_eq!((plan.orders.len(), plan.lost.len(), plan.waiting.len()), (0, 0, 1));
    }
}
