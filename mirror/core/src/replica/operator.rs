//! What an operator (or the agent) asks: attach, detach, grow, force, give up a generation.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

use super::Replica;
use super::arbiter::Outcome;
use super::change::Change;
use super::members::Wanted;
use crate::config::{AttachMode, Attachment, Config, Generation, Setting};
use crate::effect::Effect;
use crate::ids::{CommandId, Epoch, NodeId, Time, VoterId};
use crate::input::{Command, CommandError, Reply};
use crate::message::{Ballot, Message};
use crate::meta::{MetaUpdate, VoterState};

/// How long an attach without `take_over`, a detach or a resize is tried.
const PATIENCE: u64 = 10_000 * crate::timing::MS;

/// How long an attach with `take_over` waits for proof that the old writer is fenced.
const TAKE_OVER_PATIENCE: u64 = 120_000 * crate::timing::MS;

/// A command under way.
#[derive(Clone, Copy, Debug)]
struct Pending {
    command: CommandId,
    until: Time,
}

/// Commands under way, at most one of each kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Operator {
    attach: Option<(Pending, Attachment, bool)>,
    /// Waits for an attachment of this epoch, which an earlier run made, to be this run's.
    resume: Option<(Pending, Epoch)>,
    detach: Option<Pending>,
    resize: Option<(Pending, u64)>,
    setting: Option<(Pending, Setting)>,
    members: Option<(Pending, Wanted)>,
    /// A force, or the giving up of a generation.
    generation: Option<CommandId>,
    /// When the replicas in sync are told again that an attach waits here.
    tell_at: Time,
    /// Until when an attach is taken to wait at another node, which says so again and again.
    wanted_until: Time,
}

impl Operator {
    /// An attach waits for another writer to be fenced.
    pub fn takes_over(&self) -> bool {
        self.attach.is_some_and(|(_, _, take_over)| take_over)
    }

    /// An attach waits, at another node, for another writer to be fenced.
    pub fn is_wanted_elsewhere(&self, now: Time) -> bool {
        now < self.wanted_until
    }

    pub fn wants_attachment(&self) -> bool {
        self.attach.is_some()
    }

    pub fn is_detaching(&self) -> bool {
        self.detach.is_some()
    }

    /// A member is to come or go.
    pub fn changes_members(&self) -> bool {
        self.members.is_some()
    }

    pub fn begin_members(&mut self, command: CommandId, wanted: Wanted, now: Time) {
        self.members = Some((Pending { command, until: now.after(PATIENCE) }, wanted));
    }

    pub fn is_busy(&self) -> bool {
        let asked = self.attach.is_some() || self.detach.is_some() || self.resize.is_some();
        asked || self.resume.is_some() || self.setting.is_some() || self.members.is_some()
    }
}

impl Replica {
    pub(super) fn answer(&mut self, command: CommandId, result: Result<Reply, CommandError>) {
        self.out.push(Effect::Answer { command, result });
    }

    pub(super) fn on_command(&mut self, id: CommandId, command: Command) {
        match command {
            Command::Attach { mode, take_over, recoverable, class } => {
                // What an engine had in flight when it ended is rolled forward. Issued again by its next run it could undo what
                // another writer did in between.
                let recoverable = recoverable && !self.is_shared();
                let incarnation = self.incarnation;
                self.on_attach(id, Attachment { incarnation, mode, recoverable, since: Epoch(0), class }, take_over);
            }
            Command::Resume { .. } if self.broken(broken!(ResumesAnything)) => {
                let (incarnation, mode) = (self.incarnation, AttachMode::ReadWrite);
                let attachment = Attachment { incarnation, mode, recoverable: true, since: Epoch(0), class: None };
                self.on_attach(id, attachment, false);
            }
            Command::Resume { since } => self.on_resume(id, since),
            Command::GiveUpAttach => {
                let reason = "nobody waits for the attachment any more".into();
                self.give_up_attach(CommandError::Forbidden { reason });
                self.answer(id, Ok(Reply::Done));
            }
            Command::AddMember { node, role, instead_of } => {
                self.on_change_members(id, Wanted::Add { node, role, instead_of });
            }
            Command::RemoveMember { node } => self.on_change_members(id, Wanted::Remove { node }),
            Command::Set(setting) => self.on_set(id, setting),
            Command::TakeGrants => self.on_take_grants(id),
            Command::Detach => self.on_detach(id),
            Command::Leave => self.on_leave(id),
            Command::Resize { blocks } => self.on_resize(id, blocks),
            Command::Verify { repair_from } => self.on_verify(id, repair_from),
            Command::Force => self.on_force(id),
            Command::Rejoin => self.on_rejoin(id),
            Command::SetResyncRate { bytes_per_second } => {
                self.resync_rate = bytes_per_second;
                self.pull_at = self.now;
                self.answer(id, Ok(Reply::Done));
            }
        }
    }

