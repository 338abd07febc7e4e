//! Which copies are read in full next, so that the oldest proof is renewed first, and how long it takes until all were.

use std::time::Duration;

use crate::model::Timestamp;

/// The least that is read without a budget of the operator's: what is smaller is not worth sparing.
const LEAST: u64 = 16 << 20;

/// A copy that can be read in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provable {
    /// Bytes as stored.
    pub size: u64,
    /// When its bytes were last found right; `None` when that was never so, which is older than any time. That a store
    /// lists it says nothing of its bytes.
    pub proof: Option<Timestamp>,
}

/// Chooses what is read now within a budget of stored bytes: indexes into `copies`, the oldest proof first, equally old
/// ones in the order in which they are given.
///
/// Unless the budget is 0 the copy with the oldest proof is always among them, however large it is, alone if it is larger
/// than the budget: so none starves. Where the next one does not fit any more, smaller ones behind it fill the rest, but
/// only if their proofs are at least half as old: what was just read is not read again only because it is small.
pub fn choose(copies: &[Provable], budget: u64, now: Timestamp) -> Vec<usize> {
    let (mut left, mut chosen) = (budget, Vec::new());
    let mut waits: Option<Option<Timestamp>> = None;
    for index in by_age(copies, now) {
        let Provable { size, .. } = copies[index];
        let proof = proof_of(&copies[index], now);
        if left == 0 || waits.is_some_and(|oldest| is_much_newer(proof, oldest, now)) {
            break;
        }
        if chosen.is_empty() || size <= left {
            chosen.push(index);
            left = left.saturating_sub(size);
        } else {
            waits = waits.or(Some(proof));
        }
    }
    chosen
}

/// How many runs with this budget it takes at most until each of these copies was read once; `None`: never, because the
/// budget is 0.
pub fn runs(copies: &[Provable], budget: u64, now: Timestamp) -> Option<u64> {
    if copies.is_empty() {
        return Some(0);
    }
    if budget == 0 {
        return None;
    }
    let (mut runs, mut left) = (0, 0);
    for index in by_age(copies, now) {
        let Provable { size, .. } = copies[index];
        if runs == 0 || left == 0 || size > left {
            runs += 1;
            left = budget;
        }
        left = left.saturating_sub(size);
    }
    Some(runs)
}

/// The budget of one run with which so many bytes are read twice within the greatest age that a proof may have, when a run
/// follows the other after `interval`. Twice, because no copy may be late when a few runs are left out.
pub fn enough(total: u64, interval: Duration, max_age: Duration) -> u64 {
    let share = 2.0 * interval.as_secs_f64() / max_age.as_secs_f64().max(1.0);
    LEAST.max((total as f64 * share).ceil() as u64)
}

/// The order in which they are read.
fn by_age(copies: &[Provable], now: Timestamp) -> Vec<usize> {
    let mut order: Vec<usize> = (0..copies.len()).collect();
    order.sort_by_key(|index| proof_of(&copies[*index], now));
    order
}

/// A proof from a time that is still to come was written with a clock that was wrong, and says nothing.
fn proof_of(copy: &Provable, now: Timestamp) -> Option<Timestamp> {
    copy.proof.filter(|proof| *proof <= now)
}

