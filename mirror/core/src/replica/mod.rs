//! The state machine of one volume on one node.
//!
//! [`Replica::step`] takes one input, lets it act (`on_*`), and runs a fixed list of maintenance steps. Where to look:
//!
//! | file | what |
//! |---|---|
//! | `peer` | connections, sessions, heartbeats, suspicion |
//! | `view` | the installed configuration, how the next one is adopted, reports |
//! | `arbiter`, `register` | who keeps the configuration: the quorum of peers; a register elsewhere |
//! | `change`, `steer` | changes as pure functions; which change is wanted now |
//! | `write`, `window`, `read`, `flush` | requests of the front end |
//! | `grants` | policing: who may write which range now |
//! | `apply`, `intent` | the replica's disk: admission, intervals, write intent, dirty bitmaps |
//! | `reconcile`, `join`, `verify` | making replicas equal: after a death, when one returns, on request |
//! | `leave`, `operator`, `members` | planned leaving; commands; who holds replicas and votes |
//! | `durable` | what waits for metadata to be durable |

#[cfg(feature = "broken")]
macro_rules! broken {
    ($variant:ident) => {
        Some(crate::broken::Broken::$variant)
    };
}
#[cfg(not(feature = "broken"))]
macro_rules! broken {
    ($variant:ident) => {
        ()
    };
}

mod apply;
mod arbiter;
mod change;
mod durable;
mod flush;
mod frames;
mod grants;
mod intent;
mod invariants;
mod join;
mod leave;
mod members;
mod operator;
mod peer;
mod read;
mod reconcile;
mod register;
mod report;
mod steer;
mod verify;
mod view;
mod write;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::bitmap::BlockSet;
use crate::config::Config;
use crate::effect::Effect;
use crate::ids::{
    BootId, BufId, Epoch, FlushId, Incarnation, NodeId, PersistToken, ReadId, RegionIndex, RequestId, Round, Time,
    VoterId,
};
use crate::input::{Input, Request};
use crate::meta::Meta;
use crate::status::Counters;
use crate::timing::Timing;

/// What a replica is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This run of the engine.
    pub incarnation: Incarnation,
    /// This boot of the machine.
    pub boot: BootId,
    /// What was durable.
    pub meta: Meta,
    /// Time limits.
    pub timing: Timing,
    /// A rule to leave out.
    #[cfg(feature = "broken")]
    pub broken: Option<crate::broken::Broken>,
}

impl Setup {
    /// A start that leaves no rule out.
    #[must_use]
    pub fn new(incarnation: Incarnation, boot: BootId, meta: Meta, timing: Timing) -> Setup {
        Setup {
            incarnation,
            boot,
            meta,
            timing,
            #[cfg(feature = "broken")]
            broken: None,
        }
    }
}

/// One volume on one node.
pub struct Replica {
    // identity
    node: NodeId,
    incarnation: Incarnation,
    boot: BootId,
    timing: Timing,
    #[cfg(feature = "broken")]
    broken_rule: Option<crate::broken::Broken>,
    // time and effects of the current step
    now: Time,
    started_at: Time,
    started: bool,
    out: Vec<Effect>,
    /// Something happened that maintenance has to look at.
    attention: bool,
    attention_at: Time,
    timer: Time,
    // durable state and what waits for it
    meta: Meta,
    meta_lost: bool,
    persisting: PersistToken,
    durable: PersistToken,
    /// Since when updates have been waiting to be durable.
    persist_since: Time,
    gates: VecDeque<(PersistToken, durable::After)>,
    ready: VecDeque<durable::After>,
    // configuration
    known: Config,
    view: view::View,
    adopting: Option<view::Adopting>,
    marks: BTreeSet<(NodeId, Incarnation)>,
    reports_in: bool,
    own_report: view::Report,
    read_fences: Vec<view::ReadFence>,
    proposer: arbiter::Proposer,
    register: register::Register,
    admitting: Option<(NodeId, VoterId, Time)>,
    admitted: bool,
    admissions: u64,
    learn_at: Time,
    // peers
    peers: BTreeMap<NodeId, peer::Peer>,
    heartbeat_at: Time,
    exited: BTreeSet<(NodeId, Incarnation)>,
    suspects: BTreeMap<(NodeId, Incarnation), Time>,
    hold_expulsion: BTreeMap<(NodeId, Incarnation), Time>,
    // the front end's requests
    window: write::Window,
    waiting: VecDeque<Request>,
    again: bool,
    retry_at: Time,
    grants: grants::Grants,
    policing: grants::Policing,
    leases: grants::leases::Leases,
    commit_at: Time,
    commit_asked_at: Time,
    reads: read::Reads,
    flush: Option<flush::Flushing>,
    flush_next: Vec<RequestId>,
    next_flush: FlushId,
    /// A write failed at the last in-sync replica while others were joining.
    failed_at_last: bool,
    fenced: bool,
    /// When this run's attachment was installed.
    attached_at: Time,
    /// The front end of this run's attachment has shown itself: it was attached, or has asked for something.
    front_seen: bool,
    fenced_at: Option<Epoch>,
    frozen: bool,
    // the disk
    disk: apply::Disk,
    disk_full: bool,
    held: VecDeque<apply::ApplyWrite>,
    applied: apply::Applied,
    unconfirmed: flush::Unconfirmed,
    intent_pending: BTreeMap<RegionIndex, PersistToken>,
    region_used: BTreeMap<RegionIndex, Time>,
    dirty_changed: BTreeSet<(NodeId, u64)>,
    found_intent: BlockSet,
    suspect: BlockSet,
    sweep_at: Time,
    // making replicas equal
    reconciled: bool,
    /// The granting node said so before all reports were in here.
    settled_elsewhere: bool,
    reconcile: Option<reconcile::Reconcile>,
    blocked: BlockSet,
    join: Option<join::Join>,
    source: join::Source,
    /// Pulled data that waits for the intent of its region.
    pulled: Vec<(Round, ReadId, BufId)>,
    rounds: u64,
    busy_at: Time,
    pull_at: Time,
    resync_rate: u64,
    verify: Option<verify::Verify>,
    // people
    leaving: leave::Leaving,
    operator: operator::Operator,
    counters: Counters,
}

