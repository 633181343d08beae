//! What is running, so that nothing runs twice at once, and so that work goes on whose caller has left.
//!
//! Each operation runs in a task of its own: a caller that gives up (its deadline passed, its process died) does not cut off a mount
//! in the middle. While it runs, another call for the same volume is refused. One call is not: the *same* call again, after the
//! first caller left. It takes the first one's place and gets the result. When the work is done nothing is remembered: a call after
//! that starts anew, and finds by looking what is there already.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::status;

/// The volumes on which one of several kinds of operations is running.
pub(crate) struct Busy<K>(Arc<Mutex<BTreeSet<K>>>);

impl<K> Busy<K> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for Busy<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Why an operation was not run, or has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RunError {
    /// Another one is running.
    #[error("an earlier call for this volume is still running")]
    Busy,
    /// It stopped without a result: it ran into a fault of this program.
    #[error("the operation broke off")]
    BrokeOff,
}

impl From<RunError> for Status {
    fn from(error: RunError) -> Self {
        let code = match error {
            RunError::Busy => Code::Aborted,
            RunError::BrokeOff => Code::Internal,
        };
        status::of(code, &error)
    }
}

struct Running<R, T> {
    request: R,
    /// Who gets the result. Closed when the caller has left.
    to: oneshot::Sender<T>,
}

type Table<K, R, T> = Arc<Mutex<BTreeMap<K, Running<R, T>>>>;

/// The running operations of one kind: requests `R`, results `T`.
pub(crate) struct Lane<K, R, T> {
    running: Table<K, R, T>,
    busy: Busy<K>,
}

impl<K, R, T> Lane<K, R, T>
where
    K: Ord + Clone + Send + 'static,
    R: PartialEq + Send + 'static,
    T: Send + 'static,
{
    /// Operations that exclude all others which share `busy`.
    pub(crate) fn new(busy: &Busy<K>) -> Self {
        Self { running: Arc::default(), busy: busy.clone() }
    }

    /// Runs `work`, or waits for the same work that another caller began and left.
    ///
    /// # Errors
    /// Something else is running on `key`, or the work broke off.
    pub(crate) async fn run(
        &self,
        key: K,
        request: R,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RunError> {
        let result = self.enter(key, request, work)?;
        result.await.map_err(|_| RunError::BrokeOff)
    }

    fn enter(
        &self,
        key: K,
        request: R,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, RunError> {
        let (to, result) = oneshot::channel();
        // The order of the two locks is the same everywhere: a lane's own, then what lanes share.
        let mut running = lock(&self.running);
        if let Some(earlier) = running.get_mut(&key) {
            if !earlier.to.is_closed() || earlier.request != request {
                return Err(RunError::Busy);
            }
            earlier.to = to;
            return Ok(result);
        }
        if !lock(&self.busy.0).insert(key.clone()) {
            return Err(RunError::Busy);
        }
        running.insert(key.clone(), Running { request, to });
        drop(running);
        let place = Place { key, running: Arc::clone(&self.running), busy: self.busy.clone() };
        let task = async move {
            let result = work.await;
            if let Some(caller) = place.leave() {
                // Nobody may be waiting any more.
                let _ = caller.send(result);
            }
        };
        tokio::spawn(task.instrument(tracing::Span::current()));
        Ok(result)
    }
}

/// That an operation is running. It ends with its task, also when that panics.
struct Place<K: Ord, R, T> {
    key: K,
    running: Table<K, R, T>,
    busy: Busy<K>,
}

impl<K: Ord, R, T> Place<K, R, T> {
    /// Ends it, and says who waits for the result.
    fn leave(self) -> Option<oneshot::Sender<T>> {
        self.vacate()
    }

    fn vacate(&self) -> Option<oneshot::Sender<T>> {
        let mut running = lock(&self.running);
        // Whoever comes after this sees an idle volume: the result is sent only then, so that the caller's next call is not refused.
        let left = running.remove(&self.key)?;
        lock(&self.busy.0).remove(&self.key);
        Some(left.to)
    }
}

impl<K: Ord, R, T> Drop for Place<K, R, T> {
    fn drop(&mut self) {
        // Where the operation left in good order there is nothing to do, and what is there belongs to the next.
        if std::thread::panicking() {
            drop(self.vacate());
        }
    }
}

/// The tables are whole whenever the lock is free: nothing panics between two changes that belong together.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
