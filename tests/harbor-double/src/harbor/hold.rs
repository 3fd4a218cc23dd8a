//! Requests that are never answered, from a certain one on: the moment at which a client is killed.

use parking_lot::Mutex;
use tokio::sync::watch;

/// From which request to the API on clients wait for ever. Counted from 0, from when it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// That request does not reach Harbor any more.
    Before(usize),
    /// That request is carried out, and its answer does not reach the client any more.
    After(usize),
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Serve,
    ServeSilently,
    Ignore,
}

#[derive(Debug, Default)]
pub(crate) struct Holds {
    set: Mutex<(Option<Hold>, usize)>,
    reached: watch::Sender<bool>,
}

impl Holds {
    pub(crate) fn set(&self, hold: Option<Hold>) {
        *self.set.lock() = (hold, 0);
        self.reached.send_replace(false);
    }

    /// Requests that came since a hold was set.
    pub(crate) fn seen(&self) -> usize {
        self.set.lock().1
    }

    pub(crate) fn turn(&self) -> Turn {
        let mut set = self.set.lock();
        let at = set.1;
        set.1 += 1;
        match set.0 {
            Some(Hold::Before(from)) if at >= from => Turn::Ignore,
            Some(Hold::After(from)) if at > from => Turn::Ignore,
            Some(Hold::After(from)) if at == from => Turn::ServeSilently,
            _ => Turn::Serve,
        }
    }

    /// Never returns, as long as the client waits.
    pub(crate) async fn wait(&self) {
        self.reached.send_replace(true);
        std::future::pending::<()>().await;
    }

    pub(crate) async fn until_reached(&self) {
        // The sender lives as long as this does.
        drop(self.reached.subscribe().wait_for(|reached| *reached).await);
    }
}
