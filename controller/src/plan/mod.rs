//! Decisions over the cluster's objects: pure functions, nothing read and nothing written. [`crate::reconcile`] carries them out.

pub mod capacity;
pub mod definition;
pub mod fail_over;
pub mod guard;
pub mod pairing;
pub mod pools;
pub mod register;
pub mod replacement;
pub mod status;
pub mod transitions;
pub mod uninstall;

pub use pools::Pool;
