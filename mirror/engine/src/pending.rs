//! An answer that another thread will give: awaited, or waited for.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
    /// The other half is gone.
    closed: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.changed.notify_all();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// Will hold an answer. A future, and something that a thread can wait on. `None` if nobody is left to answer: the
/// engine stopped.
#[derive(Debug)]
pub struct Pending<T>(Arc<Shared<T>>);

/// Gives the answer, once.
#[derive(Debug)]
pub(crate) struct Responder<T>(Arc<Shared<T>>);

/// The two halves of one answer.
pub(crate) fn pending<T>() -> (Responder<T>, Pending<T>) {
    let state = Mutex::new(State { value: None, waker: None, closed: false });
    let shared = Arc::new(Shared { state, changed: Condvar::new() });
    (Responder(shared.clone()), Pending(shared))
}

impl<T> Responder<T> {
    /// Gives the answer.
    pub(crate) fn answer(self, value: T) {
        self.0.change(|state| state.value = Some(value));
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        self.0.change(|state| state.closed = true);
    }
}

impl<T> Pending<T> {
    /// Waits for the answer without end.
    #[must_use]
    pub fn wait(self) -> Option<T> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |state: &mut State<T>| state.value.is_none() && !state.closed;
        self.0.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner).value.take()
    }

    /// Waits for the answer until time is up.
    ///
    /// # Errors
    /// The value itself, to wait further, when time is up.
    pub fn wait_for(self, timeout: Duration) -> Result<Option<T>, Pending<T>> {
        let end = Instant::now() + timeout;
        {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if state.value.is_some() || state.closed {
                    return Ok(state.value.take());
                }
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        Err(self)
    }
}

impl<T> Future for Pending<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.value.is_some() || state.closed {
            return Poll::Ready(state.value.take());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::pending;
    use std::time::Duration;

    #[test]
    fn the_answer_is_waited_for_across_threads() {
        let (responder, answer) = pending();
        let thread = std::thread::spawn(move || responder.answer(7));
        assert_eq!(answer.wait(), Some(7));
        thread.join().unwrap();
    }

    #[test]
    fn an_answer_that_nobody_gives_ends_the_wait() {
        let (responder, answer) = pending::<()>();
        let answer = answer.wait_for(Duration::from_millis(1)).unwrap_err();
        drop(responder);
        assert_eq!(answer.wait(), None);
    }
}
