//! The greeting of a new connection, over the loop's ring.
//!
//! ```text
//! dialing:    connect -> send call -> receive challenge -> send proof -> receive verdict -> Greeted
//! accepting:  receive call -> send challenge -> receive proof -> Called (the owner of the volume sends the verdict)
//! report:     ... Called for an exit report -> send verdict -> receive one frame -> Reported
//! ```
//!
//! One entry is in the ring at a time; when time is up, the loop cancels it.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use lockstep_core::{Incarnation, Message, Net, NodeId, Time};
use lockstep_format::wire::greeting::{Accepting, Acceptor, Call, ClusterKey, Dialer, Dialing, Greet, Nonce, Purpose};
use lockstep_format::wire::{DecodeFrame, Decoded, decode_frame};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use crate::socket;

/// Greetings that a loop has under way at most. More are closed at once: they come from strangers.
pub(crate) const GREETINGS_MAX: usize = 256;

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingEnd {
    /// Nobody listens there.
    #[error("refused by the network")]
    Connect(#[source] std::io::Error),
    /// Somebody listens there, which is all that was asked.
    #[error("somebody listens")]
    Probed,
    /// The other end went away.
    #[error("closed during the greeting")]
    Closed,
    /// Sending or receiving failed, or time was up.
    #[error("broken off")]
    Broken(#[source] std::io::Error),
    /// The other end is wrong, or refused.
    #[error("not greeted")]
    Greet(#[source] Greet),
    /// The frame of a report is none.
    #[error("a report is not a frame")]
    Frame(#[source] DecodeFrame),
    /// The frame of a report is something else.
    #[error("a report says something else")]
    NotAReport,
}

impl GreetingEnd {
    /// True if the other end misbehaved, which is counted.
    pub(crate) fn is_hostile(&self) -> bool {
        match self {
            GreetingEnd::Greet(error) => !matches!(error, Greet::RefusedThere(_)),
            GreetingEnd::Frame(_) | GreetingEnd::NotAReport => true,
            GreetingEnd::Connect(_) | GreetingEnd::Probed | GreetingEnd::Closed | GreetingEnd::Broken(_) => false,
        }
    }
}

#[derive(Debug)]
enum Half {
    Dialer {
        dialer: Dialer,
        volume: u32,
    },
    Acceptor {
        acceptor: Acceptor,
    },
    /// The acceptor accepted a report, and waits for it.
    Report {
        from: NodeId,
    },
    /// Only looks whether anybody listens.
    Probe,
    /// In between.
    Taken,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Connecting,
    Sending,
    Receiving,
}

/// One greeting under way.
#[derive(Debug)]
pub(crate) struct Greeting {
    socket: OwnedFd,
    half: Half,
    doing: Doing,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    filled: usize,
    address: Option<Box<SockaddrStorage>>,
    /// Whom, for a dialer.
    pub(crate) peer: Option<(u32, NodeId, Net)>,
    /// When it is given up.
    pub(crate) deadline: Time,
}

/// What comes of a completion.
pub(crate) enum GreetingStep {
    /// Push this entry.
    Next(squeue::Entry),
    /// A dialed connection is up; `rest` came behind the greeting.
    Greeted { volume: u32, peer: NodeId, net: Net, socket: OwnedFd, rest: Vec<u8> },
    /// Somebody who knows the key calls for a volume.
    Called { call: Call, acceptor: Acceptor, socket: OwnedFd },
    /// A supervisor reports.
    Reported { node: NodeId, incarnation: Incarnation, restarting: bool },
    /// It failed.
    Failed(GreetingEnd),
}

impl Greeting {
    /// Dials; the first entry connects.
    pub(crate) fn dial(
        (key, nonce): (ClusterKey, Nonce),
        call: &Call,
        volume: u32,
        (from, to): (SocketAddr, SocketAddr),
        deadline: Time,
    ) -> std::io::Result<Greeting> {
        let socket = socket::for_dialing(from)?;
        let mut out = Vec::with_capacity(256);
        let dialer = Dialer::dial(key, call, &nonce, &mut out);
        Ok(Greeting {
            socket,
            half: Half::Dialer { dialer, volume },
            doing: Doing::Connecting,
            out,
            sent: 0,
            input: vec![0; 512],
            filled: 0,
            address: Some(Box::new(SockaddrStorage::from(to))),
            peer: Some((volume, call.ends.to, call.net)),
            deadline,
        })
    }

    /// Looks whether anybody listens at a peer.
    pub(crate) fn probe(
        peer: (u32, NodeId, Net),
        (from, to): (SocketAddr, SocketAddr),
        deadline: Time,
    ) -> std::io::Result<Greeting> {
        Ok(Greeting {
            socket: socket::for_dialing(from)?,
            half: Half::Probe,
            doing: Doing::Connecting,
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            filled: 0,
            address: Some(Box::new(SockaddrStorage::from(to))),
            peer: Some(peer),
            deadline,
        })
    }

    /// Accepted a connection; the first entry receives.
    pub(crate) fn accept((key, nonce): (ClusterKey, Nonce), node: NodeId, socket: OwnedFd, deadline: Time) -> Greeting {
        Greeting {
            socket,
            half: Half::Acceptor { acceptor: Acceptor::new(key, node, nonce) },
            doing: Doing::Receiving,
            out: Vec::with_capacity(256),
            sent: 0,
            input: vec![0; 512],
            filled: 0,
            address: None,
            peer: None,
            deadline,
        }
    }

    /// The entry for what is to be done now.
    pub(crate) fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.socket.as_raw_fd());
        match self.doing {
            Doing::Connecting => {
                let address = self.address.as_ref().expect("who connects has an address");
                opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build()
            }
            Doing::Sending => {
                let left = &self.out[self.sent..];
                let len = u32::try_from(left.len()).expect("a greeting has some hundred bytes");
                opcode::Send::new(fd, left.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build()
            }
            Doing::Receiving => {
                let room = &mut self.input[self.filled..];
                let len = u32::try_from(room.len()).expect("a greeting has some hundred bytes");
                opcode::Recv::new(fd, room.as_mut_ptr(), len).build()
            }
        }
    }

    /// The entry in the ring completed.
    pub(crate) fn on_completion(mut self, result: i32) -> (Option<Greeting>, GreetingStep) {
        let Ok(bytes) = usize::try_from(result) else {
            let error = std::io::Error::from_raw_os_error(-result);
            let end = if self.doing == Doing::Connecting { GreetingEnd::Connect } else { GreetingEnd::Broken };
            return (None, GreetingStep::Failed(end(error)));
        };
        match self.doing {
            Doing::Connecting if matches!(self.half, Half::Probe) => {
                return (None, GreetingStep::Failed(GreetingEnd::Probed));
            }
            Doing::Connecting => self.doing = Doing::Sending,
            Doing::Sending => {
                self.sent += bytes;
                if self.sent == self.out.len() {
                    self.out.clear();
                    (self.sent, self.doing) = (0, Doing::Receiving);
                }
            }
            Doing::Receiving if bytes == 0 => return (None, GreetingStep::Failed(GreetingEnd::Closed)),
            Doing::Receiving => {
                self.filled += bytes;
                return self.on_input();
            }
        }
        let entry = self.entry();
        (Some(self), GreetingStep::Next(entry))
    }

    fn on_input(mut self) -> (Option<Greeting>, GreetingStep) {
        let mut input = &self.input[..self.filled];
        let half = std::mem::replace(&mut self.half, Half::Taken);
        self.half = match half {
            Half::Dialer { mut dialer, volume } => match dialer.receive(&mut input, &mut self.out) {
                Ok(Dialing::More) => Half::Dialer { dialer, volume },
                Ok(Dialing::Greeted(_)) => {
                    let (volume, peer, net) = self.peer.expect("a dialer knows whom it dials");
                    let rest = input.to_vec();
                    return (None, GreetingStep::Greeted { volume, peer, net, socket: self.socket, rest });
                }
                Err(error) => return self.refused(error),
            },
            Half::Acceptor { mut acceptor } => match acceptor.receive(&mut input, &mut self.out) {
                Ok(Accepting::More) => Half::Acceptor { acceptor },
                Ok(Accepting::Called(call)) => match call.purpose {
                    Purpose::Volume(_) => return (None, GreetingStep::Called { call, acceptor, socket: self.socket }),
                    Purpose::ExitReport => {
                        acceptor.accept(&mut self.out);
                        Half::Report { from: call.ends.from }
                    }
                },
                Err(error) => return self.refused(error),
            },
            Half::Report { from } => match decode_frame(input) {
                Ok(Decoded::More { .. }) if self.filled == self.input.len() => {
                    return (None, GreetingStep::Failed(GreetingEnd::NotAReport));
                }
                Ok(Decoded::More { .. }) => Half::Report { from },
                Ok(Decoded::Frame { frame, .. }) => match frame.message {
                    // A node speaks for itself only.
                    Message::ExitReport { node, incarnation, restarting } if node == from => {
                        return (None, GreetingStep::Reported { node, incarnation, restarting });
                    }
                    _ => return (None, GreetingStep::Failed(GreetingEnd::NotAReport)),
                },
                Err(error) => return (None, GreetingStep::Failed(GreetingEnd::Frame(error))),
            },
            Half::Probe | Half::Taken => {
                unreachable!("a probe receives nothing, and a half is put back before the next completion")
            }
        };
        let rest = input.len();
        // The machines keep what they took; a report is parsed when it is whole.
        self.input.copy_within(self.filled - rest..self.filled, 0);
        self.filled = rest;
        self.doing = if self.out.is_empty() { Doing::Receiving } else { Doing::Sending };
        let entry = self.entry();
        (Some(self), GreetingStep::Next(entry))
    }

    /// Sends the refusal that the protocol calls for, as far as it goes out at once.
    fn refused(self, error: Greet) -> (Option<Greeting>, GreetingStep) {
        socket::send_last(&self.socket, &self.out);
        (None, GreetingStep::Failed(GreetingEnd::Greet(error)))
    }
}
