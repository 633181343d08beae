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
/// A connection whose bytes are not acknowledged for so long is given up and dialed anew. Left alone it would try again at
/// ever longer intervals, and find a network that was cut for a minute after another minute.
const UNACKNOWLEDGED_MS_MAX: libc::c_int = 2_000;

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
    // The network may come up later than the engine: the other one has to serve meanwhile.
    match address {
        SocketAddr::V4(_) => set_option(&socket, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?,
        SocketAddr::V6(_) => set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?,
    }
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
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, NOT_SENT_BYTES_MAX)
}

fn set_option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).expect("an int has 4 bytes");
    // SAFETY: the pointer and length are those of a local integer, which the kernel only reads.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
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
