//! The holder: keeps the descriptors of `/dev/fuse` while the engine restarts.
//!
//! A file system whose last descriptor is closed fails at once, and the loop device over it with it. A descriptor that somebody
//! else holds keeps both: what is asked of the device waits until another engine has the descriptor.
//!
//! ```text
//! engine:       put (name, description, descriptors)  ... killed ...  fetch -> all of them; forget
//! lockstep-holder --list, --abort
//! ```
//!
//! One packet is one request or one answer (`SOCK_SEQPACKET`); descriptors travel beside it. What a description says is the engines'
//! business. The program is small, has no threads and never needs to be exchanged together with the engine. `docs/protocol.md` has
//! the bytes.

mod client;
mod packet;
mod server;

pub use client::{AskHolder, HolderClient, Kept};
pub use packet::{DESCRIPTION_BYTES_MAX, DESCRIPTORS_MAX, NAME_BYTES_MAX};
pub use server::{ServeHolder, serve};
