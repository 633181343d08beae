//! Front ends: what turns a volume into something that others can read and write.
//!
//! Each is a state machine inside the event loop. It owns no thread and never waits; it is driven by four calls:
//!
//! ```text
//! loop {
//!     front.poll_sqes(|sqe| ring.push(sqe));          // before each entry into the kernel
//!     ring.submit_and_wait();
//!     front.on_completion(cqe, &mut requests);        // for each completion of its user_data
//!     for request in requests { the engine's work }   // data of a write lies in request.data
//!     front.reply(tag, FrontReply::Done);             // data of a read was put into request.data
//! }
//! ```
//!
//! What waits for the kernel (loop devices) is in values of its own, to be used from another thread while the event loop goes
//! on: a loop device reads its file while it is configured.

pub mod fuse;
pub mod loopdev;
mod memory;
pub mod nbd;
mod protection;
mod request;
mod sqe;

pub use fuse::{FrontState, FuseConfig, FuseConnection, FuseFrontEnd, FuseRoot, FuseTransport};
pub use loopdev::{LoopDevice, LoopSetup};
pub use nbd::{NbdAddress, NbdConfig, NbdFrontEnd};
pub use protection::{become_io_flusher, lock_memory};
pub use request::{BLOCK_BYTES, FrontBuffer, FrontFailure, FrontOp, FrontReply, FrontRequest, Tag, is_whole_blocks};
pub use sqe::{Completion, Sqe, SqeBase};

/// One attached front end of one volume.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an event loop has few of them, and they are not moved")]
pub enum FrontEnd {
    /// A FUSE file, under a loop device.
    Fuse(FuseFrontEnd),
    /// A socket that speaks NBD.
    Nbd(NbdFrontEnd),
}

impl FrontEnd {
    /// Passes every entry that is to be submitted now. Call before each entry into the kernel.
    pub fn poll_sqes(&mut self, submit: impl FnMut(Sqe)) {
        match self {
            FrontEnd::Fuse(fuse) => fuse.poll_sqes(submit),
            FrontEnd::Nbd(nbd) => nbd.poll_sqes(submit),
        }
    }

    /// One completion of an entry of this front end; new requests are appended to `requests`.
    pub fn on_completion(&mut self, cqe: Completion, requests: &mut Vec<FrontRequest>) {
        match self {
            FrontEnd::Fuse(fuse) => fuse.on_completion(cqe, requests),
            FrontEnd::Nbd(nbd) => nbd.on_completion(cqe, requests),
        }
    }

    /// Answers an open request, once.
    pub fn reply(&mut self, tag: Tag, reply: FrontReply) {
        match self {
            FrontEnd::Fuse(fuse) => fuse.reply(tag, reply),
            FrontEnd::Nbd(nbd) => nbd.reply(tag, reply),
        }
    }

    /// A tag whose [`FrontReply::DoneElsewhere`] memory is not used any more. Call until `None`.
    pub fn take_released(&mut self) -> Option<Tag> {
        match self {
            FrontEnd::Fuse(fuse) => fuse.take_released(),
            FrontEnd::Nbd(nbd) => nbd.take_released(),
        }
    }

    /// The volume has grown.
    pub fn resize(&mut self, size_bytes: u64) {
        match self {
            FrontEnd::Fuse(fuse) => fuse.resize(size_bytes),
            FrontEnd::Nbd(nbd) => nbd.resize(size_bytes),
        }
    }

    /// Stops taking requests; open ones can still be answered.
    pub fn stop(&mut self) {
        match self {
            FrontEnd::Fuse(fuse) => fuse.stop(),
            FrontEnd::Nbd(nbd) => nbd.stop(),
        }
    }

    /// Where the front end stands. Dropping it before [`FrontState::Closed`] is a programmer's error.
    #[must_use]
    pub fn state(&self) -> FrontState {
        match self {
            FrontEnd::Fuse(fuse) => fuse.state(),
            FrontEnd::Nbd(nbd) => nbd.state(),
        }
    }

    /// Gives what is registered with the ring back. The last call before the value is dropped.
    ///
    /// # Errors
    /// Of the registration system call.
    pub fn unregister(&self, submitter: &io_uring::Submitter<'_>) -> std::io::Result<()> {
        match self {
            FrontEnd::Fuse(fuse) => fuse.unregister(submitter),
            FrontEnd::Nbd(_) => Ok(()),
        }
    }
}
