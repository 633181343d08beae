//! One connection to a peer: for one volume, over one network.
//!
//! `outgoing` is what waits to be sent, `incoming` takes frames out of the stream. Both know nothing of the core; the
//! volume that owns the link gives and takes frames.

mod incoming;
mod outgoing;

use std::os::fd::{AsFd, OwnedFd};

use lockstep_core::{ConnId, Frame, Net, NodeId, Time};
use lockstep_format::wire::DecodeFrame;

use crate::buffers::{Buffer, Buffers};
use crate::ring::{FixedFile, Ring};
use crate::socket;
use crate::token::{Source, Token};
use crate::volume::Io;
use incoming::Incoming;
use outgoing::Outgoing;

/// What a socket takes at once, unless the network is far behind.
const PROMPT_BYTES_MAX: usize = 64 << 10;

/// Why a link ended from the outside.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkEnd {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The network or the peer's kernel broke it off.
    #[error("broken off")]
    Reset(#[source] std::io::Error),
    /// What came is not the protocol.
    #[error("not a frame")]
    Frame(#[source] DecodeFrame),
    /// A payload was damaged on the way.
    #[error("the checksum of a payload is wrong")]
    Payload,
}

/// A frame that came in, with its payload.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) frame: Frame,
    pub(crate) payload: Option<Buffer>,
}

/// Bytes and frames that went through links, for the metrics.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LinkCounters {
    pub(crate) sent_bytes: u64,
    pub(crate) sends: u64,
    pub(crate) received_bytes: u64,
    pub(crate) received_frames: u64,
    pub(crate) receives: u64,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) conn: u32,
    pub(crate) peer: NodeId,
    pub(crate) net: Net,
    /// When it came up.
    pub(crate) since: Time,
    volume: u32,
    socket: OwnedFd,
    fixed: FixedFile,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Told to close: what still arrives is discarded.
    closing: bool,
    receiving: bool,
    sending: bool,
}

impl Link {
    /// A link over a connection whose greeting is done. `first` is what came behind the greeting, `last` the greeting's
    /// last bytes, still to be sent.
    pub(crate) fn new(
        (volume, conn): (u32, u32),
        (peer, net): (NodeId, Net),
        socket: OwnedFd,
        (first, last): (&[u8], &[u8]),
        io: &mut Io,
    ) -> std::io::Result<Link> {
        socket::tune(&socket)?;
        let fixed = io.ring.install_file(socket.as_fd())?;
        let incoming = Incoming::new(first);
        let outgoing = Outgoing::new(last);
        let (closing, receiving, sending) = (false, false, false);
        let since = io.now;
        Ok(Link { conn, peer, net, since, volume, socket, fixed, incoming, outgoing, closing, receiving, sending })
    }

    /// The core's name.
    pub(crate) fn id(&self) -> ConnId {
        ConnId(u64::from(self.conn))
    }

    /// True until it was told to close.
    pub(crate) fn is_open(&self) -> bool {
        !self.closing
    }

    /// Queues a frame.
    pub(crate) fn send(&mut self, frame: &Frame, payload: Option<Buffer>, urgent: bool, buffers: &mut Buffers) {
        if !self.closing {
            self.outgoing.push(frame, payload, urgent, buffers);
        }
    }

    /// Pushes the entry that sends what waits.
    pub(crate) fn submit_send(&mut self, ring: &mut Ring, buffers: &mut Buffers) {
        if !self.closing
            && !self.sending
            && let Some((entry, bytes)) = self.outgoing.entry(self.fixed, buffers)
        {
            let entry = entry.user_data(Token::new(Source::LinkSend, self.volume, self.conn).encode());
            // What is left behind is sent at the completion.
            if bytes <= PROMPT_BYTES_MAX && bytes == self.outgoing.queued_bytes() {
                ring.push_prompt(entry);
            } else {
                ring.push(entry);
            }
            self.sending = true;
        }
    }

    /// Pushes the entry for the next receive. `look`: look at the socket before waiting for it.
    pub(crate) fn submit_receive(&mut self, ring: &mut Ring, buffers: &mut Buffers, look: bool) {
        if !self.closing && !self.receiving {
            let entry = self.incoming.entry(self.fixed, buffers, look);
            ring.push(entry.user_data(Token::new(Source::LinkReceive, self.volume, self.conn).encode()));
            self.receiving = true;
        }
    }

    /// The send completed.
    pub(crate) fn on_sent(
        &mut self,
        result: i32,
        buffers: &mut Buffers,
        counters: &mut LinkCounters,
    ) -> Result<(), LinkEnd> {
        self.sending = false;
        if self.closing {
            return Ok(());
        }
        match usize::try_from(result) {
            Ok(bytes) => {
                counters.sent_bytes += bytes as u64;
                counters.sends += 1;
                self.outgoing.advance(bytes, buffers);
                Ok(())
            }
            Err(_) => match -result {
                libc::EINTR | libc::EAGAIN => Ok(()),
                errno => Err(LinkEnd::Reset(std::io::Error::from_raw_os_error(errno))),
            },
        }
    }

    /// The receive completed: whole frames are appended to `out`.
    pub(crate) fn on_received(
        &mut self,
        result: i32,
        more: bool,
        buffers: &mut Buffers,
        counters: &mut LinkCounters,
        out: &mut Vec<Received>,
    ) -> Result<(), LinkEnd> {
        self.receiving = false;
        if self.closing {
            return Ok(());
        }
        let bytes = match usize::try_from(result) {
            Ok(0) => return Err(LinkEnd::Closed),
            Ok(bytes) => bytes,
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => return Ok(()),
            Err(_) => return Err(LinkEnd::Reset(std::io::Error::from_raw_os_error(-result))),
        };
        counters.received_bytes += bytes as u64;
        counters.receives += 1;
        let before = out.len();
        let taken = self.incoming.take(bytes, more, self.volume, buffers, out);
        counters.received_frames += (out.len() - before) as u64;
        taken
    }

    /// Frames that came right behind the greeting.
    pub(crate) fn take_first(&mut self, buffers: &mut Buffers, out: &mut Vec<Received>) -> Result<(), LinkEnd> {
        self.incoming.take(0, false, self.volume, buffers, out)
    }

    /// Starts to close: nothing that is still unread will be looked at, nothing more is sent.
    pub(crate) fn close(&mut self, buffers: &mut Buffers) {
        if !self.closing {
            self.closing = true;
            socket::shut_down(&self.socket);
            if !self.sending {
                self.outgoing.clear(buffers);
            }
        }
    }

    /// True once a closing link has no entry in the ring any more.
    pub(crate) fn is_over(&self) -> bool {
        self.closing && !self.sending && !self.receiving
    }

    /// Gives everything back. Only when it [`Link::is_over`].
    pub(crate) fn dispose(mut self, ring: &mut Ring, buffers: &mut Buffers) {
        assert!(self.is_over(), "a link is disposed of when the kernel has let go of it");
        self.outgoing.clear(buffers);
        self.incoming.clear(buffers);
        ring.remove_file(self.fixed);
    }

    /// Bytes that wait to be sent.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outgoing.queued_bytes()
    }
}
