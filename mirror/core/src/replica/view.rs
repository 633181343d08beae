//! The view: the configuration that a member has installed, less what left as planned; and how the next is installed.
//!
//! ```text
//! known (decided, or a mark)  --persist with dirty maps-->  adopting  --disk drained-->  installed  --reports in-->  settled
//! ```

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Replica;
use super::durable::After;
use crate::config::{AttachMode, Attachment, Config};
use crate::effect::{Effect, Event};
use crate::ids::{GrantNumber, Incarnation, NodeId, Time};
use crate::message::{Message, Stamp, Uncommitted};
use crate::meta::MetaUpdate;
use crate::range::BlockRange;

/// A set of replicas by slot: bit i stands for the i-th node of the configuration's `replicas`.
pub(super) type Slots = u8;

/// An installed (or about to be installed) configuration, less left marks.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub config: Config,
    /// Marks of incarnations that `config` lists.
    pub left: BTreeSet<(NodeId, Incarnation)>,
    pub in_sync: Slots,
    pub joining: Slots,
    pub left_bits: Slots,
}

impl View {
    pub fn new(config: Config, marks: &BTreeSet<(NodeId, Incarnation)>) -> View {
        let listed = |node: &NodeId, inc: &Incarnation| lists(&config, *node, *inc);
        let left: BTreeSet<_> = marks.iter().filter(|(n, i)| listed(n, i)).copied().collect();
        let gone = |node: NodeId, inc: Incarnation| left.contains(&(node, inc));
        let (mut in_sync, mut joining, mut left_bits) = (0, 0, 0);
        for (slot, node) in config.replicas.iter().enumerate() {
            let bit = 1 << slot;
            if let Some(inc) = config.in_sync.get(node)
                && !gone(*node, *inc)
            {
                in_sync |= bit;
            }
            if let Some(j) = config.joining.get(node)
                && !gone(*node, j.incarnation)
            {
                joining |= bit;
            }
            if left.iter().any(|(n, _)| n == node) {
                left_bits |= bit;
            }
        }
        View { config, left, in_sync, joining, left_bits }
    }

    /// In-sync and joining replicas.
    pub fn written(&self) -> Slots {
        self.in_sync | self.joining
    }

    pub fn slot(&self, node: NodeId) -> Option<usize> {
        self.config.replicas.iter().position(|n| *n == node)
    }

    pub fn bit(&self, node: NodeId) -> Slots {
        self.slot(node).map_or(0, |slot| 1 << slot)
    }

    pub fn nodes(&self, slots: Slots) -> impl Iterator<Item = NodeId> + '_ {
        self.config.replicas.iter().enumerate().filter(move |(slot, _)| slots >> slot & 1 == 1).map(|(_, n)| *n)
    }

    /// The slots that these nodes have here.
    pub fn slots_of(&self, nodes: impl Iterator<Item = NodeId>) -> Slots {
        nodes.fold(0, |slots, node| slots | self.bit(node))
    }

    /// Who takes part: in-sync, joining or attached, and has not left.
    pub fn members(&self) -> BTreeMap<NodeId, Incarnation> {
        let mut members = self.config.members();
        members.retain(|node, inc| !self.left.contains(&(*node, *inc)));
        members
    }

    pub fn is_in_sync(&self, node: NodeId, inc: Incarnation) -> bool {
        self.config.is_in_sync(node, inc) && self.in_sync & self.bit(node) != 0
    }

    pub fn is_written(&self, node: NodeId, inc: Incarnation) -> bool {
        (self.config.is_in_sync(node, inc) || self.config.is_joining(node, inc)) && self.written() & self.bit(node) != 0
    }

    pub fn is_writer(&self, node: NodeId, inc: Incarnation) -> bool {
        let writes = |a: &Attachment| a.incarnation == inc && a.mode == AttachMode::ReadWrite;
        self.config.attached.get(&node).is_some_and(writes) && !self.left.contains(&(node, inc))
    }

    /// True if this write is one that a present attachment still looks after: its writer sends it again.
    pub fn is_looked_after(&self, write: &Uncommitted) -> bool {
        let since = self.config.attached.get(&write.writer).map(|a| a.since);
        self.is_writer(write.writer, write.incarnation) && since.is_some_and(|since| write.grant.epoch >= since)
    }

    pub fn is_attached(&self, node: NodeId, inc: Incarnation) -> bool {
        self.config.is_attached(node, inc) && !self.left.contains(&(node, inc))
    }

    /// Lowest in-sync node: it grants, reconciles and looks after voters.
    pub fn granting_node(&self) -> Option<NodeId> {
        self.nodes(self.in_sync).next()
    }
}

