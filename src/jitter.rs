//! Unpredictable numbers, for jitter and unique names. Not for secrets.

use std::hash::{BuildHasher, RandomState};

/// A random number.
pub fn number() -> u64 {
    // Each `RandomState` has its own keys.
    RandomState::new().hash_one(0_u8)
}

/// A random number from 0 to 1, so that tasks that failed together do not retry together.
pub fn fraction() -> f64 {
    (number() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_and_fractions_lie_between_0_and_1() {
        assert_ne!(number(), number());
        assert!((0..1000).map(|_| fraction()).all(|fraction| (0.0..1.0).contains(&fraction)));
    }
}
