//! Conditions on what machines do, so that a fault can strike in the middle of a protocol.

use lockstep_core::{Message, MetaUpdate, NodeId};

use super::World;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// A frame of this kind is sent by the node.
    Sends(NodeId, &'static str),
    /// A frame of this kind arrives at the node.
    Receives(NodeId, &'static str),
    /// An update of this kind is submitted by the node.
    Persists(NodeId, &'static str),
}

/// A pattern and what happens when it is met.
pub struct Trigger {
    /// What is waited for.
    pub pattern: Pattern,
    /// How often it must be met still.
    pub count: u32,
    /// How long after that.
    pub delay: u64,
    /// What is done.
    pub action: Option<Box<dyn FnOnce(&mut World)>>,
}

/// Kinds of frames that random faults may wait for.
pub const FRAME_KINDS: [&str; 22] = [
    "Hello",
    "Install",
    "Installed",
    "Prepare",
    "Promise",
    "Accept",
    "Accepted",
    "Write",
    "WriteAck",
    "Flush",
    "FlushAck",
    "Commit",
    "MapAsk",
    "MapPart",
    "Pull",
    "Pulled",
    "PulledDurable",
    "RollForward",
    "ReconcileDone",
    "Digests",
    "Read",
    "CommitWanted",
];

/// Kinds of frames of policing that random faults may wait for.
pub const GRANT_KINDS: [&str; 4] = ["GrantAsk", "Granted", "Recall", "Released"];

/// Kinds of updates that random faults may wait for.
pub const UPDATE_KINDS: [&str; 8] =
    ["Started", "Config", "Voter", "IntentSet", "IntentClear", "DirtyBegin", "DirtyChunk", "DirtyEnd"];

/// Name of a message's kind.
#[must_use]
pub fn frame_kind(message: &Message) -> &'static str {
    match message {
        Message::Heartbeat { .. } => "Heartbeat",
        Message::HeartbeatAnswer { .. } => "HeartbeatAnswer",
        Message::Hello { .. } => "Hello",
        Message::ExitReport { .. } => "ExitReport",
        Message::Prepare { .. } => "Prepare",
        Message::Promise { .. } => "Promise",
        Message::Accept { .. } => "Accept",
        Message::Accepted { .. } => "Accepted",
        Message::NoVote { .. } => "NoVote",
        Message::VoterAdmit { .. } => "VoterAdmit",
        Message::VoterAdmitted { .. } => "VoterAdmitted",
        Message::Install { .. } => "Install",
        Message::Installed { .. } => "Installed",
        Message::GrantAsk { .. } => "GrantAsk",
        Message::Granted { .. } => "Granted",
        Message::Recall { .. } => "Recall",
        Message::Released { .. } => "Released",
        Message::Write { .. } => "Write",
        Message::WriteAck { .. } => "WriteAck",
        Message::WriteRefused { .. } => "WriteRefused",
        Message::Commit { .. } => "Commit",
        Message::CommitWanted => "CommitWanted",
        Message::Flush { .. } => "Flush",
        Message::FlushAck { .. } => "FlushAck",
        Message::Read { .. } => "Read",
        Message::ReadReply { .. } => "ReadReply",
        Message::ReadRefused { .. } => "ReadRefused",
        Message::DigestAsk { .. } => "DigestAsk",
        Message::Digests { .. } => "Digests",
        Message::RollForward { .. } => "RollForward",
        Message::RollForwardAck { .. } => "RollForwardAck",
        Message::ReconcileDone => "ReconcileDone",
        Message::MapAsk { .. } => "MapAsk",
        Message::MapPart { .. } => "MapPart",
        Message::Pull { .. } => "Pull",
        Message::Pulled { .. } => "Pulled",
        Message::PulledDurable { .. } => "PulledDurable",
        Message::LeaveAsk => "LeaveAsk",
        Message::LeaveAnswer { .. } => "LeaveAnswer",
        Message::Goodbye { .. } => "Goodbye",
        Message::GoodbyeSeen => "GoodbyeSeen",
        Message::AttachWanted => "AttachWanted",
    }
}

/// Name of an update's kind.
#[must_use]
pub fn update_kind(update: &MetaUpdate) -> &'static str {
    match update {
        MetaUpdate::Started { .. } => "Started",
        MetaUpdate::Config(_) => "Config",
        MetaUpdate::Left(..) => "Left",
        MetaUpdate::LeftEnded(..) => "LeftEnded",
        MetaUpdate::Voter(_) => "Voter",
        MetaUpdate::IntentSet(_) => "IntentSet",
        MetaUpdate::IntentClear(_) => "IntentClear",
        MetaUpdate::DirtyBegin { .. } => "DirtyBegin",
        MetaUpdate::DirtyChunk { .. } => "DirtyChunk",
        MetaUpdate::DirtyEnd(_) => "DirtyEnd",
        MetaUpdate::Failed(_) => "Failed",
        MetaUpdate::Emptied => "Emptied",
        MetaUpdate::Removed => "Removed",
    }
}

impl World {
    /// Waits for a pattern.
    pub fn when(&mut self, pattern: Pattern, count: u32, delay: u64, action: Box<dyn FnOnce(&mut World)>) {
        self.triggers.push(Trigger { pattern, count, delay, action: Some(action) });
    }

    pub(super) fn match_sent(&mut self, id: NodeId, message: &Message) {
        if !self.triggers.is_empty() {
            self.meet(Pattern::Sends(id, frame_kind(message)));
        }
    }

    pub(super) fn match_received(&mut self, id: NodeId, message: &Message) {
        if !self.triggers.is_empty() {
            self.meet(Pattern::Receives(id, frame_kind(message)));
        }
    }

    pub(super) fn match_persist(&mut self, id: NodeId, updates: &[MetaUpdate]) {
        if !self.triggers.is_empty() {
            for update in updates {
                self.meet(Pattern::Persists(id, update_kind(update)));
            }
        }
    }

    fn meet(&mut self, pattern: Pattern) {
        let mut due = Vec::new();
        for trigger in self.triggers.iter_mut().filter(|trigger| trigger.pattern == pattern) {
            trigger.count = trigger.count.saturating_sub(1);
            if trigger.count == 0 {
                due.extend(trigger.action.take().map(|action| (trigger.delay, action)));
            }
        }
        self.triggers.retain(|trigger| trigger.action.is_some());
        for (delay, action) in due {
            self.later(delay, action);
        }
    }
}
