//! Real engines over loopback: real sockets, files and rings.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cluster;
mod links;
mod members;
mod mirror;
