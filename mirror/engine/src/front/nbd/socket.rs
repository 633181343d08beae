//! Sockets that the server listens on and talks through.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

/// Where clients connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NbdAddress {
    /// A unix socket. A dead one in its place is removed.
    Unix(PathBuf),
    /// TCP; port 0 lets the kernel choose.
    Tcp(SocketAddr),
}

/// A bound socket; a unix socket's name goes with it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: OwnedFd,
    path: Option<PathBuf>,
    port: Option<u16>,
}

impl Listener {
    pub(super) fn bind(address: &NbdAddress) -> io::Result<Listener> {
        match address {
            NbdAddress::Unix(path) => {
                let dead = matches!(UnixStream::connect(path),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
                if dead {
                    fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                Ok(Listener { socket: listener.into(), path: Some(path.clone()), port: None })
            }
            NbdAddress::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                let port = listener.local_addr()?.port();
                Ok(Listener { socket: listener.into(), path: None, port: Some(port) })
            }
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Takes the descriptor that an accept entry of the ring returned.
pub(super) fn adopt_accepted(result: i32) -> OwnedFd {
    assert!(result >= 0, "an accepted descriptor is not negative");
    // SAFETY: the kernel has just made this descriptor for us, and the completion is looked at once.
    let socket = unsafe { OwnedFd::from_raw_fd(result) };
    // A unix socket has no Nagle to switch off, and its peer cannot vanish unnoticed.
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(&socket, sockopt::KeepAlive, &true);
    socket
}

/// Ends reading: what waits for bytes gets an end of file.
pub(super) fn end_reading(socket: &OwnedFd) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Read);
}

/// Ends everything that waits on the socket.
pub(super) fn end_all(socket: &OwnedFd) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}