impl Replica {
    /// A machine that has done nothing yet. The first `step` (a [`Input::Tick`]) starts it.
    #[must_use]
    pub fn new(setup: Setup, now: Time) -> Replica {
        let meta = setup.meta;
        let marks = meta.left.clone();
        let view = view::View::new(meta.config.clone(), &marks);
        // The last in-sync replica is all there is: a new run tries its disk again.
        let only = meta.config.in_sync.len() == 1 && meta.config.in_sync.contains_key(&meta.node);
        let disk = apply::Disk { failed: meta.failed.clone().filter(|_| !only), ..apply::Disk::default() };
        Replica {
            node: meta.node,
            incarnation: setup.incarnation,
            boot: setup.boot,
            timing: setup.timing,
            #[cfg(feature = "broken")]
            broken_rule: setup.broken,
            now,
            started_at: now,
            started: false,
            out: Vec::new(),
            attention: true,
            attention_at: Time::NEVER,
            timer: now,
            known: meta.config.clone(),
            view,
            marks,
            meta,
            meta_lost: false,
            persisting: PersistToken(0),
            durable: PersistToken(0),
            persist_since: now,
            gates: VecDeque::new(),
            ready: VecDeque::new(),
            adopting: None,
            reports_in: false,
            own_report: view::Report::default(),
            read_fences: Vec::new(),
            proposer: arbiter::Proposer::default(),
            register: register::Register::default(),
            admitting: None,
            admitted: false,
            admissions: 0,
            learn_at: now,
            peers: BTreeMap::new(),
            heartbeat_at: now,
            exited: BTreeSet::new(),
            suspects: BTreeMap::new(),
            hold_expulsion: BTreeMap::new(),
            window: write::Window::default(),
            waiting: VecDeque::new(),
            again: false,
            retry_at: Time::NEVER,
            grants: grants::Grants::default(),
            policing: grants::Policing::default(),
            leases: grants::leases::Leases::default(),
            commit_at: Time::NEVER,
            commit_asked_at: Time(0),
            reads: read::Reads::default(),
            flush: None,
            flush_next: Vec::new(),
            next_flush: FlushId(0),
            failed_at_last: false,
            fenced: false,
            attached_at: now,
            front_seen: false,
            fenced_at: None,
            frozen: false,
            disk,
            disk_full: false,
            held: VecDeque::new(),
            applied: apply::Applied::default(),
            unconfirmed: flush::Unconfirmed::default(),
            intent_pending: BTreeMap::new(),
            region_used: BTreeMap::new(),
            dirty_changed: BTreeSet::new(),
            found_intent: BlockSet::new(),
            suspect: BlockSet::new(),
            sweep_at: Time::NEVER,
            reconciled: false,
            settled_elsewhere: false,
            reconcile: None,
            blocked: BlockSet::new(),
            join: None,
            source: join::Source::default(),
            pulled: Vec::new(),
            rounds: 0,
            busy_at: Time(0),
            pull_at: Time(0),
            resync_rate: 0,
            verify: None,
            leaving: leave::Leaving::default(),
            operator: operator::Operator::default(),
            counters: Counters::default(),
        }
    }

