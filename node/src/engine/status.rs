//! What the engine knows of a volume, in the words of the protocol.

use lockstep_core::{
    AttachMode, BlockRange, Class, Config, DiskState, Event, GrantsStatus, Incarnation, Net, NodeId, Policing,
    ShardStatus, Status,
};
use lockstep_engine::VolumeStatus;
use lockstep_proto::node::v1 as proto;

use super::meter::Rate;
use crate::cluster::Cluster;
use crate::input;

/// Bytes of a block.
const BLOCK_BYTES: u64 = lockstep_core::range::BLOCK_BYTES;

/// The status of one volume. The front end and the last comparison are added by who knows them.
pub(super) fn to_proto(status: &VolumeStatus, cluster: &Cluster, rate: Option<Rate>) -> proto::VolumeStatus {
    let core = &status.core;
    let config = &core.config;
    let name = |node: NodeId| cluster.name_of(node.0);
    let attached = |mode: AttachMode| {
        config.attached.iter().filter(move |(_, a)| a.mode == mode).map(|(node, _)| name(*node)).collect()
    };
    let mut out = proto::VolumeStatus {
        volume: status.name.clone(),
        id: input::to_hex(&status.volume.0),
        size_bytes: config.size_blocks * BLOCK_BYTES,
        generation: format!("{:016x}", config.generation.id),
        epoch: config.epoch.0,
        this_node: Some(this_node(status, cluster)),
        replicas: config
            .replicas
            .iter()
            .map(|node| proto::ReplicaStatus {
                node: name(*node),
                in_sync: config.in_sync.contains_key(node),
                joining: config.joining.contains_key(node),
                node_id: node.0,
            })
            .collect(),
        voters: config.voters.keys().map(|node| name(*node)).collect(),
        tie_breaker: config.tie_breaker.map(name).unwrap_or_default(),
        tie_breaker_id: config.tie_breaker.map_or(0, |node| node.0),
        writers: attached(AttachMode::ReadWrite),
        readers: attached(AttachMode::ReadOnly),
        in_sync: config.in_sync.keys().map(|node| name(*node)).collect(),
        joining: config.joining.keys().map(|node| name(*node)).collect(),
        peers: core
            .peers
            .iter()
            .map(|peer| proto::PeerStatus {
                node: name(peer.node),
                reachable: peer.reachable,
                network: peer.net.map_or("", network).to_owned(),
                session: peer.session.0,
            })
            .collect(),
        dirty_bytes: core.dirty_blocks.iter().map(|(node, blocks)| (name(*node), blocks * BLOCK_BYTES)).collect(),
        intent_regions: core.intent_regions,
        resync: Some(resync(core, cluster, rate)),
        events: status
            .events
            .iter()
            .map(|record| {
                let (event, text) = describe(&record.event, cluster);
                proto::VolumeEvent { at_ms: record.at.0 / 1_000_000, name: event.to_owned(), text }
            })
            .collect(),
        ..Default::default()
    };
    out.set_ack(match config.settings.ack {
        lockstep_core::Ack::Disk => proto::Ack::Disk,
        lockstep_core::Ack::Durable => proto::Ack::Durable,
    });
    out.set_on_quorum_loss(match config.settings.on_quorum_loss {
        lockstep_core::OnQuorumLoss::Suspend => proto::OnQuorumLoss::Suspend,
        lockstep_core::OnQuorumLoss::Error => proto::OnQuorumLoss::Error,
    });
    out.set_access(match config.settings.access {
        lockstep_core::Access::SingleWriter => proto::Access::SingleWriter,
        lockstep_core::Access::MultiWriter => proto::Access::MultiWriter,
    });
    out.set_arbiter(match config.settings.arbiter {
        lockstep_core::Arbiter::Peers => proto::Arbiter::Peers,
        lockstep_core::Arbiter::Lease => proto::Arbiter::Lease,
    });
    match config.settings.policing {
        Policing::Peer => out.set_policing(proto::Policing::Peer),
        Policing::Lease { shards, .. } => {
            out.set_policing(proto::Policing::Lease);
            out.policing_shards = u32::from(shards);
        }
    }
    out.configuration_trouble = status.register_lost.clone().unwrap_or_default();
    out.set_priority(match config.priority {
        Class::Low | Class::Resync => proto::Priority::Low,
        Class::Normal => proto::Priority::Normal,
        Class::High | Class::Recovery => proto::Priority::High,
    });
    out.grants = core.grants.as_ref().map(|grants| self::grants(grants, core.node, cluster));
    out.set_state(state(core));
    out
}

