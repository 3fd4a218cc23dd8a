//! Maps the result of a pull to a failure of the image, and to its cost in the upstream's rate limit. Pure.

use std::time::Duration;

use super::{
    environment::Unresolved,
    platform_select::takes,
    puller::{AttestationError, PullError, PulledImage},
    rate_limiter::UpstreamResult,
};
use crate::{
    api::{Platform, Reason, cached_image::PlatformStatus},
    reconcile::ReconcileError,
    registry,
    transport::RetryClass,
};

/// Pause while no platform is known or the HarborInstance is not ready. This is no failure of the image, so the pause does not
/// grow.
pub(super) const SOON: Duration = Duration::from_secs(15);

/// The failure for a tag that the upstream no longer has.
pub(super) fn gone(tag: &str, error: &registry::Error) -> ReconcileError {
    let message = format!(
        "the upstream no longer has the tag {tag}, so Harbor does not serve it: use a digest, or set serveRemoved in the \
         ProxyProject; {error}"
    );
    ReconcileError::new(error.reason(), message, error.class())
}

pub(super) fn unresolved(why: &Unresolved) -> ReconcileError {
    let (reason, class) = match why {
        Unresolved::InvalidImage(_) => (Reason::InvalidImage, RetryClass::Stalled),
        Unresolved::NotProxied(_) => (Reason::NotProxied, RetryClass::Wait(Some(SOON * 2))),
        Unresolved::InstanceNotReady(_) => (Reason::InstanceNotReady, RetryClass::Wait(Some(SOON))),
    };
    ReconcileError::new(reason, why, class)
}

/// Returns how the upstream answered a pull; `harbor_answers` says whether Harbor itself answered a check. Harbor may have
/// served some manifests from its cache, but does not report which count upstream, so all count.
pub(super) fn answer(pulled: &Result<PulledImage, PullError>, harbor_answers: bool) -> UpstreamResult {
    match pulled {
        Ok(warmed) => match warmed.attestations.failed {
            Some(AttestationError::Pull(registry::Error::RateLimited { retry_after, .. })) => {
                UpstreamResult::Limited(retry_after)
            }
            _ => {
                let children = u32::try_from(warmed.children.len()).unwrap_or(u32::MAX);
                let manifests = children.saturating_add(u32::from(warmed.index_children.is_some()));
                UpstreamResult::Served(manifests.saturating_add(warmed.attestations.asked))
            }
        },
        Err(PullError::Pull(registry::Error::RateLimited { retry_after, .. })) => UpstreamResult::Limited(*retry_after),
        Err(PullError::Pull(registry::Error::NotFound { .. })) => UpstreamResult::Served(0),
        // No status line came although Harbor answers: Harbor waits only for the upstream.
        Err(PullError::Pull(error)) if error.is_timeout() && harbor_answers => UpstreamResult::Silent,
        Err(PullError::Deadline(_)) => UpstreamResult::Failed,
        Err(error) if error.may_be_harbor() => UpstreamResult::Failed,
        Err(_) => UpstreamResult::Wrong,
    }
}

/// Returns the wanted platforms that have no pulled manifest.
pub(super) fn missing(wanted: &[Platform], pulled: &[PlatformStatus]) -> Vec<Platform> {
    let serves = |platform: &Platform| {
        let wanted = std::slice::from_ref(platform);
        pulled.iter().any(|child| takes(wanted, child.platform.parse::<Platform>().ok().as_ref()))
    };
    wanted.iter().filter(|platform| !serves(platform)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport;

    #[test]
    fn answer_lays_a_response_that_broke_off_to_the_upstream_and_no_response_to_neither() {
        let (operation, detail) = ("GET /v2/x".to_owned(), "said".to_owned());
        let timeout = transport::Error::Timeout { operation: operation.clone(), deadline: SOON };
        let unreachable =
            transport::Error::Unreachable { url: "http://harbor.test".to_owned(), detail: detail.clone() };
        let broken_off = transport::Error::BrokenOff { operation, detail };
        let table = [
            (broken_off.clone(), true, UpstreamResult::Wrong),
            (broken_off, false, UpstreamResult::Wrong),
            (timeout.clone(), true, UpstreamResult::Silent),
            (timeout, false, UpstreamResult::Failed),
            (unreachable, false, UpstreamResult::Failed),
        ];
        for (error, harbor_answers, expected) in table {
            let pulled = Err(PullError::Pull(error.into()));
            assert_eq!(answer(&pulled, harbor_answers), expected, "{pulled:?}, Harbor answers: {harbor_answers}");
        }
    }
}