/// True if the configuration lists this incarnation as a member.
pub(super) fn lists(config: &Config, node: NodeId, inc: Incarnation) -> bool {
    config.is_in_sync(node, inc) || config.is_joining(node, inc) || config.is_attached(node, inc)
}

/// A view on its way.
#[derive(Clone, Debug)]
pub(super) struct Adopting {
    pub view: View,
    pub durable: bool,
}

/// What a member reported when it installed the current view.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub uncommitted: Vec<Uncommitted>,
    pub suspect: Vec<BlockRange>,
    pub grant: GrantNumber,
    pub holds: Vec<BlockRange>,
}

/// An expelled member that may still serve reads until a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadFence {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub until: Time,
}

impl Replica {
    /// Stamp of the frames that this node sends to `session`.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { session: Default::default(), epoch: self.view.config.epoch, left: self.view.left_bits }
    }

    /// A decided configuration was heard of.
    pub(super) fn learn_config(&mut self, config: &Config) {
        if config.generation != self.known.generation {
            return;
        }
        if config.epoch > self.known.epoch {
            self.known = config.clone();
        }
    }

    /// A mark was heard of: this incarnation has left, or will not act again.
    pub(super) fn learn_mark(&mut self, node: NodeId, incarnation: Incarnation) {
        let me = node == self.node && incarnation == self.incarnation;
        if !me && (lists(&self.view.config, node, incarnation) || lists(&self.known, node, incarnation)) {
            self.marks.insert((node, incarnation));
        }
    }

    /// Maintenance: begins to adopt a newer view, or installs one that is durable.
    pub(super) fn advance_view(&mut self) {
        if self.adopting.is_none() {
            self.begin_adoption();
        }
        if self.adopting.as_ref().is_some_and(|a| a.durable) && self.disk.is_drained() {
            let adopting = self.adopting.take().expect("just seen");
            self.install(adopting.view);
        }
    }

    fn begin_adoption(&mut self) {
        if self.broken(broken!(LeftMarkOverridden)) && self.known.epoch > self.view.config.epoch {
            // Believes the register, and counts whoever it lists in again.
            self.marks.clear();
        }
        let overridden = self.marks.iter().any(|(n, i)| lists(&self.known, *n, *i));
        let forced = self.known.generation != self.view.config.generation;
        let config = if (forced || self.known.epoch > self.view.config.epoch) && !overridden {
            self.known.clone()
        } else {
            self.view.config.clone()
        };
        let next = View::new(config, &self.marks);
        let other = forced || next.config.epoch != self.view.config.epoch;
        if !other && next.left == self.view.left {
            return;
        }
        let mut updates = self.plan_dirty_for(&next);
        if other {
            if !self.broken(broken!(LowerEpochAccepted)) {
                updates.push(MetaUpdate::Config(Box::new(next.config.clone())));
            }
            if self.is_removed_by(&next.config) {
                updates.push(MetaUpdate::Removed);
                self.out.push(Effect::Event(Event::Removed { epoch: next.config.epoch }));
            }
            if lists(&next.config, self.node, self.incarnation) {
                updates.push(MetaUpdate::Started { incarnation: self.incarnation, boot: self.boot });
            }
            // A mark has done its work once a swap removed the incarnation.
            let ended: Vec<_> = self.marks.iter().filter(|(n, i)| !lists(&next.config, *n, *i)).copied().collect();
            for (node, inc) in ended {
                self.marks.remove(&(node, inc));
                if self.meta.left.contains(&(node, inc)) {
                    updates.push(MetaUpdate::LeftEnded(node, inc));
                }
            }
        }
        for (node, inc) in &next.left {
            if !self.meta.left.contains(&(*node, *inc)) {
                updates.push(MetaUpdate::Left(*node, *inc));
            }
        }
        self.adopting = Some(Adopting { view: next, durable: false });
        self.persist(updates, Some(After::ViewDurable));
    }

    fn install(&mut self, next: View) {
        let old = core::mem::replace(&mut self.view, next);
        let grew = self.view.config.size_blocks != old.config.size_blocks;
        let new_epoch = self.view.config.epoch != old.config.epoch;
        if self.view.config.generation != old.config.generation {
            // Numbers of grants are compared within a generation only, like those of epochs.
            self.grants = super::grants::Grants::default();
        }
        self.renumber_places(&old);
        let members = self.view.members();
        self.note_removed(&old, &members);
        let before = old.members();
        for (node, peer) in &mut self.peers {
            peer.report = None;
            peer.permitted = None;
            // Who comes new begins without what its earlier standing was suspected for.
            peer.suspected &= before.get(node) == members.get(node);
        }
        self.reports_in = false;
        self.reconciled = false;
        self.settled_elsewhere = false;
        self.reconcile = None;
        self.blocked.clear();
        let written = self.view.is_written(self.node, self.incarnation);
        self.drop_held(|w| !written || w.origin != super::apply::Origin::Local);
        self.permission_changed();
        if grew && self.meta.has_data {
            self.out.push(Effect::DiskResize { blocks: self.view.config.size_blocks });
        }
        let in_sync = self.view.nodes(self.view.in_sync).collect();
        self.out.push(Effect::Event(Event::Installed { epoch: self.view.config.epoch, in_sync }));
        if new_epoch && !self.broken(broken!(PromiseAfterSwap)) {
            self.leaving.promised = false;
        }
        self.retry_remote_reads(None);
        // Peers do the same, under numbers of their present run.
        self.reads.from_peers.clear();
        self.install_attachment(&old);
        self.policing_view_changed();
        self.install_report();
        // The round begins before anything is applied in it: what is applied again now counts as touched.
        self.restart_join();
        self.reissue_in_flight(&old);
        // Behind what is in flight, so that who has heard the report has the writes too.
        self.broadcast_installed();
        self.restart_flush();
        self.source_view_changed();
        self.leave_view_changed();
        self.verify_view_changed();
        self.operator_view_changed();
        self.heartbeat_at = self.now;
        self.redeliver_deferred();
    }

    /// Remembers who may still be reading after it was removed.
    fn note_removed(&mut self, old: &View, members: &BTreeMap<NodeId, Incarnation>) {
        let start = self.started_at;
        for (node, incarnation) in old.members() {
            if members.get(&node) == Some(&incarnation) || node == self.node {
                continue;
            }
            self.out.push(Effect::Event(Event::Expelled { node, epoch: self.view.config.epoch }));
            let left = self.marks.contains(&(node, incarnation)) || old.left.contains(&(node, incarnation));
            if let Some(peer) = self.peers.get_mut(&node).filter(|_| !left) {
                peer.expelled = Some(incarnation);
            }
            let attached = old.config.attached.contains_key(&node);
            // With nothing attached there the only readers through it are diskless members, and those have to install
            // the new view (their report is waited for) before anything completes.
            let diskless_reader = members.keys().any(|n| *n != self.node && self.view.bit(*n) == 0);
            if left || self.has_ended(node, incarnation) || (!attached && !diskless_reader) {
                continue;
            }
            let answered = self.peers.get(&node).map_or(start, |p| p.answered_at.max(start));
            let until = answered.after(self.timing.read_permission_wait());
            self.read_fences.push(ReadFence { node, incarnation, until });
        }
    }

    /// Fills this node's own report for the new view.
    pub(super) fn install_report(&mut self) {
        let own = self.own_report();
        self.own_report = own;
    }

    fn own_report(&self) -> Report {
        let mut uncommitted: Vec<Uncommitted> = Vec::new();
        if self.view.is_written(self.node, self.incarnation) {
            for entry in self.applied.iter() {
                uncommitted.push(*entry);
            }
        }
        let suspect =
            if self.view.is_in_sync(self.node, self.incarnation) && !self.broken(broken!(RestartWithoutReconcile)) {
                self.suspect.ranges().collect()
            } else {
                Vec::new()
            };
        let holds = if self.is_writer() && !self.broken(broken!(HoldingsNotReported)) {
            self.grants.holder.holds()
        } else {
            Vec::new()
        };
        Report { uncommitted, suspect, grant: self.grants.highest(), holds }
    }

    /// Tells every peer what is installed here.
    pub(super) fn broadcast_installed(&mut self) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            self.send_installed(node);
        }
        self.check_reports();
    }

    /// Sends the configuration and this node's report to one peer, if a session is open.
    pub(super) fn send_installed(&mut self, node: NodeId) {
        if !self.has_session(node) {
            return;
        }
        let left = self.view.left.iter().copied().collect();
        self.send(node, Message::Install { config: Box::new(self.view.config.clone()), left }, None);
        if !lists(&self.view.config, self.node, self.incarnation) {
            return;
        }
        let members = self.view.members();
        let mut answered: Vec<(NodeId, u64)> = Vec::new();
        for (peer, state) in &self.peers {
            if !members.contains_key(peer) {
                answered.push((*peer, self.now.since(state.answered_at.max(self.started_at))));
            }
        }
        let Report { uncommitted, suspect, grant, holds } = self.own_report.clone();
        self.send(node, Message::Installed { answered, uncommitted, suspect, grant, holds }, None);
    }

    /// A peer has installed the same view.
    pub(super) fn on_installed(&mut self, from: NodeId, answered: &[(NodeId, u64)], report: Report) {
        let wait = self.timing.read_permission_wait();
        for (node, age) in answered {
            for fence in self.read_fences.iter_mut().filter(|f| f.node == *node) {
                let until = Time(self.now.0.saturating_sub(*age)).after(wait);
                fence.until = fence.until.max(until);
            }
        }
        self.grants.learn_floor(report.grant);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.report = Some(report);
        }
        self.check_reports();
    }

    /// True once the peer has reported in this view.
    pub(super) fn has_reported(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|p| p.report.is_some())
    }

    /// Looks whether all members have installed the view; if so what they report is looked at.
    fn check_reports(&mut self) {
        if self.reports_in {
            return;
        }
        let members = self.view.members();
        if members.get(&self.node) != Some(&self.incarnation) {
            return;
        }
        if members.keys().all(|n| *n == self.node || self.has_reported(*n)) {
            self.reports_in = true;
            self.begin_reconcile();
            self.policing_reported();
            self.serve_waiting();
        }
    }

    /// True if requests may complete: every member has installed the view (so what an expelled one lacks is durable
    /// everywhere), and no expelled member can still be reading.
    pub(super) fn may_complete(&mut self) -> bool {
        if !self.reports_in || self.adopting.is_some() {
            return false;
        }
        if self.read_fences.is_empty() {
            return true;
        }
        let now = self.now;
        let skip = self.broken(broken!(NoReadWait));
        let mut fences = core::mem::take(&mut self.read_fences);
        fences.retain(|f| !skip && f.until > now && !self.has_ended(f.node, f.incarnation));
        self.read_fences = fences;
        self.read_fences.is_empty()
    }
}
