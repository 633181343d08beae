//! The FUSE front end: a file system of one file, `volume`, which a loop device turns into a block device.
//!
//! ```text
//! bytes -> request -> volume_file (what it means) -> engine -> response -> bytes
//! device: read and written through the event loop's ring          uring: FUSE over io_uring
//! ```
//!
//! `request`, `response` and `volume_file` know no I/O. Only `INIT` is read and answered with ordinary system calls, at
//! the start: the kernel has queued it when the file system is made.

mod abi;
mod buffers;
mod device;
mod mount;
mod request;
mod response;
#[cfg(test)]
mod tests;
mod uring;
mod volume_file;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use io_uring::Submitter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use device::DeviceReads;
pub use mount::{FuseConnection, FuseRoot, MountFuse, abort_connection};
pub use request::ParseRequest;
pub use uring::is_enabled as is_uring_enabled;
pub use volume_file::NegotiateFuse;

use super::request::{FrontReply, FrontRequest, Tag};
use super::sqe::{Completion, Sqe, SqeBase};
use buffers::{BufferLimits, RequestBuffers};
use device::DeviceChannel;
use uring::UringChannel;
use volume_file::VolumeFile;

/// Buffers that wait for requests. The kernel takes them in turn, so that more of them are colder ones; fewer end the
/// multishot read too often. Measured over a null back end, CPU time of the loop per request: with 2, 4, 8 and 32 buffers
/// a 4 KiB write took 3.3, 2.6, 2.1 and 2.6 us, a 1 MiB write 180, 160, 255 and 290 us; hence fewer for large requests.
const PROVIDED_MAX: u16 = 8;

/// How requests travel between kernel and engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FuseTransport {
    /// `/dev/fuse`: works everywhere and can be taken over by a successor.
    Device(DeviceReads),
    /// FUSE over io_uring: faster, needs a ring of 128-byte entries and the kernel's switch.
    Uring,
}

/// What to mount.
#[derive(Clone, Debug)]
pub struct FuseConfig {
    /// Name of the one file, before the connection's number; a loop device over it is known by it.
    pub file_name: String,
    /// Size of the volume, in bytes.
    pub size_bytes: u64,
    /// Refuse every change.
    pub read_only: bool,
    /// Device or io_uring.
    pub transport: FuseTransport,
    /// Requests in the engine's hands at a time, at most 1024. The loop driver's queue is 128 deep.
    pub in_flight_max: u16,
    /// Largest read or write; a power of two, at most 1 MiB (the kernel's limit).
    pub max_io_bytes: u32,
    /// Memory for the data of requests in flight, in bytes.
    pub memory_budget_bytes: usize,
}

impl FuseConfig {
    /// Defaults: a queue as deep as the loop driver's; 1 MiB requests (256 KiB over io_uring, where each entry has its own
    /// payload memory); 24 MiB for data, of the 64 MiB that an engine with one attached volume should need.
    #[must_use]
    pub fn new(file_name: String, size_bytes: u64, transport: FuseTransport) -> FuseConfig {
        let max_io_bytes = match transport {
            FuseTransport::Device(_) => 1 << 20,
            FuseTransport::Uring => 256 << 10,
        };
        FuseConfig {
            file_name,
            size_bytes,
            read_only: false,
            transport,
            in_flight_max: 128,
            max_io_bytes,
            memory_budget_bytes: 24 << 20,
        }
    }
}

