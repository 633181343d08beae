//! The operator: attaches what should be attached, and asks what scripts want asked.

use lockstep_core::timing::MS;
use lockstep_core::{Access, Ack, AttachMode, Command, CommandError, CommandId, Input, NodeId, Reply, Setting};

use super::{Happening, World};
use crate::plan::SECOND;

/// A command, and how it ended.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its name.
    pub id: CommandId,
    /// Where.
    pub node: NodeId,
    /// What.
    pub command: Command,
    /// When, world's time.
    pub at: u64,
    /// The answer; [`None`] while there is none.
    pub answer: Option<Result<Reply, CommandError>>,
    /// The process is gone: there will be no answer.
    pub lost: bool,
}

impl Asked {
    /// True if an answer may still come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.answer.is_none() && !self.lost
    }
}

/// An attachment that takes longer than this is asked for again elsewhere.
const ATTACH_PATIENCE: u64 = 12 * SECOND;

impl World {
    /// Asks a node's machine; gives the index in [`World::asked`].
    pub fn command(&mut self, node: NodeId, command: Command) -> usize {
        let id = CommandId(self.asked.len() as u64 + 1);
        let lost = self.nodes.get(&node).is_none_or(|node| node.machine.is_none());
        if command == Command::Set(Setting::Ack(Ack::Disk)) {
            self.checks.durable_writes = false;
        }
        self.asked.push(Asked { id, node, command: command.clone(), at: self.now, answer: None, lost });
        self.deliver(node, Input::Command { id, command });
        self.asked.len() - 1
    }

    /// The answer to a command, if it is there.
    #[must_use]
    pub fn answer(&self, index: usize) -> Option<&Result<Reply, CommandError>> {
        self.asked.get(index).and_then(|asked| asked.answer.as_ref())
    }

    pub(super) fn forget_asked(&mut self, id: NodeId) {
        for asked in self.asked.iter_mut().filter(|asked| asked.node == id && asked.answer.is_none()) {
            asked.lost = true;
        }
    }

    pub(super) fn on_answer(&mut self, id: NodeId, command: CommandId, result: Result<Reply, CommandError>) {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == command && asked.node == id) else { return };
        asked.answer = Some(result.clone());
        let asked = asked.command.clone();
        let is_done = result.is_ok();
        match asked {
            Command::Attach { mode, .. } if is_done => self.begin_attachment(id, mode),
            Command::Resume { .. } if is_done => {
                let mode = self.front(id).mode.unwrap_or(AttachMode::ReadWrite);
                self.begin_attachment(id, mode);
            }
            Command::Attach { .. } | Command::Resume { .. } if self.front(id).returning => self.end_attachment(id),
            Command::Detach if is_done => self.end_attachment(id),
            Command::Leave if is_done => {
                let after = self.rng.below(20 * MS);
                let down = self.nodes.get(&id).and_then(|node| node.down_for);
                self.later(after, Box::new(move |world| world.stop_cleanly(id)));
                if let Some(down) = down {
                    self.later(after + down, Box::new(move |world| world.start(id)));
                }
            }
            Command::Set(Setting::Ack(ack)) if is_done => self.checks.durable_writes = ack == Ack::Durable,
            Command::Resize { blocks } if is_done => self.plan.size_blocks = self.plan.size_blocks.max(blocks),
            _ => {}
        }
    }

    /// Asks a node to leave as planned; when it has, its process is stopped, and started again after this time.
    pub fn leave_and_stop(&mut self, node: NodeId, down: Option<u64>) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.down_for = down;
        }
        // The shell stops its front end before it leaves.
        if self.front(node).attachment.is_some() {
            self.command(node, Command::Detach);
        }
        self.command(node, Command::Leave);
    }

    /// Asks to be attached.
    pub fn attach(&mut self, node: NodeId, mode: AttachMode, take_over: bool) -> usize {
        let recoverable = self.plan.recoverable;
        let class = self.plan.classes.get(&node).copied();
        self.command(node, Command::Attach { mode, take_over, recoverable, class })
    }

    /// Looks after the attachments once in a while.
    pub(super) fn on_operator(&mut self) {
        let after = self.rng.within(40 * MS, 160 * MS);
        self.schedule(after, Happening::Operator);
        self.check_stalled();
        if !self.operator_on {
            return;
        }
        for (node, mode) in self.plan.attach.clone() {
            match mode {
                AttachMode::ReadWrite if self.plan.settings.access == Access::SingleWriter => {
                    self.look_after_writer(node);
                }
                mode => self.look_after_one(node, mode),
            }
        }
    }

    fn is_asking(&self, wanted: AttachMode, node: Option<NodeId>) -> bool {
        self.asked.iter().any(|asked| {
            asked.is_open()
                && node.is_none_or(|node| node == asked.node)
                && self.now - asked.at < ATTACH_PATIENCE
                && matches!(asked.command, Command::Attach { mode, .. } if mode == wanted)
        })
    }

    fn look_after_one(&mut self, node: NodeId, mode: AttachMode) {
        let running = self.nodes.get(&node).is_some_and(|node| node.is_running());
        if running && self.front(node).attachment.is_none() && !self.is_asking(mode, Some(node)) {
            self.attach(node, mode, false);
        }
    }

    fn look_after_writer(&mut self, home: NodeId) {
        if self.writer().is_some() || self.is_asking(AttachMode::ReadWrite, None) {
            return;
        }
        let mut places: Vec<NodeId> = self.checks.latest().replicas.iter().copied().collect();
        if !places.contains(&home) {
            places.push(home);
        }
        let readers: Vec<NodeId> =
            self.plan.attach.iter().filter(|(_, mode)| *mode == AttachMode::ReadOnly).map(|(node, _)| *node).collect();
        places.retain(|node| self.nodes.get(node).is_some_and(|node| node.is_running()) && !readers.contains(node));
        let at_home = !self.plan.moves_writer || self.rng.percent(40);
        let place = if at_home && places.contains(&home) { Some(home) } else { self.rng.pick(&places) };
        if let Some(place) = place.filter(|place| self.plan.moves_writer || *place == home) {
            self.attach(place, AttachMode::ReadWrite, true);
        }
    }
}
