//! From messages of the wire to typed values, once: whatever a request lacks or has too much of is said before anything is looked up.
//!
//! Fields are looked at in this order, so that a request with several faults gets the code that callers expect: required fields, their
//! form, what is offered at all, and last whether the volume's id can be one of ours.

mod capability;
pub(crate) mod controller;
mod field;
pub(crate) mod node;
pub(crate) mod token;

use tonic::{Code, Status};

use crate::capacity::SizeError;
use crate::status;

pub(crate) use field::{MAP_BYTES_MAX, map_bytes};

/// Why a request was refused before anything was looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} is {bytes} bytes long; at most {bytes_max} are possible")]
    TooLong { field: &'static str, bytes: usize, bytes_max: usize },
    #[error("{field} {reason}")]
    Wrong { field: &'static str, reason: String },
    #[error("{reason}")]
    NotOffered { reason: String },
    /// A volume that exists cannot be used so, as no volume can.
    #[error("the volume cannot be used so: {reason}")]
    Unsupported { reason: String },
    #[error("staging_target_path is missing: volumes are staged before they are published")]
    NotStaged,
    #[error(transparent)]
    NoSize(#[from] SizeError),
    #[error("starting_token is not one of ours")]
    Token,
    #[error("there is no such volume: no id of ours looks like this")]
    UnknownVolume,
    /// A question about a place where nothing of ours can be.
    #[error("the volume is not there: {field} {reason}")]
    NotThere { field: &'static str, reason: String },
}

impl Refusal {
    /// The code for each.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Missing { .. } | Self::TooLong { .. } | Self::Wrong { .. } | Self::NotOffered { .. } => {
                Code::InvalidArgument
            }
            Self::Unsupported { .. } | Self::NotStaged => Code::FailedPrecondition,
            Self::NoSize(_) => Code::OutOfRange,
            Self::Token => Code::Aborted,
            Self::UnknownVolume | Self::NotThere { .. } => Code::NotFound,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        status::of(refusal.code(), &refusal)
    }
}
