//! State that many need and one reads.

use k8s_openapi::jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};

use crate::harbor::Error;

/// A value that is read from Harbor by one caller at a time: other callers wait for that read, and send none.
#[derive(Debug, Default)]
pub(super) struct SharedRead<T> {
    known: Mutex<T>,
    reading: tokio::sync::Mutex<()>,
}

impl<T> SharedRead<T> {
    /// Locks the known value.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.known.lock()
    }

    /// Reads unless the known value is fresh. `take` stores the result in the known value, with the time at which the read
    /// began.
    pub(super) async fn refresh<R>(
        &self,
        is_fresh: impl Fn(&T) -> bool,
        read: impl Future<Output = Result<R, Error>>,
        take: impl FnOnce(&mut T, Timestamp, R),
    ) -> Result<(), Error> {
        if is_fresh(&self.lock()) {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if is_fresh(&self.lock()) {
            return Ok(());
        }
        let begun = Timestamp::now();
        let found = read.await?;
        take(&mut self.lock(), begun, found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shared_read_serves_concurrent_callers_and_keeps_no_failure() {
        let shared = SharedRead::<Option<u32>>::default();
        let reads = std::sync::atomic::AtomicU32::new(0);
        let ask = |result: Result<u32, Error>| {
            let read = async {
                tokio::task::yield_now().await;
                reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                result
            };
            shared.refresh(Option::is_some, read, |known, _, found| *known = Some(found))
        };
        assert!(ask(Err(Error::Conflict { message: "away".to_owned() })).await.is_err());
        let (first, second, third) = tokio::join!(ask(Ok(1)), ask(Ok(2)), ask(Ok(3)));
        assert!(first.is_ok() && second.is_ok() && third.is_ok());
        assert_eq!((*shared.lock(), reads.into_inner()), (Some(1), 2));
    }
}
