//! Reconcile: after a change of view the members agree on what was in flight, before anyone serves it.
//!
//! Every member reports what it applied and does not know to be committed, and the intent that it found on disk at its
//! start. Blocks named in a report are held back. The granting node makes them equal everywhere, the newest write
//! winning, and then says so; with nothing to settle, nobody has to say anything.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::Replica;
use super::apply::{ApplyWrite, Origin, Purpose};
use crate::bitmap::BlockSet;
use crate::effect::{Effect, Event};
use crate::ids::{BufId, Digest, GrantNumber, Incarnation, NodeId, ReadId, Round, WriteId};
use crate::input::DiskError;
use crate::message::{Message, Refusal, Uncommitted, WriteKind};
use crate::range::BlockRange;

/// Blocks compared in one step.
const COMPARE_BLOCKS: u64 = 256;

/// Blocks rolled forward in one step: a discard may be as long as the volume, and a step holds its content in memory.
const ROLL_BLOCKS: u64 = 256;

/// Round number of a fetch that reconcile asks for.
pub(super) const RECONCILE_ROUND: Round = Round(0);

/// Stands for "a writer that is gone" in what was rolled forward.
const GONE: (NodeId, Incarnation) = (NodeId(u32::MAX), Incarnation(0));

/// A block run whose newest write is not everywhere.
#[derive(Clone, Copy, Debug)]
struct Winner {
    range: BlockRange,
    grant: GrantNumber,
    id: WriteId,
    holder: NodeId,
}

/// What the granting node is at.
#[derive(Clone, Debug)]
enum Step {
    /// Waits for the holder's data.
    Fetch { id: ReadId, winner: Winner },
    /// Waits for roll-forward acknowledgements.
    Roll { id: ReadId, waits_for: BTreeSet<NodeId> },
    /// Waits for digests of all members.
    Compare { id: ReadId, range: BlockRange, digests: BTreeMap<NodeId, Vec<Digest>>, waits_for: BTreeSet<NodeId> },
}

/// The granting node's work list.
#[derive(Clone, Debug)]
pub(super) struct Reconcile {
    winners: VecDeque<Winner>,
    suspects: VecDeque<BlockRange>,
    step: Option<Step>,
    blocks: u64,
}

impl Replica {
    /// All members have reported: finds what has to be settled, and holds it back.
    pub(super) fn begin_reconcile(&mut self) {
        if self.settled_elsewhere {
            return self.reconciled();
        }
        let mut all: Vec<(NodeId, Uncommitted)> = Vec::new();
        let mut suspects = BlockSet::new();
        let mut highest = GrantNumber::default();
        for (node, report) in self.reports() {
            // What only a joining member holds is its own to resync.
            let in_sync = self.view.in_sync & self.view.bit(node) != 0;
            if in_sync || self.broken(broken!(WriteOfJoiningOnly)) {
                all.extend(report.uncommitted.iter().map(|e| (node, *e)));
            }
            for range in &report.suspect {
                suspects.insert(*range);
            }
            highest = highest.max(report.grant);
        }
        // A surviving writer sends its own again. A range under a lower grant than the highest was drained before that
        // one was given: it is committed everywhere and must not be copied over what came later.
        let roll_committed = self.broken(broken!(RollForwardOfCommitted));
        all.retain(|(_, e)| !self.view.is_looked_after(e));
        if self.has_ranges() {
            all = self.not_held_by_survivors(all);
        } else {
            all.retain(|(_, e)| e.grant >= highest || roll_committed);
        }
        let alone = self.view.written() == self.view.bit(self.node);
        if all.is_empty() && (suspects.is_empty() || alone) {
            return self.reconciled();
        }
        for (_, entry) in &all {
            self.blocked.insert(entry.range);
        }
        if !alone {
            self.blocked.union(&suspects);
        }
        if self.view.granting_node() != Some(self.node) {
            return;
        }
        let suspects =
            if alone { VecDeque::new() } else { suspects.ranges().flat_map(|r| r.pieces(COMPARE_BLOCKS)).collect() };
        let winners = self.winners(&mut all);
        self.reconcile = Some(Reconcile { winners, suspects, step: None, blocks: 0 });
        self.next_reconcile_step();
    }

