//! The holder's side: one thread, which waits for packets and answers each.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_engine::front::FuseConnection;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, socket_with,
};

use super::packet::{self, Kind, Packet, ReceivePacket};

/// Who may be connected at once: the engine, its successor, and people who look.
const CLIENTS_MAX: usize = 16;
/// How much may be held: more volumes than a node can have attached.
const ENTRIES_MAX: usize = 4096;
/// Who does not take its answer for so long is dropped: the next one waits behind it.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no holder.
#[derive(Debug, thiserror::Error)]
pub enum ServeHolder {
    /// Another one listens there.
    #[error("another holder runs at {}", .0.display())]
    Running(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen at {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Waiting failed.
    #[error("cannot wait for packets")]
    Wait(#[source] Errno),
}

/// What is held under one name.
struct Entry {
    connection: u64,
    description: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// Listens at `path` for ever. `ready` is called once it can be asked.
///
/// # Errors
/// See [`ServeHolder`].
pub fn serve(path: &Path, ready: impl FnOnce()) -> Result<(), ServeHolder> {
    let listener = listen(path)?;
    ready();
    let mut clients: Vec<OwnedFd> = Vec::new();
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    loop {
        let mut waits: Vec<PollFd<'_>> = clients.iter().map(|client| PollFd::new(client, PollFlags::IN)).collect();
        waits.push(PollFd::new(&listener, PollFlags::IN));
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(ServeHolder::Wait(errno)),
        }
        let ready: Vec<bool> = waits.iter().map(|wait| !wait.revents().is_empty()).collect();
        let mut index = 0;
        clients.retain(|client| {
            index += 1;
            !ready[index - 1] || on_packet(client, &mut entries)
        });
        if ready.last() == Some(&true)
            && let Some(client) = accept(&listener)
            && clients.len() < CLIENTS_MAX
        {
            clients.push(client);
        }
    }
}

fn listen(path: &Path) -> Result<OwnedFd, ServeHolder> {
    let failed = |source: io::Error| ServeHolder::Listen { path: path.to_owned(), source };
    let refused = |errno: Errno| failed(errno.into());
    let address = SocketAddrUnix::new(path).map_err(refused)?;
    // A socket file that nobody listens at is what a killed predecessor left.
    if connect(&new_socket().map_err(refused)?, &address).is_ok() {
        return Err(ServeHolder::Running(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = new_socket().map_err(refused)?;
    bind(&listener, &address).map_err(refused)?;
    // Whoever has a descriptor can serve the volume: nobody but the owner.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    net::listen(&listener, i32::try_from(CLIENTS_MAX).expect("a small number")).map_err(refused)?;
    Ok(listener)
}

/// An unconnected socket on which neither end waits for ever.
pub(super) fn new_socket() -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bound_waits(&socket)?;
    Ok(socket)
}

fn bound_waits(socket: &OwnedFd) -> Result<(), Errno> {
    for timeout in [net::sockopt::Timeout::Send, net::sockopt::Timeout::Recv] {
        net::sockopt::set_socket_timeout(socket, timeout, Some(ANSWER_WITHIN))?;
    }
    Ok(())
}

fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let client = accept_with(listener, SocketFlags::CLOEXEC).ok()?;
    bound_waits(&client).ok()?;
    Some(client)
}

/// Takes a packet and answers it. False if the client is to be dropped.
fn on_packet(client: &OwnedFd, entries: &mut BTreeMap<String, Entry>) -> bool {
    let answered = match packet::receive(client.as_fd()) {
        Ok(packet) => answer(client, packet, entries),
        Err(ReceivePacket::Closed | ReceivePacket::Socket(_)) => return false,
        Err(refused) => {
            tracing::warn!(%refused, "client refused");
            // It may be of another time: it learns why.
            let _ = packet::refuse(client.as_fd(), &refused.to_string());
            return false;
        }
    };
    answered.is_ok()
}

fn answer(client: &OwnedFd, packet: Packet, entries: &mut BTreeMap<String, Entry>) -> Result<(), Errno> {
    let done = |many: usize| packet::send(client.as_fd(), (Kind::Done, many as u64), ("", b""), &[]);
    match packet.kind {
        Kind::Put if packet.descriptors.is_empty() || packet.name.is_empty() => {
            packet::refuse(client.as_fd(), "a name and descriptors are needed")
        }
        Kind::Put if entries.len() >= ENTRIES_MAX && !entries.contains_key(&packet.name) => {
            packet::refuse(client.as_fd(), "too much is held already")
        }
        Kind::Put => {
            let Packet { number: connection, name, description, descriptors, .. } = packet;
            tracing::info!(name, connection, descriptors = descriptors.len(), "held");
            entries.insert(name, Entry { connection, description, descriptors });
            done(1)
        }
        Kind::Fetch | Kind::List => {
            for (name, entry) in entries.iter() {
                let given = if packet.kind == Kind::Fetch { &entry.descriptors[..] } else { &[] };
                let what = (Kind::Entry, entry.connection);
                packet::send(client.as_fd(), what, (name, &entry.description), given)?;
            }
            done(entries.len())
        }
        Kind::Forget => {
            let forgotten = entries.remove(&packet.name);
            if let Some(entry) = &forgotten {
                tracing::info!(name = packet.name, connection = entry.connection, "forgotten");
            }
            done(usize::from(forgotten.is_some()))
        }
        Kind::Abort => {
            let aborted = entries.len();
            for (name, entry) in std::mem::take(entries) {
                tracing::warn!(name, connection = entry.connection, "aborted");
                if let Some(device) = entry.descriptors.into_iter().next() {
                    FuseConnection::adopt(device, entry.connection).abort();
                }
            }
            done(aborted)
        }
        Kind::Done | Kind::Refused | Kind::Entry => packet::refuse(client.as_fd(), "an answer is no request"),
    }
}
