//! What a call has to answer.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tonic::{Code, Response, Status};

/// How often a call is repeated that is refused because an earlier one still runs.
const AGAIN_EVERY: Duration = Duration::from_millis(50);

/// How long that may go on.
const AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// A call that has to succeed.
///
/// # Errors
/// It did not.
pub fn done<T>(what: &str, answer: Result<Response<T>, Status>) -> Result<T> {
    match answer {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => bail!("{what}: {:?}: {}", status.code(), status.message()),
    }
}

/// A call that has to be refused with this code, a reason, and nothing else. Answers the reason.
///
/// # Errors
/// It was not.
pub fn refused<T>(what: &str, code: Code, answer: Result<Response<T>, Status>) -> Result<String> {
    match answer {
        Ok(_) => bail!("{what}: succeeded, where {code:?} has to be answered"),
        Err(status) => {
            ensure!(
                status.code() == code,
                "{what}: {:?} ({}), where {code:?} has to be answered",
                status.code(),
                status.message()
            );
            ensure!(status.details().is_empty(), "{what}: a status must not have details");
            // An unknown service has nothing to say.
            ensure!(!status.message().is_empty() || code == Code::Unimplemented, "{what}: no reason is given");
            Ok(status.message().to_owned())
        }
    }
}

/// A call that has to succeed in the end, repeated as callers do while the plugin says that it is still at work.
///
/// # Errors
/// Another failure, or no end of it.
pub async fn done_at_last<T, F>(what: &str, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let repeated = async {
        let mut again = tokio::time::interval(AGAIN_EVERY);
        loop {
            again.tick().await;
            match call().await {
                Err(status) if is_still_working(status.code()) => {}
                answer => return done(what, answer),
            }
        }
    };
    match tokio::time::timeout(AGAIN_WITHIN, repeated).await {
        Ok(answer) => answer,
        Err(_) => bail!("{what}: still at work after {AGAIN_WITHIN:?}"),
    }
}

const fn is_still_working(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable)
}