    fn on_attach(&mut self, command: CommandId, attachment: Attachment, take_over: bool) {
        let mode = attachment.mode;
        let state = |reason: &str| Err(CommandError::AttachState { reason: reason.into() });
        if self.operator.is_busy() || self.leaving.is_asking() {
            return self.answer(command, state("another attach, detach or resize is under way on this node"));
        }
        let present = self.view.config.attached.get(&self.node).filter(|_| self.is_attached_here());
        match present.map(|attachment| attachment.mode).filter(|present| *present != mode) {
            Some(AttachMode::ReadWrite) => return self.answer(command, state("attached for writing: detach it first")),
            Some(AttachMode::ReadOnly) => return self.answer(command, state("attached for reading: detach it first")),
            None => {}
        }
        let patience = if take_over { TAKE_OVER_PATIENCE } else { PATIENCE };

        self.operator.attach = Some((Pending { command, until: self.now.after(patience) }, attachment, take_over));
        self.learn_at = self.now;
        // An attachment that outlived a restart of the engine is taken up again.
        self.operator_settled();
    }

    fn on_resume(&mut self, command: CommandId, since: Epoch) {
        if self.operator.is_busy() || self.leaving.is_asking() {
            let reason = "another attach, detach or resize is under way on this node".into();
            return self.answer(command, Err(CommandError::AttachState { reason }));
        }
        self.operator.resume = Some((Pending { command, until: self.now.after(PATIENCE) }, since));
        self.learn_at = self.now;
        self.operator_settled();
    }

    /// True if the attachment of that epoch is this node's still: of this run, or of the one before, whose place it has not taken yet.
    fn goes_on(&self, since: Epoch) -> bool {
        let own = self.view.config.attached.get(&self.node).filter(|own| own.since == since);
        own.is_some() && (self.is_attached_here() || self.is_recovering())
    }

    /// A swap under way may attach this run all the same: then no front end will show itself, and the attachment ends as one does whose
    /// front end has not come back.
    fn give_up_attach(&mut self, error: CommandError) {
        let Some((pending, ..)) = self.operator.attach.take() else { return };
        if !self.is_attached_here() {
            self.front_seen = false;
        }
        self.answer(pending.command, Err(error));
    }

    fn on_detach(&mut self, command: CommandId) {
        if !self.is_attached_here() || self.operator.is_busy() {
            let reason = "the volume is not attached on this node, or another command is under way".into();
            return self.answer(command, Err(CommandError::AttachState { reason }));
        }
        self.operator.detach = Some(Pending { command, until: self.now.after(PATIENCE) });
    }

    fn on_resize(&mut self, command: CommandId, blocks: u64) {
        let now = self.view.config.size_blocks;
        if blocks < now {
            let reason =
                format!("size: {blocks} blocks of 4096 bytes is less than the present {now}; a volume can only grow");
            return self.answer(command, Err(CommandError::Invalid { reason }));
        }
        if self.operator.is_busy() {
            let reason = "another attach, detach or resize is under way on this node".into();
            return self.answer(command, Err(CommandError::Forbidden { reason }));
        }
        self.operator.resize = Some((Pending { command, until: self.now.after(PATIENCE) }, blocks));
        self.operator_view_changed();
    }

