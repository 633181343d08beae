//! Kubernetes Leases (`coordination.k8s.io/v1`) as Lockstep uses them: the register of a volume's configuration, the grants
//! of volumes that Leases police, and a node's own.
//!
//! Nothing is decided here. What a swap means, and what to do about one without an answer, is the core's: this crate reads
//! and writes objects, each request once and with a bound, and says what became of it.
//!
//! [`Leases`] is for whoever has a runtime; [`Service`] serves an engine, on a thread of its own.
#![forbid(unsafe_code)]

mod access;
mod again;
mod grants;
pub mod names;
mod node;
mod object;
mod register;
mod requests;
mod service;
mod watch;

pub use access::{IN_CLUSTER, Place, REQUEST_LIMIT, ReadAccess, RequestError, read_access};
pub use again::Again;
pub use node::RENEW_EVERY;
pub use register::{CreateRegister, Leases};
pub use requests::{Kind, Requests, Verb};
pub use service::{Service, Told};
