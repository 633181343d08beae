//! From errors to what callers read.

use std::error::Error;
use std::fmt::Write as _;

use tonic::{Code, Status};

/// Longest message, in bytes: it travels in a header, whose size peers limit.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A status with the whole chain of causes as its message. It never has details: the specification forbids them.
pub(crate) fn of(code: Code, error: &dyn Error) -> Status {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a string does not fail.
        let _ = write!(message, ": {cause}");
        next = cause.source();
    }
    Status::new(code, shortened(message))
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - 4));
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{MESSAGE_BYTES_MAX, of};

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(String, #[source] std::io::Error);

    #[test]
    fn a_message_names_every_cause_and_has_an_end() {
        let inner = || std::io::Error::other("the disk is gone");
        let status = of(Code::Internal, &Outer("mount failed".to_owned(), inner()));
        assert_eq!((status.code(), status.message()), (Code::Internal, "mount failed: the disk is gone"));
        assert!(status.details().is_empty());
        let long = of(Code::Internal, &Outer("ä".repeat(2000), inner()));
        assert!(long.message().len() <= MESSAGE_BYTES_MAX && long.message().ends_with(" ..."));
    }
}