    fn on_set(&mut self, command: CommandId, setting: Setting) {
        if self.operator.is_busy() {
            let reason = "another attach, detach or change is under way on this node".into();
            return self.answer(command, Err(CommandError::Forbidden { reason }));
        }
        // Nobody else hears when all have installed a view.
        if self.view.members().get(&self.node) != Some(&self.incarnation) {
            let reason =
                "this node is no member of the volume: ask one that has a replica in sync, or the volume attached"
                    .into();
            return self.answer(command, Err(CommandError::Forbidden { reason }));
        }
        self.operator.setting = Some((Pending { command, until: self.now.after(PATIENCE) }, setting));
        self.operator_view_changed();
    }

    /// Swaps that commands under way want.
    pub(super) fn wanted_of_operator(&mut self) -> Option<Change> {
        let node = self.node;
        if let Some((_, attachment, _)) = self.operator.attach {
            // First it has to be decided what the replica of this node's earlier run counts for.
            if self.known.in_sync.get(&node).is_some_and(|run| *run != self.incarnation) {
                return None;
            }
            let in_sync = self.view.is_in_sync(node, self.incarnation);
            let through_peer = match self.broken(broken!(JoinsUnheard)) {
                true => self.view.nodes(self.view.in_sync).any(|n| n != node && self.session_is_listed(n)),
                false => self.is_answered_by_all(),
            };
            // As long as another writer is known there is nothing to swap; its end changes what is known.
            let holder = self.known.other_writer(node).filter(|_| attachment.mode == AttachMode::ReadWrite);
            let held = holder.is_some();
            if held {
                self.tell_attach_wanted();
            }
            if let (Some(holder), Some((pending, _, false))) = (holder, self.operator.attach) {
                self.operator.attach = None;
                self.answer(pending.command, Err(CommandError::AttachedElsewhere { holder }));
                return None;
            }
            let same = |a: &Attachment| Attachment { since: a.since, ..attachment } == *a;
            let listed = self.known.attached.get(&node).is_some_and(same);
            return ((in_sync || through_peer) && !held && !listed).then_some(Change::Attach { node, attachment });
        }
        if self.operator.detach.is_some() {
            let quiet = self.window.is_empty()
                && self.waiting.is_empty()
                && self.flush.as_ref().is_none_or(|f| f.requests.is_empty());
            return quiet.then_some(Change::Detach { node, incarnation: self.incarnation });
        }
        if self.is_forsaken() {
            return Some(Change::Detach { node, incarnation: self.incarnation });
        }
        if let Some((_, setting)) = self.operator.setting {
            return Some(Change::Set(setting));
        }
        if let Some((_, wanted)) = self.operator.members {
            return self.wanted_members(wanted);
        }
        let (_, blocks) = self.operator.resize?;
        Some(Change::Resize { blocks })
    }

    /// Only replicas in sync expel a silent writer, and they take their time while nobody waits for its place.
    fn tell_attach_wanted(&mut self) {
        if !self.operator.takes_over() || self.now < self.operator.tell_at {
            return;
        }
        self.operator.tell_at = self.now.after(self.timing.retry);
        let replicas: Vec<NodeId> = self.view.nodes(self.view.in_sync).filter(|node| *node != self.node).collect();
        for node in replicas {
            self.send(node, Message::AttachWanted, None);
        }
    }

    pub(super) fn on_attach_wanted(&mut self) {
        if !self.broken(broken!(WantedUnheard)) {
            self.operator.wanted_until = self.now.after(self.timing.retry * 4);
        }
    }

    /// True if this run took an attachment over from its predecessor, and the front end has not come back: whoever wants the
    /// volume elsewhere would wait for nothing.
    fn is_forsaken(&self) -> bool {
        let waited = self.now.since(self.attached_at) >= self.timing.restart_hold;
        self.is_attached_here() && !self.front_seen && waited && self.operator.resume.is_none()
    }