fn is_much_newer(proof: Option<Timestamp>, oldest: Option<Timestamp>, now: Timestamp) -> bool {
    match (proof, oldest) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(proof), Some(oldest)) => (now - proof) * 2 < now - oldest,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_timestamp(1_795_312_800 + minute * 60, 0).unwrap()
    }

    fn copy(size: u64, minute: Option<i64>) -> Provable {
        Provable { size, proof: minute.map(at) }
    }

    #[test]
    fn the_oldest_proof_comes_first_and_none_is_the_oldest() {
        let copies = [copy(1, Some(3)), copy(1, None), copy(1, Some(1)), copy(1, Some(2)), copy(1, None)];
        assert_eq!(choose(&copies, 4, at(100)), [1, 4, 2, 3]);
        assert_eq!(choose(&copies, 100, at(100)), [1, 4, 2, 3, 0]);
        assert_eq!(choose(&copies, 0, at(100)), [0; 0]);
        assert_eq!(choose(&[], 100, at(100)), [0; 0]);
    }

    #[test]
    fn what_is_larger_than_the_budget_is_read_alone_when_its_turn_comes() {
        let copies = [copy(1000, Some(1)), copy(1, Some(2))];
        assert_eq!(choose(&copies, 10, at(100)), [0]);
        let copies = [copy(1000, Some(2)), copy(1, Some(1))];
        assert_eq!(choose(&copies, 10, at(100)), [1]);
    }

    #[test]
    fn smaller_ones_fill_up_unless_they_were_just_read() {
        let copies = [copy(6, Some(1)), copy(6, Some(2)), copy(3, Some(3)), copy(1, Some(90))];
        assert_eq!(choose(&copies, 10, at(100)), [0, 2]);
        let copies = [copy(6, None), copy(6, None), copy(3, Some(3))];
        assert_eq!(choose(&copies, 10, at(100)), [0], "never proven is older than anything");
    }

    #[test]
    fn a_proof_of_a_time_to_come_is_none() {
        assert_eq!(choose(&[copy(1, Some(5)), copy(1, Some(500))], 1, at(100)), [1]);
    }

    #[test]
    fn the_number_of_runs_is_told_beforehand() {
        let copies: Vec<Provable> = (0..10).map(|minute| copy(10, Some(minute))).collect();
        assert_eq!(runs(&copies, 25, at(100)), Some(5));
        assert_eq!(runs(&copies, 100, at(100)), Some(1));
        assert_eq!(runs(&copies, 1, at(100)), Some(10));
        assert_eq!(runs(&copies, 0, at(100)), None);
        assert_eq!(runs(&[], 0, at(100)), Some(0));
    }

    #[test]
    fn without_a_budget_everything_is_read_twice_in_time() {
        let (hour, month) = (Duration::from_hours(1), Duration::from_hours(720));
        assert_eq!(enough(36 << 30, hour, month), (36 << 30) / 360 + 1);
        assert_eq!(enough(1, hour, month), LEAST);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn whatever_there_is_the_budget_is_kept_the_oldest_is_read_and_none_starves(
            made in proptest::collection::vec((0_u64..200, proptest::option::of(0_i64..10_000)), 1..60),
            budget in 1_u64..300,
            added in proptest::collection::vec(0_u64..200, 0..10),
        ) {
            let mut copies: Vec<Provable> =
                made.iter().map(|(size, minute)| copy(*size, *minute)).collect();
            let begun = at(10_000);
            let promised = runs(&copies, budget, begun).unwrap();
            let total: u64 = copies.iter().map(|copy| copy.size).sum();
            let large = copies.iter().filter(|copy| copy.size > budget).count() as u64;
            let count = copies.len();
            let (mut now, mut read) = (begun, 0);
            let mut times = vec![0; count];
            let mut taken = 0;
            while times.contains(&0) {
                now += TimeDelta::hours(1);
                let chosen = choose(&copies, budget, now);
                let bytes: u64 = chosen.iter().map(|index| copies[*index].size).sum();
                prop_assert!(bytes <= budget || chosen.len() == 1);
                let oldest = copies.iter().map(|copy| copy.proof).min().unwrap();
                prop_assert_eq!(copies[chosen[0]].proof, oldest);
                for index in chosen {
                    copies[index].proof = Some(now);
                    if let Some(times) = times.get_mut(index) {
                        *times += 1;
                        read += copies[index].size;
                    }
                }
                taken += 1;
                // New ones do not keep old ones waiting.
                if let Some(size) = added.get(taken as usize) {
                    copies.push(Provable { size: *size, proof: Some(now) });
                }
                prop_assert!(taken <= promised, "{} runs were promised", promised);
            }
            prop_assert!(taken <= 2 * total / budget + 2 + large, "{} runs", taken);
            prop_assert!(read <= 2 * total + budget, "{} bytes were read, {} are there", read, total);
        }

        #[test]
        fn small_ones_of_one_age_are_read_once_in_as_few_runs_as_can_be(
            count in 1_usize..200, size in 1_u64..50, per_run in 1_u64..20,
        ) {
            let budget = size * per_run;
            let mut copies = vec![copy(size, Some(0)); count];
            let mut now = at(600);
            let least = (count as u64).div_ceil(per_run);
            for _ in 0..least {
                now += TimeDelta::hours(1);
                for index in choose(&copies, budget, now) {
                    copies[index].proof = Some(now);
                }
            }
            prop_assert!(copies.iter().all(|copy| copy.proof > Some(at(600))));
            prop_assert_eq!(runs(&copies, budget, now), Some(least));
        }
    }
}
