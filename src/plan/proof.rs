//! What the monthly test restore proves.

use crate::model::StoreName;

/// The store whose turn it is in this month: one after the other in this order, so that none goes unproven for longer than
/// there are stores. `None` without a store.
pub fn store_of_month(year: i32, month: u32, stores: &[StoreName]) -> Option<StoreName> {
    let count = i64::try_from(stores.len()).ok().filter(|count| *count > 0)?;
    let turn = (i64::from(year) * 12 + i64::from(month)).rem_euclid(count);
    // In a fixed order: that in which they are read may be changed at any time, and nobody must lose a turn by it.
    let mut stores = stores.to_owned();
    stores.sort_by_key(|store| store.as_str());
    usize::try_from(turn).ok().and_then(|turn| stores.get(turn).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreName::{B2, Local, R2};

    #[test]
    fn every_store_has_its_turn_across_the_year_s_end_whatever_their_order() {
        for stores in [vec![Local], vec![R2, Local], vec![R2, B2, Local]] {
            let mut reversed = stores.clone();
            reversed.reverse();
            let months = (0..36).map(|month| (2026 + month / 12, u32::try_from(month % 12 + 1).unwrap()));
            let turns: Vec<_> = months
                .map(|(year, month)| {
                    let store = store_of_month(year, month, &stores);
                    assert_eq!(store, store_of_month(year, month, &reversed));
                    store.unwrap()
                })
                .collect();
            for window in turns.windows(stores.len()) {
                assert!(stores.iter().all(|store| window.contains(store)), "{window:?}");
            }
        }
        assert_eq!(store_of_month(2026, 11, &[]), None);
    }
}
