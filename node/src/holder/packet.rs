//! Packets between an engine and its holder: bytes and descriptors, both bounded.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// `LKHD`, then the version: whoever speaks another one is told so.
const MAGIC: [u8; 4] = *b"LKHD";
/// Version of the protocol. 1: the first.
pub(super) const VERSION: u8 = 1;

const HEAD_BYTES: usize = 20;
/// Longest name of what is held.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest description of it: an engine's needs a few hundred.
pub const DESCRIPTION_BYTES_MAX: usize = 4096;
/// Most descriptors of one name: the device's and its clones, one per event loop.
pub const DESCRIPTORS_MAX: usize = 64;
const PACKET_BYTES_MAX: usize = HEAD_BYTES + NAME_BYTES_MAX + DESCRIPTION_BYTES_MAX;

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Keep these descriptors under this name, instead of any that it has.
    Put = 1,
    /// Give everything.
    Fetch = 2,
    /// Close what this name has.
    Forget = 3,
    /// Say what there is, without descriptors.
    List = 4,
    /// Abort every connection and close everything.
    Abort = 5,
    /// Done; `number` says of how many.
    Done = 0x80,
    /// Not done; the description says why.
    Refused = 0x81,
    /// One that is held; more packets follow.
    Entry = 0x82,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        let all =
            [Kind::Put, Kind::Fetch, Kind::Forget, Kind::List, Kind::Abort, Kind::Done, Kind::Refused, Kind::Entry];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A packet as it was received.
#[derive(Debug)]
pub(super) struct Packet {
    pub kind: Kind,
    /// Of an entry: the connection's. Of an answer: how many.
    pub number: u64,
    pub name: String,
    pub description: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// Why nothing, or nothing right, was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceivePacket {
    /// The other end has closed.
    #[error("the connection was closed")]
    Closed,
    /// The socket.
    #[error("cannot receive")]
    Socket(#[source] Errno),
    /// Another version of the protocol.
    #[error("version {0} of the protocol, not {VERSION}")]
    Version(u8),
    /// Not a packet of this protocol, or one beyond its bounds.
    #[error("not a packet: {0}")]
    Malformed(&'static str),
}

/// Sends one packet with its descriptors. Waits for as long as the socket's timeout says.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    (kind, number): (Kind, u64),
    (name, description): (&str, &[u8]),
    descriptors: &[OwnedFd],
) -> Result<(), Errno> {
    let fits = name.len() <= NAME_BYTES_MAX
        && description.len() <= DESCRIPTION_BYTES_MAX
        && descriptors.len() <= DESCRIPTORS_MAX;
    if !fits {
        return Err(Errno::MSGSIZE);
    }
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&MAGIC);
    head[4] = VERSION;
    head[5] = kind as u8;
    head[6..8].copy_from_slice(&u16::try_from(name.len()).expect("checked above").to_le_bytes());
    head[8..12].copy_from_slice(&u32::try_from(description.len()).expect("checked above").to_le_bytes());
    head[12..].copy_from_slice(&number.to_le_bytes());
    let bytes = [IoSlice::new(&head), IoSlice::new(name.as_bytes()), IoSlice::new(description)];
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut room);
    if !borrowed.is_empty() {
        assert!(beside.push(SendAncillaryMessage::ScmRights(&borrowed)), "there is room for the most that is sent");
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &bytes, &mut beside, SendFlags::NOSIGNAL)).map(drop)
}

/// Receives one packet.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Packet, ReceivePacket> {
    let mut bytes = [0; PACKET_BYTES_MAX];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut room);
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)
    });
    let message = message.map_err(ReceivePacket::Socket)?;
    let mut descriptors = Vec::new();
    for control in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = control {
            descriptors.extend(received);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(ReceivePacket::Malformed("longer than any"));
    }
    let len = message.bytes;
    if len == 0 {
        return Err(ReceivePacket::Closed);
    }
    let (kind, number, name, description) = parse(&bytes[..len])?;
    Ok(Packet { kind, number, name: name.to_owned(), description: description.to_owned(), descriptors })
}

