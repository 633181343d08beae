//! The wire protocol: the greeting that opens a connection, and the frames that follow it.
//!
//! One TCP connection per volume, pair of nodes and network. Both ends first prove that they know the cluster's key
//! ([`greeting`]); from then on each direction is a sequence of frames ([`frame`]): a header of fixed size
//! ([`header`]), a body that depends on the message's [`Kind`], and for some messages a payload of whole blocks.

mod body;
pub mod frame;
pub mod greeting;
pub mod header;
mod kind;
#[cfg(test)]
mod tests;
mod version;

pub use frame::{Decoded, EncodeFrame, PayloadHead, decode_frame, encode_frame};
pub use header::{DecodeFrame, HEADER_BYTES, Header};
pub use kind::Kind;
pub use version::{ProtocolVersion, VersionRange};

/// Longest body. The longest that a sound peer sends is the report after a change of view: 80,000 uncommitted writes
/// fit, far more than the credit of a connection lets be in flight.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Longest payload: the longest request that an NBD client may send, which is the largest of any front end.
/// No message may ask for the content or digests of a longer range either, so that no peer makes another take more
/// memory than this for one frame.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 20;
