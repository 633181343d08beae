//! What one run is made of: who takes part, over what, under which load, and what is expected of it.

use std::collections::BTreeMap;

use lockstep_core::broken::Broken;
use lockstep_core::timing::{MS, Timing};
use lockstep_core::{Ack, AttachMode, Class, NodeId, OnQuorumLoss, Settings};

use crate::net::Link;

/// One second.
pub const SECOND: u64 = 1_000 * MS;

/// The limits that most runs use: those of production, in proportion, but shorter, so that a run is short too.
pub const SHORT: Timing = Timing {
    heartbeat: 60 * MS,
    suspect: 500 * MS,
    switch_network: 250 * MS,
    prefer_network: 1_500 * MS,
    read_permission: 750 * MS,
    commit_delay: MS / 5,
    disk_hang: 2_500 * MS,
    unacknowledged: 3_750 * MS,
    start_alone: 3_000 * MS,
    restart_hold: 1_500 * MS,
    absence_hold: 3_000 * MS,
    swap_delay: 400 * MS,
    idle_swap_delay: 400 * MS,
    arbiter_retry: 100 * MS,
    register_patience: 400 * MS,
    lease_patience: 500 * MS,
    lease_duration: 2_500 * MS,
    background_flush: 600 * MS,
    retry: 200 * MS,
};

/// What a front end asks, in parts of the sum.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Reads.
    pub read: u64,
    /// Writes.
    pub write: u64,
    /// Writes with force unit access.
    pub fua: u64,
    /// Flushes.
    pub flush: u64,
    /// Writes of zeroes.
    pub zeroes: u64,
    /// Discards.
    pub discard: u64,
}

/// The load of the front ends.
#[derive(Clone, Debug)]
pub struct Load {
    /// Kinds of requests of a writer; a reader only reads.
    pub mix: Mix,
    /// Requests open at once.
    pub depth: usize,
    /// Longest time between two requests.
    pub think: u64,
    /// Blocks at which requests start.
    pub targets: Vec<u64>,
    /// Most blocks of a request.
    pub blocks_max: u64,
    /// Requests of one run.
    pub requests_max: u64,
}

/// How fast the disks are.
#[derive(Clone, Copy, Debug)]
pub struct DiskPace {
    /// Shortest time of an operation.
    pub fastest: u64,
    /// Longest time of an operation.
    pub slowest: u64,
    /// One in so many takes fifty times as long.
    pub outlier_one_in: u64,
}

/// What must hold beside what always holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expect {
    /// No request fails.
    pub no_errors: bool,
    /// Longest time that a request may take, if that is bounded, while the load runs.
    pub stall_max: Option<u64>,
    /// Nobody is ever taken out of the configuration.
    pub no_expulsion: bool,
    /// No replica is ever taken out of the configuration.
    pub keeps_replicas: bool,
    /// Grant Leases are forged: replicas may have to refuse what they allow.
    pub forged: bool,
    /// The volume cannot be healthy at the end (force, failed disks): only what is asked for by the scenario is checked.
    pub no_recovery: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everybody.
    pub nodes: Vec<NodeId>,
    /// Who holds a replica.
    pub replicas: Vec<NodeId>,
    /// The voter without data.
    pub tie_breaker: Option<NodeId>,
    /// What the creator chose.
    pub settings: Settings,
    /// Size of the volume.
    pub size_blocks: u64,
    /// Time limits.
    pub timing: Timing,
    /// Front ends that are attached at the start and again whenever they are not.
    pub attach: Vec<(NodeId, AttachMode)>,
    /// Class of the requests for grants of these nodes.
    pub classes: BTreeMap<NodeId, Class>,
    /// Front ends live on when their engine is restarted.
    pub recoverable: bool,
    /// The operator moves the writer to another node when it is gone.
    pub moves_writer: bool,
    /// Supervisors report exits.
    pub supervised: bool,
    /// The load.
    pub load: Load,
    /// The disks.
    pub disk: DiskPace,
    /// The links.
    pub link: Link,
    /// Clocks run at 1 ± this many millionths.
    pub clock_drift: u64,
    /// Clocks run at half to double speed instead: nothing but the age of a read may depend on them.
    pub wild_clocks: bool,
    /// How long the load and the faults last, at most.
    pub active: u64,
    /// How long recovery may take once all is healed.
    pub recovery_max: u64,
    /// What must hold.
    pub expect: Expect,
    /// The rule that is left out.
    pub broken: Option<Broken>,
}

impl Plan {
    /// Two replicas on nodes 1 and 2, the tie-breaker on node 3, the writer on node 1.
    #[must_use]
    pub fn two_replicas() -> Plan {
        Plan {
            nodes: vec![NodeId(1), NodeId(2), NodeId(3)],
            replicas: vec![NodeId(1), NodeId(2)],
            tie_breaker: Some(NodeId(3)),
            settings: Settings { on_quorum_loss: OnQuorumLoss::Suspend, ack: Ack::Disk, ..Settings::default() },
            size_blocks: 8192,
            timing: SHORT,
            attach: vec![(NodeId(1), AttachMode::ReadWrite)],
            classes: BTreeMap::new(),
            recoverable: false,
            moves_writer: true,
            supervised: true,
            load: Load {
                mix: Mix { read: 30, write: 50, fua: 4, flush: 6, zeroes: 3, discard: 3 },
                depth: 6,
                think: 12 * MS,
                targets: targets(8192, 6),
                blocks_max: 8,
                requests_max: 1_200,
            },
            disk: DiskPace { fastest: MS / 20, slowest: 2 * MS, outlier_one_in: 200 },
            link: Link { cut: false, delay: MS / 20, jitter: MS / 5, millinanos_per_byte: 1_000 },
            clock_drift: 20_000,
            wild_clocks: false,
            active: 8 * SECOND,
            recovery_max: 40 * SECOND,
            expect: Expect::default(),
            broken: None,
        }
    }

    /// Three replicas on nodes 1 to 3, no tie-breaker.
    #[must_use]
    pub fn three_replicas() -> Plan {
        let replicas = vec![NodeId(1), NodeId(2), NodeId(3)];
        Plan { nodes: replicas.clone(), replicas, tie_breaker: None, ..Plan::two_replicas() }
    }

    /// Two replicas on nodes 1 and 2, the tie-breaker on node 3, and the writer on node 4, which has no data.
    #[must_use]
    pub fn diskless_writer() -> Plan {
        let mut plan = Plan::two_replicas();
        plan.nodes.push(NodeId(4));
        plan.attach = vec![(NodeId(4), AttachMode::ReadWrite)];
        plan
    }
}

/// `each` hot blocks in each of three regions, and the last blocks of the volume.
#[must_use]
pub fn targets(size_blocks: u64, each: u64) -> Vec<u64> {
    let mut targets: Vec<u64> = Vec::new();
    for base in [0, 1022, 3000] {
        targets.extend((0..each).map(|n| base + n * 3));
    }
    targets.extend([size_blocks - 1, size_blocks - 5]);
    targets
}
