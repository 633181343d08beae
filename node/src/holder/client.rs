//! The engine's side, and that of whoever looks.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, connect};

use super::packet::{self, Kind, Packet, ReceivePacket};
use super::server::new_socket;

/// Why the holder did not do as it was asked. After it the connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AskHolder {
    /// Nobody listens there.
    #[error("no holder answers")]
    Connect(#[source] Errno),
    /// The question could not be sent.
    #[error("cannot ask the holder")]
    Send(#[source] Errno),
    /// No answer, or none that is one.
    #[error("no answer of the holder")]
    Receive(#[from] ReceivePacket),
    /// It says no.
    #[error("the holder refuses: {0}")]
    Refused(String),
}

/// What is held under one name.
#[derive(Debug)]
pub struct Kept {
    /// The name.
    pub name: String,
    /// Number of the FUSE connection.
    pub connection: u64,
    /// What the engine wrote about it.
    pub description: Vec<u8>,
    /// The descriptors; none in a list.
    pub descriptors: Vec<OwnedFd>,
}

/// A connection to the holder.
#[derive(Debug)]
pub struct HolderClient(OwnedFd);

impl HolderClient {
    /// Connects to the holder that listens at `path`.
    ///
    /// # Errors
    /// If nobody does.
    pub fn connect(path: &Path) -> Result<HolderClient, AskHolder> {
        let socket = new_socket().map_err(AskHolder::Connect)?;
        let address = SocketAddrUnix::new(path).map_err(AskHolder::Connect)?;
        connect(&socket, &address).map_err(AskHolder::Connect)?;
        Ok(HolderClient(socket))
    }

    /// Gives descriptors into the holder's keeping, instead of what it has under the name.
    ///
    /// # Errors
    /// See [`AskHolder`].
    pub fn put(&self, name: &str, connection: u64, description: &[u8], held: &[OwnedFd]) -> Result<(), AskHolder> {
        self.ask((Kind::Put, connection), (name, description), held).map(drop)
    }

    /// Everything that is held, with descriptors.
    ///
    /// # Errors
    /// See [`AskHolder`].
    pub fn fetch(&self) -> Result<Vec<Kept>, AskHolder> {
        self.entries(Kind::Fetch)
    }

    /// Everything that is held, without descriptors.
    ///
    /// # Errors
    /// See [`AskHolder`].
    pub fn list(&self) -> Result<Vec<Kept>, AskHolder> {
        self.entries(Kind::List)
    }

    /// Lets the holder close what it has under the name. Says whether it had anything.
    ///
    /// # Errors
    /// See [`AskHolder`].
    pub fn forget(&self, name: &str) -> Result<bool, AskHolder> {
        self.ask((Kind::Forget, 0), (name, b""), &[]).map(|many| many > 0)
    }

    /// Fails every device whose descriptors are held, and lets go of all. Says how many there were.
    ///
    /// # Errors
    /// See [`AskHolder`].
    pub fn abort(&self) -> Result<u64, AskHolder> {
        self.ask((Kind::Abort, 0), ("", b""), &[])
    }

    /// Waits until the holder is gone, but not longer than this. True if it is.
    #[must_use]
    pub fn wait_for_end(&self, longest: Duration) -> bool {
        let mut waits = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let longest = Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        };
        poll(&mut waits, Some(&longest)).is_ok() && !waits[0].revents().is_empty()
    }

    /// A second handle of the same connection, to wait for its end.
    ///
    /// # Errors
    /// If no further descriptor can be had.
    pub fn try_clone(&self) -> std::io::Result<HolderClient> {
        self.0.try_clone().map(HolderClient)
    }

    fn ask(&self, what: (Kind, u64), of: (&str, &[u8]), held: &[OwnedFd]) -> Result<u64, AskHolder> {
        packet::send(self.0.as_fd(), what, of, held).map_err(AskHolder::Send)?;
        match self.receive()? {
            Packet { kind: Kind::Done, number, .. } => Ok(number),
            _ => Err(ReceivePacket::Malformed("not the answer to a question").into()),
        }
    }

    fn entries(&self, kind: Kind) -> Result<Vec<Kept>, AskHolder> {
        packet::send(self.0.as_fd(), (kind, 0), ("", b""), &[]).map_err(AskHolder::Send)?;
        let mut kept = Vec::new();
        loop {
            match self.receive()? {
                Packet { kind: Kind::Entry, number: connection, name, description, descriptors } => {
                    kept.push(Kept { name, connection, description, descriptors });
                }
                Packet { kind: Kind::Done, .. } => return Ok(kept),
                _ => return Err(ReceivePacket::Malformed("not the answer to a question").into()),
            }
        }
    }

    fn receive(&self) -> Result<Packet, AskHolder> {
        let packet = packet::receive(self.0.as_fd())?;
        if packet.kind == Kind::Refused {
            return Err(AskHolder::Refused(String::from_utf8_lossy(&packet.description).into_owned()));
        }
        Ok(packet)
    }
}
