//! A TCP relay that delays what passes, or stops passing anything: a slow link, and a cut one.
//!
//! Delaying is done by two threads for each direction: one stamps what arrives, the other lets it go when its time has
//! come. So the delay is of the wire, not of the sender: any amount may be under way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cleanup::{Cleanup, Undo};

/// One read of a relayed stream at most.
const PIECE_BYTES: usize = 256 << 10;

/// A listener whose connections are relayed to one address. Ends with its connections when dropped.
pub struct Relay {
    link: Arc<Link>,
    _close: Undo,
}

/// What all connections of a relay share.
struct Link {
    delay: Duration,
    cut: Mutex<bool>,
    mended: Condvar,
    closed: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

impl Relay {
    /// Listens at `listen`, which must be a free address, and relays to `target`.
    pub fn start(listen: SocketAddr, target: SocketAddr, delay: Duration, cleanup: &Cleanup) -> Result<Self> {
        let listener = TcpListener::bind(listen).with_context(|| format!("listen at {listen}"))?;
        let link = Arc::new(Link {
            delay,
            cut: Mutex::new(false),
            mended: Condvar::new(),
            closed: AtomicBool::new(false),
            streams: Mutex::new(Vec::new()),
        });
        let accepting = link.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    return;
                }
                // A connection that fails is the business of its two ends.
                let _ = stream.and_then(|stream| accepting.clone().relay(stream, target));
            }
        });
        let close = {
            let link = link.clone();
            cleanup.defer(move || {
                link.close();
                // Wakes the accepting thread, so that the listener goes too.
                let _ = TcpStream::connect(listen);
            })
        };
        Ok(Relay { link, _close: close })
    }

    /// From now on nothing passes, and no connection is told.
    pub fn cut(&self) {
        self.link.set_cut(true);
    }

    /// Everything passes again.
    pub fn mend(&self) {
        self.link.set_cut(false);
    }
}

impl Link {
    fn relay(self: Arc<Self>, from: TcpStream, target: SocketAddr) -> std::io::Result<()> {
        self.wait_mended();
        let to = TcpStream::connect(target)?;
        for stream in [&from, &to] {
            stream.set_nodelay(true)?;
            self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
        }
        self.clone().one_direction(from.try_clone()?, to.try_clone()?);
        self.one_direction(to, from);
        Ok(())
    }

    fn one_direction(self: Arc<Self>, mut from: TcpStream, to: TcpStream) {
        let (send, receive) = mpsc::channel::<Piece>();
        let link = self.clone();
        std::thread::spawn(move || link.let_go(&receive, to));
        std::thread::spawn(move || self.take_in(&mut from, &send));
    }

    fn take_in(&self, from: &mut TcpStream, send: &Sender<Piece>) {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let piece = Piece { due: Instant::now() + self.delay, bytes: buffer[..count].to_vec() };
            if send.send(piece).is_err() {
                return;
            }
        }
    }

    fn let_go(&self, receive: &Receiver<Piece>, mut to: TcpStream) {
        // Nothing is ever sent on this channel: receiving from it is a wait with an end.
        let (_never, timer) = mpsc::channel::<()>();
        for piece in receive {
            let left = piece.due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let _ = timer.recv_timeout(left);
            }
            self.wait_mended();
            if self.closed.load(Ordering::SeqCst) || to.write_all(&piece.bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn wait_mended(&self) {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let mended = self.mended.wait_while(cut, |cut| *cut && !self.closed.load(Ordering::SeqCst));
        drop(mended.unwrap_or_else(PoisonError::into_inner));
    }

    fn set_cut(&self, cut: bool) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
        self.mended.notify_all();
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.set_cut(false);
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Relay;
    use crate::cleanup::Cleanup;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    fn free_address() -> SocketAddr {
        TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
    }

    /// A server that sends back what it receives.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 16];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                stream.write_all(&bytes[..count]).unwrap();
            }
        });
        address
    }

    #[test]
    fn each_direction_is_delayed() {
        let cleanup = Cleanup::new();
        let (listen, delay) = (free_address(), Duration::from_millis(20));
        let _relay = Relay::start(listen, echo(), delay, &cleanup).unwrap();
        let mut stream = TcpStream::connect(listen).unwrap();
        let start = Instant::now();
        stream.write_all(b"there").unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"there");
        assert!(start.elapsed() >= 2 * delay);
    }

    #[test]
    fn a_cut_holds_everything_back_until_it_is_mended() {
        let cleanup = Cleanup::new();
        let listen = free_address();
        let relay = Relay::start(listen, echo(), Duration::ZERO, &cleanup).unwrap();
        let mut stream = TcpStream::connect(listen).unwrap();
        relay.cut();
        stream.write_all(b"later").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut bytes = [0; 5];
        assert!(stream.read_exact(&mut bytes).is_err());
        relay.mend();
        stream.set_read_timeout(None).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"later");
    }
}