    /// What a dead writer had in flight where no survivor holds a grant: wherever one does, the grant was given after the dead
    /// one's writes were on all replicas, and what the survivor writes there goes to all by itself.
    fn not_held_by_survivors(&self, all: Vec<(NodeId, Uncommitted)>) -> Vec<(NodeId, Uncommitted)> {
        let mut held: Vec<BlockRange> = self.reports().flat_map(|(_, report)| report.holds.iter().copied()).collect();
        held.sort_unstable();
        let mut rest = Vec::new();
        for (node, entry) in all {
            let mut from = entry.range.start;
            for taken in held.iter().filter_map(|range| range.intersection(entry.range)) {
                let range = BlockRange::new(from, taken.start);
                if !range.is_empty() {
                    rest.push((node, Uncommitted { range, ..entry }));
                }
                from = from.max(taken.end);
            }
            let range = BlockRange::new(from, entry.range.end);
            if !range.is_empty() {
                rest.push((node, Uncommitted { range, ..entry }));
            }
        }
        rest
    }

    /// Own report and those of all peers.
    pub(super) fn reports(&self) -> impl Iterator<Item = (NodeId, &super::view::Report)> {
        let own = core::iter::once((self.node, &self.own_report));
        own.chain(self.peers.iter().filter_map(|(n, p)| p.report.as_ref().map(|r| (*n, r))))
    }

    /// Per block the newest write that anybody reports, where not everybody does.
    fn winners(&self, all: &mut [(NodeId, Uncommitted)]) -> VecDeque<Winner> {
        // Believes of what is named for a block the first, although a newer write lies over it.
        let older_wins = self.broken(broken!(OlderUncommittedReported));
        all.sort_by_key(|(node, e)| (e.grant, e.id, *node));
        let mut segments: BTreeMap<u64, (GrantNumber, WriteId, BTreeSet<NodeId>)> = BTreeMap::new();
        for (node, entry) in all.iter() {
            for block in entry.range.blocks() {
                let slot = segments.entry(block.0).or_insert_with(|| (entry.grant, entry.id, BTreeSet::new()));
                if (slot.0, slot.1) != (entry.grant, entry.id) {
                    if older_wins {
                        continue;
                    }
                    *slot = (entry.grant, entry.id, BTreeSet::new());
                }
                slot.2.insert(*node);
            }
        }
        let written: BTreeSet<NodeId> = self.view.nodes(self.view.written()).collect();
        let mut winners: VecDeque<Winner> = VecDeque::new();
        for (block, (grant, id, holders)) in segments {
            if written.is_subset(&holders) {
                continue;
            }
            let holder =
                if holders.contains(&self.node) { self.node } else { *holders.iter().next().expect("reported") };
            match winners.back_mut() {
                Some(w)
                    if w.range.end == block
                        && w.range.len() < ROLL_BLOCKS
                        && (w.grant, w.id, w.holder) == (grant, id, holder) =>
                {
                    w.range.end += 1;
                }
                _ => winners.push_back(Winner { range: BlockRange::new(block, block + 1), grant, id, holder }),
            }
        }
        winners
    }

    /// Does the next thing on the list, or says that everything is settled.
    pub(super) fn next_reconcile_step(&mut self) {
        let Some(reconcile) = &mut self.reconcile else { return };
        if reconcile.step.is_some() {
            return;
        }
        if let Some(winner) = reconcile.winners.pop_front() {
            let id = self.next_read_id();
            self.set_step(Step::Fetch { id, winner });
            if winner.holder == self.node {
                let buf = self.new_buf();
                let io = self.begin_io(winner.range, Purpose::RollRead { id, buf });
                self.out.push(Effect::DiskRead { io, range: winner.range, buf });
            } else {
                self.send(winner.holder, Message::Pull { round: RECONCILE_ROUND, id, range: winner.range }, None);
            }
            return;
        }
        if let Some(range) = reconcile.suspects.front().copied() {
            // What a surviving writer has in flight here is applied everywhere before anything is compared.
            let view = &self.view;
            let theirs = |e: &Uncommitted| e.range.overlaps(range) && view.is_looked_after(e);
            let held = self.held.iter().any(|h| h.range.overlaps(range));
            if held || self.window.overlaps(range) || self.applied.iter().any(theirs) {
                self.want_commit();
                self.attention_at = self.attention_at.min(self.now.after(crate::timing::MS));
                return;
            }
            if let Some(reconcile) = &mut self.reconcile {
                reconcile.suspects.pop_front();
            }
            let id = self.next_read_id();
            let others: BTreeSet<NodeId> = self.view.nodes(self.view.in_sync).collect();
            self.set_step(Step::Compare { id, range, digests: BTreeMap::new(), waits_for: others.clone() });
            for node in others {
                if node == self.node {
                    let io = self.begin_io(range, Purpose::OwnDigest { id });
                    self.out.push(Effect::DiskDigest { io, range });
                } else {
                    self.send(node, Message::DigestAsk { id, range }, None);
                }
            }
            return;
        }
        let blocks = reconcile.blocks;
        self.reconcile = None;
        let members: Vec<NodeId> = self.view.members().keys().copied().filter(|n| *n != self.node).collect();
        for node in members {
            self.send(node, Message::ReconcileDone, None);
        }
        self.out.push(Effect::Event(Event::Reconciled { epoch: self.view.config.epoch, blocks }));
        self.reconciled();
    }