/// The parts of a packet's bytes.
fn parse(bytes: &[u8]) -> Result<(Kind, u64, &str, &[u8]), ReceivePacket> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Err(ReceivePacket::Malformed("shorter than any"));
    };
    if head[..4] != MAGIC {
        return Err(ReceivePacket::Malformed("of another protocol"));
    }
    if head[4] != VERSION {
        return Err(ReceivePacket::Version(head[4]));
    }
    let kind = Kind::parse(head[5]).ok_or(ReceivePacket::Malformed("of no known kind"))?;
    let name_len = usize::from(u16::from_le_bytes([head[6], head[7]]));
    let description_len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    if name_len > NAME_BYTES_MAX || description_len > DESCRIPTION_BYTES_MAX || name_len + description_len != rest.len()
    {
        return Err(ReceivePacket::Malformed("its lengths are wrong"));
    }
    let (name, description) = rest.split_at(name_len);
    let name = std::str::from_utf8(name).map_err(|_| ReceivePacket::Malformed("its name is not text"))?;
    let mut number = [0; 8];
    number.copy_from_slice(&head[12..]);
    Ok((kind, u64::from_le_bytes(number), name, description))
}

/// Answers an error of the other end, if it can still be answered.
pub(super) fn refuse(socket: BorrowedFd<'_>, why: &str) -> Result<(), Errno> {
    let end = why.len().min(DESCRIPTION_BYTES_MAX);
    send(socket.as_fd(), (Kind::Refused, 0), ("", &why.as_bytes()[..end]), &[])
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

    use super::{HEAD_BYTES, Kind, NAME_BYTES_MAX, PACKET_BYTES_MAX, ReceivePacket, parse, receive, send};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair")
    }

    fn head(name_len: u16, description_len: u32) -> Vec<u8> {
        let mut bytes = b"LKHD\x01\x01".to_vec();
        bytes.extend(name_len.to_le_bytes());
        bytes.extend(description_len.to_le_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    #[test]
    fn a_packet_arrives_with_its_descriptors() {
        let (near, far) = pair();
        let file: OwnedFd = std::fs::File::open("/proc/version").expect("there").into();
        send(near.as_fd(), (Kind::Put, 77), ("v1", b"{}"), &[file]).expect("sent");
        let packet = receive(far.as_fd()).expect("received");
        assert_eq!((packet.kind, packet.number, packet.name.as_str()), (Kind::Put, 77, "v1"));
        assert_eq!((packet.description.as_slice(), packet.descriptors.len()), (&b"{}"[..], 1));
        let text = std::io::read_to_string(std::fs::File::from(packet.descriptors.into_iter().next().expect("one")));
        assert!(text.expect("readable").contains("Linux"));
        drop(near);
        assert!(matches!(receive(far.as_fd()), Err(ReceivePacket::Closed)));
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let wrong: [Vec<u8>; 7] = [
            b"LKH".to_vec(),
            vec![0; HEAD_BYTES],
            [head(3, 0), b"v1".to_vec()].concat(),
            [head(1, 0), b"v1".to_vec()].concat(),
            [head(u16::MAX, u32::MAX), b"v1".to_vec()].concat(),
            [head(2, 0), vec![0xff, 0xfe]].concat(),
            [&b"LKHD\x01\x63"[..], &head(0, 0)[6..]].concat(),
        ];
        for bytes in wrong {
            assert!(matches!(parse(&bytes), Err(ReceivePacket::Malformed(_))), "{bytes:?}");
        }
        let mut other = head(0, 0);
        other[4] = 9;
        assert!(matches!(parse(&other), Err(ReceivePacket::Version(9))));
        let (near, far) = pair();
        let long = vec![0; PACKET_BYTES_MAX + 1];
        rustix::net::send(&near, &long, SendFlags::empty()).expect("sent");
        assert!(matches!(receive(far.as_fd()), Err(ReceivePacket::Malformed(_))));
    }

    #[test]
    fn nothing_beyond_the_bounds_is_sent() {
        let (near, _far) = pair();
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(send(near.as_fd(), (Kind::Forget, 0), (&long, b""), &[]), Err(rustix::io::Errno::MSGSIZE));
    }
}
