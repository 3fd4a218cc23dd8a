//! Backoff with a trial: after a failure there are no requests until a given time. Then one image tries, and the others wait
//! for its result.

use k8s_openapi::jiff::Timestamp;

/// A pause, and whether one image tries if it is over. The default has no pause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProbeBackoff {
    until: Option<Timestamp>,
    tried: bool,
}

/// Why no request is allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeDenied {
    /// The pause lasts until this time.
    Until(Timestamp),
    /// The pause is over, and another image tries.
    Trial,
}

impl ProbeBackoff {
    /// Creates a pause until this time. It may be over, but without a trial.
    pub(super) fn until(until: Timestamp) -> Self {
        Self { until: Some(until), tried: false }
    }

    /// Returns the end of the pause; in the past while no request has succeeded since.
    pub(super) fn end(&self) -> Option<Timestamp> {
        self.until
    }

    /// Returns whether the pause lasts now.
    pub(super) fn is_on(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// Returns whether a request is allowed now.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), ProbeDenied> {
        match self.until {
            Some(until) if until > now => Err(ProbeDenied::Until(until)),
            Some(_) if self.tried => Err(ProbeDenied::Trial),
            _ => Ok(()),
        }
    }

    /// Starts an allowed request. Returns whether it is the trial, which ends with [`Rest::ask_over`].
    pub(super) fn ask(&mut self) -> bool {
        self.tried = self.until.is_some();
        self.tried
    }

    /// Ends the trial, whatever its result was.
    pub(super) fn ask_over(&mut self) {
        self.tried = false;
    }

    /// Pauses until this time.
    pub(super) fn extend(&mut self, until: Timestamp) {
        self.until = Some(until);
    }

    /// Ends the pause after a success.
    pub(super) fn serves(&mut self) {
        self.until = None;
    }
}