/// Failures to start the front end. Nothing stays mounted after one.
#[derive(Debug, thiserror::Error)]
pub enum StartFuse {
    /// Mounting failed.
    #[error("cannot mount")]
    Mount(#[source] MountFuse),
    /// INIT did not come, or could not be read or answered.
    #[error("cannot talk to the kernel over /dev/fuse")]
    Handshake(#[source] io::Error),
    /// The first request is no request.
    #[error("the kernel's first request is malformed")]
    Parse(#[source] ParseRequest),
    /// No common ground.
    #[error("cannot agree with the kernel's FUSE")]
    Negotiate(#[source] NegotiateFuse),
    /// Memory or buffer ring.
    #[error("cannot set up request buffers")]
    Buffers(#[source] io::Error),
    /// The kernel does not send requests again, or the connection is over.
    #[error("the kernel does not send again what the last engine left unanswered")]
    Resend(#[source] io::Error),
}

/// Where a front end stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontState {
    /// Requests come in.
    Serving,
    /// No new requests; open ones and the ring's entries are still to end.
    Stopping,
    /// Nothing is open; the value may be dropped (after `unregister`).
    Closed,
}

/// The FUSE front end of one volume.
#[derive(Debug)]
pub struct FuseFrontEnd {
    connection: FuseConnection,
    file: VolumeFile,
    can_resend: bool,
    device: DeviceChannel,
    uring: Option<UringChannel>,
}

impl FuseFrontEnd {
    /// Mounts, and settles INIT with the kernel (a fraction of a millisecond). `buffer_group` must be unused in the ring
    /// behind `submitter`, which is the one whose completions will be given to [`Self::on_completion`]. The root is for a
    /// loop device to be made over the file, and is to be dropped then.
    ///
    /// # Errors
    /// See [`StartFuse`].
    pub fn start(
        config: &FuseConfig,
        base: SqeBase,
        buffer_group: u16,
        submitter: &Submitter<'_>,
    ) -> Result<(FuseFrontEnd, FuseRoot), StartFuse> {
        let (connection, root) = FuseConnection::mount(config.max_io_bytes).map_err(StartFuse::Mount)?;
        let over_uring = config.transport == FuseTransport::Uring;
        // With an error both descriptors are closed, and nothing is left.
        let can_resend = settle_init(connection.device(), config.max_io_bytes, over_uring)?;
        let front = Self::serve(config, connection, base, (buffer_group, submitter))?;
        Ok((FuseFrontEnd { can_resend, ..front }, root))
    }

    /// Goes on serving what an earlier engine mounted and settled, with the same `config`, and asks the kernel for
    /// everything that one has not answered. Only by [`FuseTransport::Device`].
    ///
    /// # Errors
    /// See [`StartFuse`]. The connection is as it was.
    pub fn resume(
        config: &FuseConfig,
        connection: FuseConnection,
        base: SqeBase,
        buffer_group: u16,
        submitter: &Submitter<'_>,
    ) -> Result<FuseFrontEnd, StartFuse> {
        assert!(config.transport != FuseTransport::Uring, "the kernel does not send again what it sent over io_uring");
        let front = Self::serve(config, connection, base, (buffer_group, submitter))?;
        // Before anything is read here: what this front end has read must not be sent again.
        let sent = nix::unistd::write(front.connection.device(), &response::notification(abi::NOTIFY_RESEND));
        if let Err(errno) = sent {
            let _ = front.device.buffers().unregister(submitter);
            return Err(StartFuse::Resend(errno.into()));
        }
        Ok(FuseFrontEnd { can_resend: true, ..front })
    }

    fn serve(
        config: &FuseConfig,
        connection: FuseConnection,
        base: SqeBase,
        (buffer_group, submitter): (u16, &Submitter<'_>),
    ) -> Result<FuseFrontEnd, StartFuse> {
        let device = connection.device().clone();
        let payload_bytes = config.max_io_bytes as usize;
        let (in_flight_max, provided_max, reads) = match config.transport {
            FuseTransport::Device(reads) => (config.in_flight_max.clamp(1, 1024), PROVIDED_MAX, reads),
            // Forgets and interrupts only.
            FuseTransport::Uring => (4, 4, DeviceReads::Multishot),
        };
        let budget_bytes = config.memory_budget_bytes;
        let limits = BufferLimits { in_flight_max, provided_max, payload_bytes, budget_bytes };
        let buffers = RequestBuffers::new(limits, buffer_group, submitter).map_err(StartFuse::Buffers)?;
        let uring = match config.transport {
            FuseTransport::Device(_) => None,
            FuseTransport::Uring => {
                let in_flight = u32::from(config.in_flight_max);
                let channel = UringChannel::new(device.clone(), base, payload_bytes, in_flight, budget_bytes);
                Some(channel.map_err(StartFuse::Buffers)?)
            }
        };
        let file = VolumeFile {
            name: connection.file_name(&config.file_name),
            size_bytes: config.size_bytes,
            max_io_bytes: config.max_io_bytes,
            read_only: config.read_only,
        };
        let device = DeviceChannel::new(device, base, buffers, reads);
        Ok(FuseFrontEnd { connection, file, can_resend: false, device, uring })
    }

    /// The connection, to be aborted from any thread, or given to a successor.
    #[must_use]
    pub fn connection(&self) -> &FuseConnection {
        &self.connection
    }

    /// Whether a successor can take the connection over without anybody noticing: the kernel sends requests again, and they come
    /// by the device.
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        self.can_resend && self.uring.is_none()
    }

    /// Passes every entry that is to be submitted now. Call before each entry into the kernel.
    pub fn poll_sqes(&mut self, mut submit: impl FnMut(Sqe)) {
        self.device.poll_sqes(&mut submit);
        if let Some(uring) = &mut self.uring {
            uring.poll_sqes(&mut submit);
        }
    }

    /// One completion of an entry of this front end; new requests are appended to `requests`.
    pub fn on_completion(&mut self, cqe: Completion, requests: &mut Vec<FrontRequest>) {
        match (&mut self.uring, cqe.token & device::TOKEN_KIND) {
            (Some(channel), uring::TOKEN_URING) => channel.on_completion(cqe, &self.file, requests),
            _ => self.device.on_completion(cqe, &self.file, requests),
        }
    }

    /// Answers an open request.
    pub fn reply(&mut self, tag: Tag, reply: FrontReply) {
        match &mut self.uring {
            Some(channel) if tag.0 & uring::TAG_BIT != 0 => channel.reply(tag, reply),
            _ => self.device.reply(tag, reply),
        }
    }

    /// A tag whose [`FrontReply::DoneElsewhere`] memory is not used any more.
    pub fn take_released(&mut self) -> Option<Tag> {
        self.device.take_released().or_else(|| self.uring.as_mut().and_then(UringChannel::take_released))
    }

    /// The volume has grown. The loop device has to be told as well: [`super::LoopDevice::grow`].
    pub fn resize(&mut self, size_bytes: u64) {
        self.file.size_bytes = size_bytes;
    }

    /// Stops reading requests; those that come later wait in the kernel for a successor. To end in order: detach the loop
    /// device (from another thread, with the front end still serving), and wait for [`FrontState::Closed`], which that brings
    /// about by itself. To end at once: [`FuseConnection::abort`], from any thread.
    pub fn stop(&mut self) {
        self.device.stop();
    }

    /// Where the front end stands.
    #[must_use]
    pub fn state(&self) -> FrontState {
        let uring_quiet = self.uring.as_ref().is_none_or(UringChannel::is_quiet);
        if self.device.is_quiet() && uring_quiet {
            FrontState::Closed
        } else if self.failure().is_some() {
            FrontState::Stopping
        } else {
            FrontState::Serving
        }
    }

    /// Why requests stopped coming, as an error number: ENODEV once the file system is gone, or after an abort.
    #[must_use]
    pub fn failure(&self) -> Option<i32> {
        self.device.ended().or_else(|| self.uring.as_ref().and_then(UringChannel::ended))
    }

    /// Gives the buffer group back to the ring. The last call before the value is dropped.
    ///
    /// # Errors
    /// Of the registration system call.
    pub fn unregister(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        assert_eq!(self.state(), FrontState::Closed, "unregister a front end that the kernel still uses");
        self.device.buffers().unregister(submitter)
    }
}

/// Reads INIT and answers it; says whether the kernel can send requests again.
fn settle_init(device: &OwnedFd, max_io_bytes: u32, over_uring: bool) -> Result<bool, StartFuse> {
    let handshake = |errno: nix::Error| StartFuse::Handshake(errno.into());
    let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
    // INIT is queued while the file system is made; a second is a thousand times what it can take.
    if poll(&mut ready, PollTimeout::from(1000u16)).map_err(handshake)? == 0 {
        return Err(StartFuse::Handshake(io::ErrorKind::TimedOut.into()));
    }
    let mut bytes = vec![0; abi::MIN_READ_BUFFER_BYTES];
    let len = nix::unistd::read(device, &mut bytes).map_err(handshake)?;
    let (header, operation) = request::parse(&bytes[..len]).map_err(StartFuse::Parse)?;
    let init = volume_file::negotiate(header, operation, max_io_bytes, over_uring).map_err(StartFuse::Negotiate)?;
    let content = response::init_out(init);
    let content = content.as_bytes();
    let content_len = u32::try_from(content.len()).expect("INIT's answer has 64 bytes");
    let mut answer = response::out_header(header.unique, 0, content_len).to_vec();
    answer.extend_from_slice(content);
    nix::unistd::write(device, &answer).map_err(handshake)?;
    Ok(init.can_resend)
}
