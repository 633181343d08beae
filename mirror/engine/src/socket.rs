//! TCP sockets as the links want them.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, shutdown, socket,
    sockopt,
};

/// Connections that wait to be accepted: three nodes, two networks, some volumes that all come at once.
const BACKLOG: i32 = 1024;
/// Bytes that the kernel takes ahead of what it has sent. A sign of life waits behind these at most.
const NOT_SENT_BYTES_MAX: libc::c_int = 256 << 10;

/// A socket that dials from `from` (its address, any port), so that the traffic takes that network.
pub(crate) fn for_dialing(from: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new(from)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from.ip(), 0)))?;
    Ok(socket)
}

/// A listening socket.
pub(crate) fn listen_on(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new(address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(BACKLOG).map_err(io::Error::from)?)?;
    Ok(socket)
}

fn new(like: SocketAddr) -> io::Result<OwnedFd> {
    let family = if like.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Takes over a descriptor that a completion returned.
pub(crate) fn accepted(fd: i32) -> OwnedFd {
    // SAFETY: an accept that succeeded returned this descriptor to us and to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Options of a connection that carries frames.
pub(crate) fn tune(socket: &OwnedFd) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    // BBR, where it is the machine's choice, paces by timers and drains the path every ten seconds: both cost a storage
    // link latency. Where neither can be set, the machine's choice stays.
    let _ =
        ["cubic", "reno"].iter().find(|name| setsockopt(socket, sockopt::TcpCongestion, &OsString::from(name)).is_ok());
    set_not_sent_low_water(socket)
}

fn set_not_sent_low_water(socket: &OwnedFd) -> io::Result<()> {
    let value = NOT_SENT_BYTES_MAX;
    let len = libc::socklen_t::try_from(size_of_val(&value)).expect("an int has 4 bytes");
    // SAFETY: the pointer and length are those of a local integer, which the kernel only reads.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, (&raw const value).cast(), len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends a connection both ways: entries of the ring that wait on it complete.
pub(crate) fn shut_down(socket: &OwnedFd) {
    // An error means that it is not connected any more.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

/// Sends some last bytes as far as the socket takes them at once.
pub(crate) fn send_last(socket: &OwnedFd, bytes: &[u8]) {
    use nix::sys::socket::{MsgFlags, send};
    // Whoever does not get them sees the connection close.
    let _ = send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}
