//! Whoever did not answer, or refused, is left alone until a time. Then one tries, and the others wait for what it is told.

use k8s_openapi::jiff::Timestamp;

/// Until when something is left alone, and whether one tries it. The default asks freely.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rest {
    until: Option<Timestamp>,
    tried: bool,
}

/// Why one may not ask now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It is left alone until then.
    Until(Timestamp),
    /// That is over, and another one tries.
    Trial,
}

impl Rest {
    /// One that lasts until then, or is over by then and not tried yet.
    pub(super) fn until(until: Timestamp) -> Self {
        Self { until: Some(until), tried: false }
    }

    /// When it ends, or ended while nobody has been served since.
    pub(super) fn end(&self) -> Option<Timestamp> {
        self.until
    }

    /// Whether it is to be left alone now.
    pub(super) fn is_on(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// Whether one may ask now.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Held> {
        match self.until {
            Some(until) if until > now => Err(Held::Until(until)),
            Some(_) if self.tried => Err(Held::Trial),
            _ => Ok(()),
        }
    }

    /// One that may ask does. Answers whether it is the one that tries, which ends with [`Rest::ask_over`].
    pub(super) fn ask(&mut self) -> bool {
        self.tried = self.until.is_some();
        self.tried
    }

    /// The one that tries is through, whatever it was told.
    pub(super) fn ask_over(&mut self) {
        self.tried = false;
    }

    /// It is left alone until then.
    pub(super) fn extend(&mut self, until: Timestamp) {
        self.until = Some(until);
    }

    /// It serves.
    pub(super) fn serves(&mut self) {
        self.until = None;
    }
}