fn grants(grants: &GrantsStatus, this: NodeId, cluster: &Cluster) -> proto::Grants {
    let range = |node: NodeId, range: BlockRange| proto::GrantedRange {
        node: cluster.name_of(node.0),
        offset_bytes: range.start * BLOCK_BYTES,
        length_bytes: range.bytes(),
    };
    let waiting = grants.waiting.iter().map(|waiting| proto::WaitingWriter {
        node: cluster.name_of(waiting.node.0),
        offset_bytes: waiting.range.start * BLOCK_BYTES,
        length_bytes: waiting.range.bytes(),
        class: format!("{:?}", waiting.class).to_lowercase(),
        waited_us: waiting.waited / 1_000,
    });
    let shard = |shard: &ShardStatus| proto::Shard {
        shard: u32::from(shard.shard),
        offset_bytes: shard.range.start * BLOCK_BYTES,
        length_bytes: shard.range.bytes(),
        holder: shard.holder.map(|node| cluster.name_of(node.0)).unwrap_or_default(),
        trouble: shard.trouble.clone().unwrap_or_default(),
    };
    proto::Grants {
        held: grants.holds.iter().map(|held| range(this, *held)).collect(),
        all: grants.table.iter().map(|(held, node)| range(*node, *held)).collect(),
        waiting: waiting.collect(),
        shards: grants.shards.iter().map(shard).collect(),
        taken: grants.taken,
        given: grants.given,
        wait_p50_us: waited_us(&grants.waits, 50),
        wait_p99_us: waited_us(&grants.waits, 99),
        wait_max_us: grants.longest_wait / 1_000,
    }
}

/// The time below which so many of a hundred waits lie: counts by powers of two of microseconds.
fn waited_us(waits: &[u64; 32], percent: u64) -> u64 {
    let all: u64 = waits.iter().sum();
    let mut below = 0;
    for (bits, count) in waits.iter().enumerate() {
        below += count;
        if below > 0 && below * 100 >= all * percent {
            return 1 << bits;
        }
    }
    0
}

fn state(core: &Status) -> proto::VolumeState {
    let config = &core.config;
    let is_own = |(node, incarnation): (NodeId, Incarnation)| node == core.node && incarnation == core.incarnation;
    // The one that is in sync in its own generation goes on, and who has no replica has none to give up: their reasons tell.
    let holds_old = config.replicas.contains(&core.node) && !config.is_in_sync(core.node, core.incarnation);
    if core.diverged.is_some() && holds_old {
        return proto::VolumeState::Failed;
    }
    if core.left.iter().any(|left| is_own(*left)) {
        return proto::VolumeState::Left;
    }
    if core.frozen {
        return proto::VolumeState::Suspended;
    }
    if config.joining.contains_key(&core.node) {
        return proto::VolumeState::Joining;
    }
    // Listed, but as an earlier run: this one has not come back yet.
    if config.incarnation_of(core.node).is_some_and(|listed| listed != core.incarnation) {
        return proto::VolumeState::Starting;
    }
    match config.in_sync.len() == config.replicas.len() {
        true => proto::VolumeState::UpToDate,
        false => proto::VolumeState::Degraded,
    }
}

fn this_node(status: &VolumeStatus, cluster: &Cluster) -> proto::ThisNode {
    let core = &status.core;
    let mut this = proto::ThisNode {
        node: cluster.name_of(core.node.0),
        incarnation: core.incarnation.0,
        reason: reason(core, cluster),
        counters: counters(status).map(|(name, count)| (name.to_owned(), count)).into(),
        ..Default::default()
    };
    this.set_disk(match &core.disk {
        DiskState::UpToDate => proto::DiskState::UpToDate,
        DiskState::Inconsistent => proto::DiskState::Inconsistent,
        DiskState::Outdated => proto::DiskState::Outdated,
        DiskState::Diskless => proto::DiskState::Diskless,
        DiskState::Failed(_) => proto::DiskState::Failed,
        DiskState::Removed => proto::DiskState::Removed,
    });
    this.set_role(role(&core.config, core.node));
    // By the configuration: the core's own mark is off for a moment while it changes to another one.
    let listed = core.config.attached.get(&core.node).filter(|attachment| attachment.incarnation == core.incarnation);
    let mode = listed.map(|attachment| attachment.mode);
    this.set_attached(match mode {
        None => proto::AttachMode::None,
        Some(AttachMode::ReadWrite) => proto::AttachMode::ReadWrite,
        Some(AttachMode::ReadOnly) => proto::AttachMode::ReadOnly,
    });
    this.set_front_end(proto::FrontEnd::None);
    this
}

fn role(config: &Config, node: NodeId) -> proto::Role {
    if config.replicas.contains(&node) {
        proto::Role::Replica
    } else if config.tie_breaker == Some(node) {
        proto::Role::TieBreaker
    } else {
        proto::Role::Diskless
    }
}

fn reason(core: &Status, cluster: &Cluster) -> String {
    if let Some(node) = core.diverged {
        let node = cluster.name_of(node.0);
        return format!("node {node} has another generation of this volume: an operator must choose");
    }
    match &core.disk {
        DiskState::Failed(reason) => reason.clone(),
        DiskState::Inconsistent => "resync brings it up to date".to_owned(),
        DiskState::Outdated => "others went on without it".to_owned(),
        DiskState::Removed => "it was removed from the volume, and can be deleted".to_owned(),
        DiskState::UpToDate | DiskState::Diskless => String::new(),
    }
}

