//! How a front end shares the event loop's ring: entries to submit, tokens that come back.

use io_uring::{cqueue, squeue};

/// An entry that a front end wants submitted.
///
/// FUSE over io_uring needs 128-byte entries. A ring built for them takes both kinds (`squeue::Entry128::from`); a ring
/// of ordinary entries serves every other front end.
#[derive(Debug)]
pub enum Sqe {
    /// Fits a ring of either kind.
    Narrow(squeue::Entry),
    /// The same; it completes while it is submitted, and nothing follows from that but that its memory is free.
    Prompt(squeue::Entry),
    /// Needs a ring of 128-byte entries.
    Wide(squeue::Entry128),
}

impl From<Sqe> for squeue::Entry128 {
    fn from(sqe: Sqe) -> squeue::Entry128 {
        match sqe {
            Sqe::Narrow(entry) | Sqe::Prompt(entry) => entry.into(),
            Sqe::Wide(entry) => entry,
        }
    }
}

impl Sqe {
    /// The entry for a ring of ordinary entries, if it is one.
    #[must_use]
    pub fn into_narrow(self) -> Option<squeue::Entry> {
        match self {
            Sqe::Narrow(entry) | Sqe::Prompt(entry) => Some(entry),
            Sqe::Wide(_) => None,
        }
    }
}

/// The upper 32 bits of `user_data`, which the event loop chooses so that it can tell its sources apart. The lower 32
/// bits belong to the front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqeBase(u64);

impl SqeBase {
    /// `upper` becomes bits 32..64 of every `user_data` of this front end.
    #[must_use]
    pub fn new(upper: u32) -> SqeBase {
        SqeBase(u64::from(upper) << 32)
    }

    pub(crate) fn user_data(self, token: u32) -> u64 {
        self.0 | u64::from(token)
    }
}

/// One completion of an entry of this front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Lower 32 bits of `user_data`.
    pub token: u32,
    /// Result or negative error number.
    pub result: i32,
    /// Flags of the completion queue entry.
    pub flags: u32,
}

impl From<&cqueue::Entry> for Completion {
    fn from(cqe: &cqueue::Entry) -> Completion {
        // The upper half is the event loop's and was looked at by it.
        let token = u32::try_from(cqe.user_data() & u64::from(u32::MAX)).expect("masked to 32 bits");
        Completion { token, result: cqe.result(), flags: cqe.flags() }
    }
}

impl Completion {
    pub(crate) fn has_more(self) -> bool {
        cqueue::more(self.flags)
    }

    pub(crate) fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}
