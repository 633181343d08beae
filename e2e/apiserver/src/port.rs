//! A port that nobody else is given while it is held.

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt::ReusePort,
};
use std::os::fd::{AsRawFd, OwnedFd};

/// A port of 127.0.0.1, bound but never listened at: no connection comes here. Only a program of the same user that
/// sets `SO_REUSEPORT` can bind it too, so that it is neither lost between choosing it and starting the server, nor
/// while the server is stopped.
pub struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    /// Takes one that is free.
    pub fn reserve() -> Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .context("make a socket to hold a port")?;
        // Set before binding: with it, too, the kernel chooses only a port that nobody holds.
        setsockopt(&socket, ReusePort, &true).context("let the server share the port")?;
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).context("bind a free port")?;
        let bound: SockaddrIn = getsockname(socket.as_raw_fd()).context("read the number of the port")?;
        Ok(Port { number: bound.port(), _socket: socket })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::Port;
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn held_ports_differ_and_refuse() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        let address = ("127.0.0.1", ports[0].number());
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
}
