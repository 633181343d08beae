//! The recording load: writes, reads and flushes whose every invocation and completion is kept, so that the history of
//! each block can be judged afterwards.
//!
//! A [`LoadSession`] runs against one attachment of the volume; after a fail-over the test starts another one against the
//! new attachment, while the old one may still hang in a paused engine. All sessions write into one [`Recorder`].
//! Every block written carries a [`Stamp`]: who wrote it and when, filled to its end and checksummed, so that a read
//! tells torn and misdirected blocks from stale ones.

mod buffer;
mod nbd;
mod recorder;
mod session;
mod stamp;
mod target;

pub use buffer::AlignedBuffer;
pub use nbd::{NbdClient, NbdExport};
pub use recorder::{Found, Lane, Recorder, RecorderLimits, Ticket};
pub use session::{LoadProfile, LoadSession, SessionCounts, scan};
pub use stamp::{Content, Stamp, StampError};
pub use target::{Connection, Target};

/// The block of Lockstep: smallest unit of reads and writes, and of a history.
pub const BLOCK_BYTES: usize = 4096;
