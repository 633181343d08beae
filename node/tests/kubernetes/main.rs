//! The agent in a cluster: a real API server, real engines of several nodes, CSI by its socket. The test is the controller.
#![allow(clippy::panic, reason = "tests fail by panicking")]

mod cluster;
mod members;
mod node;
mod outages;
mod pods;
mod volumes;