    /// Advances the machine by one input, and appends what it wants to `out`.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        self.note_gap(now);
        self.now = self.now.max(now);
        core::mem::swap(&mut self.out, out);
        if !self.started {
            self.start();
        }
        let quick = self.is_quick(&input);
        self.take(input);
        if !quick || self.attention || self.now >= self.timer.min(self.attention_at) {
            self.maintain();
        } else {
            self.send_commits();
        }
        if self.again {
            self.again = false;
            self.serve_peer_reads();
            self.serve_waiting();
        }
        self.check_invariants();
        core::mem::swap(&mut self.out, out);
    }

    /// When the next [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.timer.min(self.commit_at).min(self.attention_at)
    }

    /// The nodes that this one wants connections with: replicas, tie-breaker, and attached members.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<NodeId> {
        let mut nodes: BTreeSet<NodeId> = self.known.replicas.iter().copied().collect();
        nodes.extend(self.known.tie_breaker);
        nodes.extend(self.known.attached.keys());
        nodes.extend(self.known.voters.keys());
        nodes.remove(&self.node);
        nodes
    }

    /// What is durable, or about to be, as the core believes.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The configuration that is installed here.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.view.config
    }

    /// Incarnations of the installed configuration that left as planned.
    #[must_use]
    pub fn left(&self) -> &BTreeSet<(NodeId, Incarnation)> {
        &self.view.left
    }

    /// After a gap in which this process did not run (stopped, or its machine was) what is late seems later than it is:
    /// disks, peers and acknowledgements get the time that they did not have. What may be read on the strength of an
    /// answer, and how long an expelled member may still read, goes by the clock alone.
    fn note_gap(&mut self, now: Time) {
        let gap = now.since(self.now);
        if !self.started || gap < self.timing.suspect / 2 {
            return;
        }
        for op in &mut self.disk.ops {
            op.started = op.started.after(gap);
        }
        self.persist_since = self.persist_since.after(gap);
        self.window.shift(gap);
        if let Some(flush) = &mut self.flush {
            flush.started = flush.started.after(gap);
        }
        for peer in self.peers.values_mut() {
            peer.heard_at = peer.heard_at.after(gap);
        }
    }

    fn start(&mut self) {
        self.started = true;
        self.started_at = self.now;
        self.recover_intent();
        self.policing_view_changed();
        self.permission_changed();
        let fresh = self.view.members().get(&self.node) == Some(&self.incarnation);
        if fresh {
            // The first run after creation is listed already.
            self.install_report();
            self.broadcast_installed();
        }
    }

    /// The steps that follow an input, always in this order.
    fn maintain(&mut self) {
        self.attention = false;
        self.attention_at = Time::NEVER;
        self.run_ready();
        self.advance_view();
        self.keep_links();
        self.steer();
        self.check_disk();
        self.retry_reads_for_others();
        self.check_unacknowledged();
        self.check_last_replica();
        self.complete_ready();
        self.advance_policing();
        self.send_commits();
        self.advance_leave();
        self.check_commands();
        self.next_reconcile_step();
        self.advance_verify();
        self.submit_pulls();
        self.flush_in_background();
        self.sweep();
        self.note_freeze();
        self.run_ready();
        if self.retry_at <= self.now {
            self.retry_at = Time::NEVER;
            self.again = true;
        }
        self.set_timer();
    }

    fn set_timer(&mut self) {
        // What is tried again needs no more precise moment than that of a heartbeat.
        let mut timer = self.heartbeat_at.min(self.round_deadline()).min(self.sweep_at).min(self.retry_at);
        let pull_waits = self.join.is_some() && self.pull_at > self.now;
        if pull_waits {
            timer = timer.min(self.pull_at);
        }
        // While something is being waited for that has no event of its own, look often.
        let restless = !self.suspects.is_empty()
            || !self.read_fences.is_empty()
            || self.operator.is_busy()
            || self.leaving.is_asking()
            || self.adopting.is_some()
            || self.proposer.retry_at > self.now;
        if restless {
            timer = timer.min(self.now.after(self.timing.heartbeat / 10));
        }
        if !self.ready.is_empty() {
            timer = self.now;
        }
        self.timer = timer.max(Time(self.now.0 + 1));
    }

    #[cfg(feature = "broken")]
    fn broken(&self, rule: Option<crate::broken::Broken>) -> bool {
        self.broken_rule == rule
    }

    /// Without the feature no rule can be left out, and the question costs nothing.
    #[cfg(not(feature = "broken"))]
    #[allow(clippy::unused_self)]
    #[inline(always)]
    fn broken(&self, _rule: ()) -> bool {
        false
    }
}
