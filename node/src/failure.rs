//! What a command answers when it does not succeed: one kind, from which the gRPC code and the exit code follow.
//!
//! ```text
//! kind           exit   gRPC codes
//! WrongInput        2   INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE
//! StateForbids      3   FAILED_PRECONDITION, ALREADY_EXISTS, ABORTED, RESOURCE_EXHAUSTED
//! NotReachable      4   UNAVAILABLE, DEADLINE_EXCEEDED
//! Other             1   everything else
//! ```

use std::fmt;

use lockstep_proto::node::v1::{ErrorDetail, ErrorKind};
use prost::Message as _;
use serde::Serialize;
use tonic::{Code, Status};

/// Why a command failed, as far as its caller must know to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request cannot be carried out in any state.
    WrongInput,
    /// The request is well formed; the present state forbids it.
    StateForbids,
    /// Somebody who is needed does not answer.
    NotReachable,
    /// Everything else.
    Other,
}

impl Kind {
    /// The exit code of a program that fails for this reason.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::WrongInput => 2,
            Self::StateForbids => 3,
            Self::NotReachable => 4,
            Self::Other => 1,
        }
    }

    const fn code(self) -> Code {
        match self {
            Self::WrongInput => Code::InvalidArgument,
            Self::StateForbids => Code::FailedPrecondition,
            Self::NotReachable => Code::Unavailable,
            Self::Other => Code::Internal,
        }
    }

    const fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange => Self::WrongInput,
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted | Code::ResourceExhausted => {
                Self::StateForbids
            }
            Code::Unavailable | Code::DeadlineExceeded => Self::NotReachable,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Self::Other,
        }
    }

    const fn to_proto(self) -> ErrorKind {
        match self {
            Self::WrongInput => ErrorKind::WrongInput,
            Self::StateForbids => ErrorKind::StateForbids,
            Self::NotReachable => ErrorKind::NotReachable,
            Self::Other => ErrorKind::Other,
        }
    }

    const fn of_proto(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::WrongInput => Self::WrongInput,
            ErrorKind::StateForbids => Self::StateForbids,
            ErrorKind::NotReachable => Self::NotReachable,
            ErrorKind::Other | ErrorKind::Unspecified => Self::Other,
        }
    }
}

/// A failed command: what its caller is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// From which the exit code follows.
    pub kind: Kind,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// That field's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// One or two sentences: what is wrong, and what would be right.
    pub message: String,
    /// The node that holds the volume, where that is what forbids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

impl Failure {
    /// A field of the request that no state would accept.
    pub fn wrong_input(field: &str, value: impl fmt::Display, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::WrongInput,
            field: Some(field.to_owned()),
            value: Some(value.to_string()),
            message: message.into(),
            holder: None,
        }
    }

    /// The present state forbids the request.
    pub fn state_forbids(message: impl Into<String>) -> Self {
        Self { kind: Kind::StateForbids, field: None, value: None, message: message.into(), holder: None }
    }

    /// Another node holds what the request wants.
    pub fn held_by(holder: &str, message: impl Into<String>) -> Self {
        Self { holder: Some(holder.to_owned()), ..Self::state_forbids(message) }
    }

    /// Somebody who is needed does not answer.
    pub fn not_reachable(message: impl Into<String>) -> Self {
        Self { kind: Kind::NotReachable, ..Self::state_forbids(message) }
    }

    /// None of the other kinds.
    pub fn other(message: impl Into<String>) -> Self {
        Self { kind: Kind::Other, ..Self::state_forbids(message) }
    }

    /// The failure of an operation of the host, with the whole chain of causes.
    pub fn of_host(doing: &str, error: &dyn std::error::Error) -> Self {
        Self::other(format!("{doing}: {}", chain(error)))
    }

    /// No volume has this name.
    #[must_use]
    pub fn unknown_volume(name: &str) -> Self {
        Self::wrong_input("volume", name, format!("no volume is named {name:?} here; `lockstep volume list` shows all"))
    }

    /// The same, as it travels in the details of a gRPC status and in a peer's reply.
    #[must_use]
    pub fn to_detail(&self) -> ErrorDetail {
        ErrorDetail {
            kind: self.kind.to_proto().into(),
            field: self.field.clone().unwrap_or_default(),
            value: self.value.clone().unwrap_or_default(),
            message: self.message.clone(),
            holder: self.holder.clone().unwrap_or_default(),
        }
    }

    /// The failure that a peer or an engine told.
    #[must_use]
    pub fn of_detail(detail: ErrorDetail) -> Self {
        let some = |text: String| if text.is_empty() { None } else { Some(text) };
        Self {
            kind: Kind::of_proto(detail.kind()),
            field: some(detail.field),
            value: some(detail.value),
            message: detail.message,
            holder: some(detail.holder),
        }
    }

    /// The failure behind a gRPC status, which may come from our services or from the transport.
    #[must_use]
    pub fn of_status(status: &Status) -> Self {
        if !status.details().is_empty()
            && let Ok(detail) = ErrorDetail::decode(status.details())
        {
            return Self::of_detail(detail);
        }
        let message = match std::error::Error::source(status).map(chain) {
            // The transport's message is the last link of its chain.
            Some(chain) if chain.ends_with(status.message()) => chain,
            Some(chain) => format!("{}: {chain}", status.message()),
            None => status.message().to_owned(),
        };
        let kind = match status.code() {
            // Not an answer of ours: the connection broke on the way.
            Code::Unknown | Code::Cancelled => Kind::NotReachable,
            code => Kind::of_code(code),
        };
        Self { kind, ..Self::other(message) }
    }
}

/// An error and its sources in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.field, &self.value) {
            (Some(field), Some(value)) => write!(out, "{field} {value:?}: {}", self.message),
            _ => out.write_str(&self.message),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Self::with_details(failure.kind.code(), failure.to_string(), failure.to_detail().encode_to_vec().into())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::of_status(&status)
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Kind};

    #[test]
    fn exit_codes_are_those_of_the_documentation() {
        let codes = [Kind::WrongInput, Kind::StateForbids, Kind::NotReachable, Kind::Other].map(Kind::exit_code);
        assert_eq!(codes, [2, 3, 4, 1]);
    }

    #[test]
    fn a_failure_survives_its_way_through_grpc() {
        let failures = [
            Failure::wrong_input("size", "0", "must be a positive multiple of 4 KiB"),
            Failure::held_by("a", "node a has it attached for writing"),
            Failure::not_reachable("node b does not answer"),
            Failure::other("odd"),
        ];
        for failure in failures {
            assert_eq!(Failure::from(tonic::Status::from(failure.clone())), failure);
        }
    }

    #[test]
    fn a_status_of_the_transport_becomes_not_reachable() {
        for status in [tonic::Status::unavailable("no socket"), tonic::Status::unknown("connection reset")] {
            assert_eq!(Failure::from(status).kind, Kind::NotReachable);
        }
    }
}