    fn set_step(&mut self, step: Step) {
        if let Some(reconcile) = &mut self.reconcile {
            reconcile.step = Some(step);
        }
    }

    /// The holder's data came: everybody else gets it, under the number of the write that it is.
    pub(super) fn on_fetched(&mut self, id: ReadId, buf: BufId) {
        let Some(Step::Fetch { id: at, winner }) = self.reconcile.as_ref().and_then(|r| r.step.clone()) else {
            return self.release(Some(buf));
        };
        if at != id {
            return self.release(Some(buf));
        }
        let targets: BTreeSet<NodeId> = self.view.nodes(self.view.written()).filter(|n| *n != winner.holder).collect();
        self.roll(winner.range, winner.grant, winner.id, buf, targets);
    }

    fn roll(&mut self, range: BlockRange, grant: GrantNumber, write: WriteId, buf: BufId, targets: BTreeSet<NodeId>) {
        let id = self.next_read_id();
        if let Some(reconcile) = &mut self.reconcile {
            reconcile.blocks += range.len();
        }
        self.set_step(Step::Roll { id, waits_for: targets.clone() });
        let me = self.node;
        let here = targets.contains(&me);
        for node in targets.into_iter().filter(|n| *n != me) {
            self.send(node, Message::RollForward { id, range, grant, write }, Some(buf));
        }
        if here {
            self.roll_here(None, id, range, grant, write, buf);
        } else {
            self.release(Some(buf));
        }
    }

    pub(super) fn roll_here(
        &mut self,
        asked_by: Option<NodeId>,
        step: ReadId,
        range: BlockRange,
        grant: GrantNumber,
        id: WriteId,
        buf: BufId,
    ) {
        let (writer, incarnation) = GONE;
        self.apply_write(ApplyWrite {
            origin: Origin::Roll { asked_by, step },
            writer,
            incarnation,
            id,
            grant,
            range,
            kind: WriteKind::Data,
            durable: false,
            buf: Some(buf),
        });
    }

    /// The granting node makes a range here what the newest write made it.
    pub(super) fn on_roll_forward(
        &mut self,
        from: NodeId,
        id: ReadId,
        range: BlockRange,
        grant: GrantNumber,
        write: WriteId,
        payload: Option<BufId>,
    ) {
        let allowed = self.view.granting_node() == Some(from) || self.verify_repairs_from(from);
        let fits = !range.is_empty() && range.end <= self.view.config.size_blocks;
        match payload {
            Some(buf)
                if allowed && fits && self.can_hold_data() && self.view.is_written(self.node, self.incarnation) =>
            {
                self.roll_here(Some(from), id, range, grant, write, buf);
            }
            _ => self.release(payload),
        }
    }

    pub(super) fn on_roll_ack(&mut self, from: NodeId, id: ReadId) {
        if self.verify_roll_ack(from, id) {
            return;
        }
        let Some(Step::Roll { id: at, waits_for }) = self.reconcile.as_mut().and_then(|r| r.step.as_mut()) else {
            return;
        };
        if *at != id {
            return;
        }
        waits_for.remove(&from);
        if waits_for.is_empty() {
            if let Some(reconcile) = &mut self.reconcile {
                reconcile.step = None;
            }
            self.next_reconcile_step();
        }
    }

    pub(super) fn on_roll_read(&mut self, id: ReadId, buf: BufId) {
        if self.on_verify_read(id, buf) {
            return;
        }
        self.on_fetched(id, buf);
    }

