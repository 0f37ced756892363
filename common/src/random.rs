//! Random names and numbers. A simulation seeds them, so that it can be repeated.
//!
//! Never used for secrets.

use std::cell::Cell;

use uuid::Uuid;

thread_local! {
    /// State of the generator of this thread, once it is seeded.
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's numbers follow from `seed` alone. For simulations.
pub fn seed(seed: u64) {
    SEEDED.set(Some(seed));
}

/// A name that nobody else has.
#[must_use]
pub fn uuid() -> Uuid {
    match SEEDED.get() {
        Some(_) => {
            let (high, low) = (u128::from(next()), u128::from(next()));
            uuid::Builder::from_random_bytes((high << 64 | low).to_be_bytes()).into_uuid()
        }
        None => Uuid::new_v4(),
    }
}

/// A number in `0.0..1.0`, good enough for jitter.
#[must_use]
pub fn unit() -> f64 {
    let (high, _) = uuid().as_u64_pair();
    // The upper 32 bits of a version 4 UUID are random.
    f64::from((high >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

/// The next number of the seeded generator: SplitMix64 (Steele, Lea, Flood 2014).
fn next() -> u64 {
    let state = SEEDED.get().unwrap_or_default().wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEEDED.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_everything_and_another_does_not() {
        let draw = |from: u64| {
            std::thread::spawn(move || {
                seed(from);
                (uuid(), uuid(), unit().to_bits())
            })
            .join()
            .unwrap()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_ne!(draw(7).0, draw(7).1);
    }

    #[test]
    fn without_a_seed_names_differ_and_numbers_stay_in_range() {
        assert_ne!(uuid(), uuid());
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&unit())));
    }
}
