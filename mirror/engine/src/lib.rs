//! The I/O shell of Lockstep: event loops on io_uring, replica storage, peer links, front ends.

pub mod front;
