//! The CSI services of Lockstep (specification 1.13) as adapters over two ports.
//!
//! A request is parsed once, here, into values that need no second look; a port carries it out; its error becomes a code by a table.
//! This crate knows neither Kubernetes' API nor the mirror: [`controller_port`] and [`node_port`] are where those are.
//!
//! [`Plugin`] serves what it has ports for on a [`Socket`]; [`registration`] introduces it to kubelet.
#![forbid(unsafe_code)]

pub mod capability;
pub mod capacity;
pub mod controller_port;
pub mod health;
pub mod node_port;
pub mod path;
pub mod publications;
pub mod readiness;
pub mod registration;
pub mod topology;
pub mod volume;

mod authority;
mod calls;
mod capabilities;
mod controller;
mod deadline;
mod identity;
mod in_flight;
mod node;
mod reply;
mod request;
mod server;
mod socket;
mod status;

pub use identity::DRIVER;
pub use server::{Plugin, ServeError};
pub use socket::{Directory, ListenError, Socket};