/// Names are those of the metrics; the part after a dot nests in JSON.
pub(super) fn counters(status: &VolumeStatus) -> [(&'static str, u64); 24] {
    let core = &status.core.counters;
    [
        ("front_reads", core.front_reads),
        ("front_writes", core.front_writes),
        ("front_flushes", core.front_flushes),
        ("front_errors", core.front_errors),
        ("frames_sent.write", core.sent_writes),
        ("frames_sent.heartbeat", core.sent_heartbeats),
        ("frames_sent.other", core.sent_other),
        ("frames_received", status.received_frames),
        ("bytes_sent", status.sent_bytes),
        ("bytes_received", status.received_bytes),
        ("peer_writes", core.peer_writes),
        ("peer_reads", core.peer_reads),
        ("remote_reads", core.remote_reads),
        ("stale_refused", core.stale_refused),
        ("old_session_dropped", core.old_session_dropped),
        ("resync_copied_bytes", core.resync_copied_bytes),
        ("resync_compared_bytes", core.resync_compared_bytes),
        ("swaps", core.swaps),
        ("disk_errors", status.disk_errors),
        ("meta_commits", status.meta_commits),
        ("sends", status.sends),
        ("receives", status.receives),
        ("front_completed", status.front.as_ref().map_or(0, |front| front.completed)),
        ("front_open_requests", status.front.as_ref().map_or(0, |front| front.open_requests)),
    ]
}

fn resync(core: &Status, cluster: &Cluster, rate: Option<Rate>) -> proto::Resync {
    let mut out = proto::Resync {
        bytes_copied_total: core.counters.resync_copied_bytes,
        bytes_compared_total: core.counters.resync_compared_bytes,
        ..Default::default()
    };
    if let Some(progress) = core.resync {
        out.active = true;
        out.bytes_done = progress.bytes_done;
        out.bytes_total = progress.bytes_total;
        out.bytes_per_second = rate.map_or(0, |rate| rate.bytes_per_second);
        out.seconds_left = rate.and_then(|rate| rate.seconds_left(progress.bytes_done, progress.bytes_total));
        let joining = core.config.joining.get(&core.node);
        out.source = joining.map(|joining| cluster.name_of(joining.source.0)).unwrap_or_default();
    }
    out
}

const fn network(net: Net) -> &'static str {
    match net {
        Net::Ordinary => "ordinary",
        Net::Dedicated => "dedicated",
    }
}

/// An event's stable name, and a sentence for people.
fn describe(event: &Event, cluster: &Cluster) -> (&'static str, String) {
    let name = |node: &NodeId| cluster.name_of(node.0);
    match event {
        Event::Installed { epoch, in_sync } => {
            let names: Vec<String> = in_sync.iter().map(name).collect();
            ("installed", format!("epoch {epoch} with {} in sync", names.join(", ")))
        }
        Event::Expelled { node, epoch } => ("expelled", format!("node {} is out since epoch {epoch}", name(node))),
        Event::Fenced { epoch } => ("fenced", format!("this node is out since epoch {epoch}")),
        Event::Suspected { node, reason } => ("suspected", format!("node {}: {reason}", name(node))),
        Event::SessionOpened { node, dedicated } => {
            let network = if *dedicated { "dedicated" } else { "ordinary" };
            ("session_opened", format!("with node {} over the {network} network", name(node)))
        }
        Event::Frozen => ("frozen", "requests wait: neither a quorum nor all peers can be reached".to_owned()),
        Event::Thawed => ("thawed", "requests go on".to_owned()),
        Event::ResyncStarted { source, bytes } => {
            ("resync_started", format!("{} from node {}", input::show_bytes(*bytes), name(source)))
        }
        Event::ResyncFinished { copied } => ("resync_finished", format!("{} copied", input::show_bytes(*copied))),
        Event::ReplicaFailed { reason } => ("replica_failed", reason.clone()),
        Event::Refused { node, reason } => ("refused", format!("a frame of node {}: {reason:?}", name(node))),
        Event::Diverged { node, generation } => {
            ("diverged", format!("node {} has generation {:016x}", name(node), generation.id))
        }
        Event::RegisterLost { reason } => ("register_lost", format!("the configuration cannot change: {reason}")),
        Event::ShardLost { shard, reason } => ("shard_lost", format!("grant Lease {shard} cannot be used: {reason}")),
        Event::RegisterFound => ("register_found", "the configuration can change again".to_owned()),
        Event::Reconciled { epoch, blocks } => ("reconciled", format!("{blocks} blocks in epoch {epoch}")),
        Event::Removed { epoch } => {
            ("removed", format!("this node's replica is not the volume's any more since epoch {epoch}"))
        }
        Event::Left { node, incarnation } => {
            ("left", format!("node {} (incarnation {incarnation}) left as planned", name(node)))
        }
    }
}
