//! The I/O shell of Lockstep: event loops on io_uring, replica storage, peer links, front ends.
//!
//! One event loop per core owns one io_uring that carries the disk operations, sockets and front ends of its volumes. A
//! turn of the loop drains all completions, steps the [`lockstep_core::Replica`] machines, and submits everything that
//! they want with one system call.

pub mod front;

mod buffers;
mod ring;
mod token;
