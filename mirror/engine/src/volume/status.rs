//! What a volume tells about itself beyond what the core knows.

use lockstep_core::{Event, Net, NodeId, Status, Time, VolumeId};

use super::{Io, Volume};
use crate::front::FrontState;

/// An event and when it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventRecord {
    /// On the engine's clock.
    pub at: Time,
    /// What.
    pub event: Event,
}

/// A link as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkStatus {
    /// To whom.
    pub peer: NodeId,
    /// Over which network.
    pub net: Net,
    /// Bytes that wait to be sent.
    pub queued_bytes: u64,
}

/// A front end as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrontStatus {
    /// Whether it serves.
    pub state: FrontState,
    /// Requests under way.
    pub open_requests: u64,
    /// Requests answered.
    pub completed: u64,
}

/// One volume on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub volume: VolumeId,
    /// When this snapshot was taken, on the clock of the events.
    pub at: Time,
    /// What the core says.
    pub core: Status,
    /// Links that are up.
    pub links: Vec<LinkStatus>,
    /// The front end, if there is one.
    pub front: Option<FrontStatus>,
    /// Why the configuration cannot change, if the register that keeps it is lost.
    pub register_lost: Option<String>,
    /// The newest events, oldest first.
    pub events: Vec<EventRecord>,
    /// Bytes sent to peers.
    pub sent_bytes: u64,
    /// Bytes received from peers.
    pub received_bytes: u64,
    /// System-level sends, each a batch of frames.
    pub sends: u64,
    /// System-level receives.
    pub receives: u64,
    /// Frames received.
    pub received_frames: u64,
    /// Disk operations that failed.
    pub disk_errors: u64,
    /// Group commits of metadata.
    pub meta_commits: u64,
}

impl Volume {
    pub(crate) fn status(&self, io: &Io) -> VolumeStatus {
        let links = self.links.iter().filter(|link| link.is_open());
        let front = self.front.front.as_ref().map(|front| FrontStatus {
            state: front.state(),
            open_requests: self.front.open_requests() as u64,
            completed: self.front.completed,
        });
        VolumeStatus {
            name: self.name.clone(),
            volume: self.id,
            at: io.now,
            core: self.replica.status(),
            links: links
                .map(|link| LinkStatus { peer: link.peer, net: link.net, queued_bytes: link.queued_bytes() as u64 })
                .collect(),
            front,
            register_lost: self.register_lost.clone(),
            events: self.events.iter().cloned().collect(),
            sent_bytes: self.link_counters.sent_bytes,
            received_bytes: self.link_counters.received_bytes,
            sends: self.link_counters.sends,
            receives: self.link_counters.receives,
            received_frames: self.link_counters.received_frames,
            disk_errors: self.disk.as_ref().map_or(0, |disk| disk.errors),
            meta_commits: self.meta.commits,
        }
    }
}