    /// Digests of one member came (or this node's own).
    pub(super) fn on_reconcile_digests(&mut self, from: NodeId, id: ReadId, digests: Vec<Digest>) -> bool {
        let me = self.node;
        let Some(Step::Compare { id: at, range, digests: all, waits_for }) =
            self.reconcile.as_mut().and_then(|r| r.step.as_mut())
        else {
            return false;
        };
        if *at != id || digests.len() as u64 != range.len() {
            return false;
        }
        all.insert(from, digests);
        waits_for.remove(&from);
        if !waits_for.is_empty() {
            return true;
        }
        // The granting node's copy counts: whatever was completed is the same everywhere.
        let own = all.get(&me).cloned().unwrap_or_default();
        let mut differing: BTreeMap<u64, BTreeSet<NodeId>> = BTreeMap::new();
        for (node, theirs) in all.iter().filter(|(n, _)| **n != me) {
            for (at, (a, b)) in own.iter().zip(theirs).enumerate() {
                if a != b {
                    differing.entry(range.start + at as u64).or_default().insert(*node);
                }
            }
        }
        if let Some(reconcile) = &mut self.reconcile {
            reconcile.step = None;
            for (block, _) in differing {
                let range = BlockRange::new(block, block + 1);
                reconcile.winners.push_back(Winner {
                    range,
                    grant: GrantNumber::default(),
                    id: WriteId(0),
                    holder: me,
                });
            }
        }
        self.next_reconcile_step();
        true
    }

    /// Everything in flight at the change of view is settled.
    pub(super) fn reconciled(&mut self) {
        self.reconciled = true;
        self.blocked.clear();
        self.policing_settled();
        self.suspect.clear();
        let view = &self.view;
        self.applied.retain(|e| view.is_looked_after(e));
        self.window.given_up = None;
        if self.is_writer() && !self.grants.holds() && !self.has_ranges() {
            let epoch = self.view.config.epoch;
            self.grants.acquire(self.node, epoch);
        }
        self.committed();
        self.sweep_at = self.sweep_at.min(self.now.after(self.timing.background_flush));
        self.operator_settled();
        self.start_join_round();
    }

    pub(super) fn on_reconcile_done(&mut self, from: NodeId) {
        if self.view.granting_node() != Some(from) || self.reconciled {
            return;
        }
        if self.reports_in {
            self.reconciled();
        } else {
            // The granting node has heard everybody sooner than this one.
            self.settled_elsewhere = true;
        }
    }

    /// A session was replaced in the middle of a reconcile: the granting node begins again.
    pub(super) fn reconcile_session_opened(&mut self, node: NodeId) {
        if !self.view.members().contains_key(&node) {
            return;
        }
        if self.reconcile.is_some() {
            self.reconcile = None;
            self.reports_in = self.has_reported(node);
            if self.reports_in {
                self.begin_reconcile();
            }
        } else if self.reports_in && self.reconciled && self.view.granting_node() == Some(self.node) {
            self.send(node, Message::ReconcileDone, None);
        }
    }

    /// A peer wants digests: for reconcile, verify or resync.
    pub(super) fn on_digest_ask(&mut self, from: NodeId, id: ReadId, range: BlockRange) {
        let fits = !range.is_empty() && range.end <= self.view.config.size_blocks && range.len() <= COMPARE_BLOCKS;
        if !fits || !self.can_hold_data() || !self.view.is_written(self.node, self.incarnation) {
            return self.send(from, Message::ReadRefused { id, reason: Refusal::NotReplica }, None);
        }
        let io = self.begin_io(range, Purpose::DigestFor { node: from, id });
        self.out.push(Effect::DiskDigest { io, range });
    }

    pub(super) fn on_disk_digests(&mut self, io: crate::ids::IoId, result: Result<Vec<Digest>, DiskError>) {
        let Some(op) = self.disk.take(io) else { return };
        let stale = self.is_of_earlier_epoch(&op);
        match (result, op.purpose.clone()) {
            (Ok(_), Purpose::DigestFor { .. }) if stale => {}
            (Ok(digests), Purpose::DigestFor { node, id }) => {
                self.send(node, Message::Digests { id, range: op.range, digests }, None);
            }
            (Ok(digests), Purpose::OwnDigest { id }) => {
                let node = self.node;
                self.on_digests(node, id, op.range, digests);
            }
            (Ok(_), _) => {}
            (Err(error), _) => self.on_disk_error(op, error),
        }
    }

    pub(super) fn on_digests(&mut self, from: NodeId, id: ReadId, range: BlockRange, digests: Vec<Digest>) {
        if digests.len() as u64 != range.len() {
            return;
        }
        if self.on_join_digests(from, id, range, &digests) || self.on_verify_digests(from, id, &digests) {
            return;
        }
        self.on_reconcile_digests(from, id, digests);
    }
}
