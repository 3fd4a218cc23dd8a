//! Limits on the size of a Pod and on the work for a review.
//!
//! A tenant decides how large a Pod is. A Pod above these limits is refused before the work starts, and answered like a Pod
//! that cannot be read.

use std::cell::Cell;

/// The most containers of a Pod, in all three lists together. A Pod with more does not fit into etcd, whose objects have at
/// most 1.5 MiB: with its defaults a container takes about 100 bytes.
pub const MAX_CONTAINERS: usize = 16_384;
/// The most images of one Pod or workload that are prewarmed: the first ones. A Pod with more is not meant to run.
pub const MAX_WARMED: usize = 1_000;
/// The most volumes of a Pod, for the same reason.
pub const MAX_VOLUMES: usize = 16_384;
/// The most labels of a Pod. Kubernetes has no limit; users set less than a hundred.
pub const MAX_LABELS: usize = 4_096;
/// The most entries of `spec.imagePullSecrets`. A kubelet tries them one after the other for each image.
pub const MAX_PULL_SECRETS: usize = 4_096;
/// The Kubernetes limit on all annotations of an object, keys and values together, in bytes. Our own annotations cannot
/// exceed it.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;
/// The longest image, in bytes. A DNS name with a port, a repository, a tag and a digest have less than 800 bytes, so no
/// runtime can pull a longer one.
pub const MAX_IMAGE: usize = 1_024;

/// The steps of one review. A step takes 15 ns (a condition of a policy) to 130 ns (a glob, or a rule with a selector), so
/// all of them take 8 to 65 ms: far less than the timeout of the webhook, and more than 1,000 images need under 100 policies
/// with an allow list. `tests/review_cost.rs` has the measurement.
const REVIEW: u64 = 500_000;
/// The steps of one glob: it is matched twice.
const GLOB: usize = 8;

/// The remaining work of a review, in steps, so that the same review has the same answer on each machine.
///
/// Work that grows with the size of the Pod alone is linear and needs no budget. Steps count the work that grows with the
/// product of the images of a Pod and the rules or policies that an administrator wrote.
#[derive(Debug)]
pub struct StepBudget {
    left: Cell<u64>,
}

/// The work for a review exceeds its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Pod has too many images for the number of rules and policies: use fewer images")]
pub struct BudgetExhausted;

impl StepBudget {
    /// Returns the budget of one review.
    pub fn of_review() -> Self {
        Self { left: Cell::new(REVIEW) }
    }

    /// Returns an unlimited budget, for commands and controllers.
    pub fn unlimited() -> Self {
        Self { left: Cell::new(u64::MAX) }
    }

    /// Takes steps. Returns false when too few are left; then the budget is empty.
    pub fn spend(&self, steps: u64) -> bool {
        let left = self.left.get().checked_sub(steps);
        self.left.set(left.unwrap_or(0));
        left.is_some_and(|left| left > 0)
    }

    /// Fails when the budget was exceeded.
    ///
    /// # Errors
    /// When more steps were needed than the budget had.
    pub fn check(&self) -> Result<(), BudgetExhausted> {
        if self.left.get() == 0 { Err(BudgetExhausted) } else { Ok(()) }
    }
}

/// Returns the steps for a number of requirements, their values in total, and globs.
pub fn steps(requirements: usize, values: usize, globs: usize) -> u64 {
    let steps = requirements.saturating_add(values / 4).saturating_add(globs.saturating_mul(GLOB));
    u64::try_from(steps).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_ends_at_the_step_that_it_does_not_have_and_stays_exhausted() {
        let budget = StepBudget { left: Cell::new(10) };
        assert!(budget.spend(9) && budget.check().is_ok());
        assert!(!budget.spend(2));
        assert_eq!(budget.check(), Err(BudgetExhausted));
        assert!(!budget.spend(0));
    }

    #[test]
    fn steps_grow_with_each_part_and_never_overflow() {
        assert_eq!((steps(0, 0, 0), steps(2, 8, 1)), (1, 13));
        assert_eq!(steps(usize::MAX, usize::MAX, usize::MAX), u64::MAX);
    }
}