    /// A round for one of these ended.
    pub(super) fn operator_change_ended(&mut self, change: &Change, outcome: &Outcome) {
        match (change, outcome) {
            (Change::Attach { .. }, Outcome::Held(holder)) => {
                if let Some((pending, _, false)) = self.operator.attach {
                    self.operator.attach = None;
                    self.answer(pending.command, Err(CommandError::AttachedElsewhere { holder: *holder }));
                }
            }
            (Change::Members { wanted, .. }, Outcome::Impossible(why)) => {
                if let Some((pending, _)) = self.operator.members.take_if(|(_, asked)| *asked == *wanted) {
                    self.answer(pending.command, Err(Self::members_refused(*wanted, why)));
                }
            }
            _ => self.operator_view_changed(),
        }
    }

    /// Looks whether what was asked for is so now.
    pub(super) fn operator_view_changed(&mut self) {
        self.operator_settled();
        if let Some(pending) = self.operator.detach
            && !self.view.config.is_attached(self.node, self.incarnation)
        {
            self.operator.detach = None;
            self.answer(pending.command, Ok(Reply::Done));
        }
        if let Some((pending, blocks)) = self.operator.resize
            && self.view.config.size_blocks >= blocks
        {
            self.operator.resize = None;
            self.answer(pending.command, Ok(Reply::Done));
        }
        if let Some((pending, wanted)) = self.operator.members
            && wanted.is_done(&self.view.config)
        {
            self.operator.members = None;
            self.answer(pending.command, Ok(Reply::Done));
        }
        if let Some(command) = self.operator.generation
            && self.known.generation == self.view.config.generation
            && self.adopting.is_none()
        {
            self.operator.generation = None;
            self.answer(command, Ok(Reply::Done));
        }
    }

    /// An attachment is ready once its view is installed everywhere and what was in flight before is settled; a setting is changed once
    /// its view is installed everywhere.
    pub(super) fn operator_settled(&mut self) {
        if let Some((pending, _, _)) = self.operator.attach
            && self.is_attached_here()
            && self.reports_in
            && self.reconciled
        {
            self.operator.attach = None;
            self.front_seen = true;
            self.answer(pending.command, Ok(Reply::Done));
        }
        // A writer that has not installed it yet goes by the old one.
        let everywhere = self.reports_in || self.broken(broken!(SetBeforeInstalled));
        if let Some((pending, setting)) = self.operator.setting
            && everywhere
            && setting.is_of(&self.view.config)
        {
            self.operator.setting = None;
            self.answer(pending.command, Ok(Reply::Done));
        }
        let Some((pending, since)) = self.operator.resume else { return };
        if !self.goes_on(since) {
            self.operator.resume = None;
            let reason = "the attachment has ended meanwhile".into();
            self.answer(pending.command, Err(CommandError::Forbidden { reason }));
        } else if self.is_attached_here() && self.reports_in && self.reconciled {
            self.operator.resume = None;
            self.front_seen = true;
            self.answer(pending.command, Ok(Reply::Done));
        }
    }

    /// Maintenance: gives commands up that cannot be carried out.
    pub(super) fn check_commands(&mut self) {
        let no_quorum = self.proposer.failures > 0;
        if let Some((pending, attachment, _)) = self.operator.attach
            && pending.until <= self.now
        {
            let writer = self.known.other_writer(self.node).filter(|_| attachment.mode == AttachMode::ReadWrite);
            self.give_up_attach(match writer {
                Some(holder) => CommandError::AttachedElsewhere { holder },
                None if no_quorum => CommandError::NoQuorum,
                None => CommandError::NoUpToDateReplica,
            });
        }
        let now = self.now;
        let late = |p: &Pending| p.until <= now;
        if let Some((pending, _)) = self.operator.resume.filter(|(p, _)| late(p)) {
            self.operator.resume = None;
            let error = if no_quorum { CommandError::NoQuorum } else { CommandError::NoUpToDateReplica };
            self.answer(pending.command, Err(error));
        }
        if let Some(pending) = self.operator.detach.filter(late) {
            self.operator.detach = None;
            self.answer(pending.command, Err(CommandError::NoQuorum));
        }
        if let Some((pending, _)) = self.operator.setting.filter(|(p, _)| late(p)) {
            self.operator.setting = None;
            self.answer(pending.command, Err(CommandError::NoQuorum));
        }
        if let Some((pending, wanted)) = self.operator.members.filter(|(p, _)| late(p)) {
            self.operator.members = None;
            let error = self.members_late(wanted);
            self.answer(pending.command, Err(error));
        }
        if let Some((pending, _)) = self.operator.resize.filter(|(p, _)| late(p)) {
            self.operator.resize = None;
            self.answer(pending.command, Err(CommandError::NoQuorum));
        }
    }

