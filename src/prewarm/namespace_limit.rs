//! Limits the new images that the Pods of one namespace may bring: a burst, and a rate from then on.
//!
//! A prewarm request is made before it is known whether the Pod is admitted. Without a limit a tenant could spend an upstream's
//! rate limit with Pods that are refused.

use std::{collections::HashMap, time::Instant};

/// Maximum number of namespaces with a bucket. Above it, all buckets are reset.
const MOST: usize = 4096;

/// The bounds of each namespace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NamespaceLimit {
    /// Images at once.
    pub burst: u32,
    /// Images a second, after the burst.
    pub per_second: f64,
}

impl Default for NamespaceLimit {
    /// 100 at once, then one a second.
    fn default() -> Self {
        Self { burst: 100, per_second: 1.0 }
    }
}

/// A token bucket for each namespace.
#[derive(Debug)]
pub(super) struct NamespaceBuckets {
    limit: NamespaceLimit,
    known: HashMap<String, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl NamespaceBuckets {
    pub(super) fn new(limit: NamespaceLimit) -> Self {
        Self { limit, known: HashMap::new() }
    }

    /// Takes one token of a namespace; `false` if none is left.
    pub(super) fn take(&mut self, namespace: &str, now: Instant) -> bool {
        let limit = self.limit;
        let full = f64::from(limit.burst);
        let filled = |bucket: &Bucket| {
            let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
            passed.mul_add(limit.per_second, bucket.tokens).min(full)
        };
        let tokens = self.known.get(namespace).map_or(full, filled);
        if !self.known.contains_key(namespace) && self.known.len() >= MOST {
            self.known.retain(|_, bucket| filled(bucket) < full);
            if self.known.len() >= MOST {
                self.known.clear();
            }
        }
        let taken = tokens >= 1.0;
        let left = Bucket { tokens: if taken { tokens - 1.0 } else { tokens }, at: now };
        match self.known.get_mut(namespace) {
            Some(bucket) => *bucket = left,
            None => drop(self.known.insert(namespace.to_owned(), left)),
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_namespace_has_a_burst_and_a_rate_of_its_own() {
        let start = Instant::now();
        let mut buckets = NamespaceBuckets::new(NamespaceLimit { burst: 10, per_second: 2.0 });
        let mut taken = |namespace: &str, second: f64| {
            let now = start + Duration::from_secs_f64(second);
            (0..100).filter(|_| buckets.take(namespace, now)).count()
        };
        assert_eq!(taken("shop", 0.0), 10);
        assert_eq!(taken("shop", 0.4), 0);
        assert_eq!(taken("bank", 0.4), 10, "others are not concerned");
        assert_eq!(taken("shop", 3.0), 6);
        assert_eq!(taken("shop", 1000.0), 10);
    }

    #[test]
    fn memory_is_bounded_whatever_namespaces_come() {
        let now = Instant::now();
        let mut buckets = NamespaceBuckets::new(NamespaceLimit::default());
        for number in 0..3 * MOST {
            assert!(buckets.take(&number.to_string(), now));
        }
        assert!(buckets.known.len() <= MOST);
    }
}