    /// The only unproven step: this replica's data counts from now on, in a generation of its own.
    fn on_force(&mut self, command: CommandId) {
        if self.has_register() {
            let reason = "a Lease keeps this volume's configuration: what it says cannot be overruled from here".into();
            return self.answer(command, Err(CommandError::Forbidden { reason }));
        }
        if !self.can_hold_data() {
            let reason = "this node has no usable replica of the volume".into();
            return self.answer(command, Err(CommandError::Forbidden { reason }));
        }
        let old = self.known.clone();
        let (node, incarnation) = (self.node, self.incarnation);
        let minted = incarnation.0.rotate_left(17) ^ (u64::from(node.0) << 48) ^ old.epoch.0;
        let voter = VoterId(incarnation.0.wrapping_mul(1_000_003).wrapping_sub(old.epoch.0));
        let mut last_in_sync = old.last_in_sync.clone();
        for other in old.in_sync.keys().filter(|n| **n != node) {
            last_in_sync.insert(*other, old.epoch);
        }
        last_in_sync.remove(&node);
        let generation = if self.broken(broken!(ForceWithoutGeneration)) {
            old.generation
        } else {
            Generation { id: minted, parent: old.generation.id }
        };
        let config = Config {
            generation,
            epoch: Epoch(old.epoch.0 + 1),
            voters: BTreeMap::from([(node, voter)]),
            in_sync: BTreeMap::from([(node, incarnation)]),
            joining: BTreeMap::new(),
            attached: BTreeMap::new(),
            last_in_sync,
            ..old
        };
        let promised = self.meta.voter.as_ref().map(|v| v.promised).unwrap_or_default();
        let accepted = Some((Ballot::default(), Box::new(config.clone())));
        self.persist(Vec::from([MetaUpdate::Voter(VoterState { id: voter, promised, accepted })]), None);
        self.marks.clear();
        self.change_generation(config, command);
    }

    /// Takes part in the generation that a peer has; everything is compared with its replicas.
    fn on_rejoin(&mut self, command: CommandId) {
        let Some(config) = self.peers.values_mut().find_map(|p| p.diverged.take()) else {
            let reason = "no reachable peer has another generation of this volume".into();
            return self.answer(command, Err(CommandError::Forbidden { reason }));
        };
        let marked: BTreeSet<_> = core::mem::take(&mut self.marks);
        let mut updates: Vec<MetaUpdate> = marked.into_iter().map(|(n, i)| MetaUpdate::LeftEnded(n, i)).collect();
        if self.meta.has_data {
            updates.push(MetaUpdate::DirtyBegin { peer: self.node, since: Epoch(0) });
        }
        // A vote that the other generation has taken over already is named by its configurations: it stays as it is.
        let other =
            |voter: &VoterState| voter.accepted.as_ref().is_some_and(|(_, c)| c.generation != config.generation);
        if let Some(voter) = self.meta.voter.as_ref().filter(|voter| other(voter)) {
            let accepted = Some((Ballot::default(), config.clone()));
            updates.push(MetaUpdate::Voter(VoterState { id: VoterId(0), promised: voter.promised, accepted }));
        }
        self.persist(updates, None);
        self.fail_all(crate::input::IoError::Io);
        self.change_generation(*config, command);
    }

    /// Another generation is to be installed. Nothing that is on its way between this node and its peers belongs to it.
    fn change_generation(&mut self, config: Config, command: CommandId) {
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in peers {
            self.end_session(node);
        }
        self.proposer = super::arbiter::Proposer::default();
        self.adopting = None;
        self.known = config;
        self.operator.generation = Some(command);
    }
}
