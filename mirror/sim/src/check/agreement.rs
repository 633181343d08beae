//! One configuration per epoch (I8), the highest one durable before anything is acknowledged in it (I11), write intent
//! durable before the write, generations that meet only by an operator's decision (I12).

use lockstep_core::range::{region_blocks, regions};
use lockstep_core::status::DiskState;
use lockstep_core::{BlockRange, Command, Config, Frame, MetaUpdate, NodeId};

use crate::failure::Failure;
use crate::world::World;

impl World {
    /// A node wants these updates durable.
    pub(crate) fn check_persist(&mut self, id: NodeId, updates: &[MetaUpdate]) {
        for update in updates {
            if let MetaUpdate::Config(config) = update {
                self.check_config(id, config);
            }
        }
    }

    fn check_config(&mut self, id: NodeId, config: &Config) {
        self.checks.looks += 1;
        let now = self.now;
        if let Err(reason) = config.check() {
            self.fail(Failure::correctness("configuration", now, format!("node {id} installs one with {reason}")));
        }
        let Some(node) = self.nodes.get(&id) else { return };
        let before = &node.store.durable().config;
        if before.generation == config.generation {
            if config.epoch < before.epoch {
                let what = format!("node {id} goes back from epoch {} to {}", before.epoch, config.epoch);
                self.fail(Failure::correctness("I8", now, what));
                return;
            }
        } else if !self.asked.iter().any(|asked| matches!(asked.command, Command::Force | Command::Rejoin)) {
            let what = format!("node {id} changes from {:?} to {:?} by itself", before.generation, config.generation);
            self.fail(Failure::correctness("I12", now, what));
            return;
        }
        let key = (config.generation.id, config.epoch.0);
        match self.checks.configs.get(&key) {
            Some(known) if known != config => {
                let what =
                    format!("two configurations in epoch {}: {known:?} and, at node {id}, {config:?}", config.epoch);
                self.fail(Failure::correctness("I8", now, what));
            }
            Some(_) => {}
            None => {
                self.checks.configs.insert(key, config.clone());
                self.check_decided(config);
            }
        }
    }

    /// A configuration is seen for the first time.
    fn check_decided(&mut self, config: &Config) {
        let latest = &self.checks.latest;
        let follows = config.generation == latest.generation && config.epoch > latest.epoch;
        let forced = config.generation.parent == latest.generation.id;
        if !follows && !forced {
            return;
        }
        if self.plan.expect.keeps_replicas
            && let Some(node) = latest.in_sync.keys().find(|node| !config.in_sync.contains_key(node))
        {
            let what = format!("replica {node} was taken out in epoch {}, and nothing was wrong with it", config.epoch);
            self.fail(Failure::correctness("suspicion", self.now, what));
            return;
        }
        let before = std::mem::replace(&mut self.checks.latest, config.clone());
        if self.trace.wants_lines() {
            let line = format!(
                "DECIDED epoch {} replicas {:?} tie-breaker {:?} in_sync {:?} joining {:?} attached {:?} voters {:?}",
                config.epoch,
                config.replicas,
                config.tie_breaker,
                config.in_sync,
                config.joining,
                config.attached,
                config.voters
            );
            self.trace.line(self.now, &line);
        }
        self.check_members(&before);
        self.check_holders(&before);
        self.check_equality("a new configuration");
    }

    /// A node sends a frame.
    pub(crate) fn check_sent(&mut self, id: NodeId, frame: &Frame) {
        if frame.stamp.session.0 == 0 {
            return;
        }
        let Some(node) = self.nodes.get(&id) else { return };
        let durable = &node.store.durable().config;
        if frame.stamp.epoch > durable.epoch && !self.has_failed(id) {
            let what = format!(
                "node {id} sends {} in epoch {}, and only epoch {} is durable there",
                crate::world::frame_kind(&frame.message),
                frame.stamp.epoch,
                durable.epoch
            );
            self.fail(Failure::correctness("I11", self.now, what));
        }
    }

    /// True if a node's replica has failed: nothing of its own has to survive a restart any more, and if its metadata cannot
    /// be written either it votes no more.
    fn has_failed(&self, id: NodeId) -> bool {
        let machine = self.nodes.get(&id).and_then(|node| node.machine.as_ref());
        machine.is_some_and(|machine| matches!(machine.status().disk, DiskState::Failed(_)))
    }

    /// A node writes to its replica.
    pub(crate) fn check_disk_write(&mut self, id: NodeId, range: BlockRange) {
        let Some(node) = self.nodes.get(&id) else { return };
        let meta = node.store.durable();
        if range.end > self.plan.size_blocks.max(meta.config.size_blocks) {
            let what = format!("node {id} writes {range:?} beyond the volume's end");
            self.fail(Failure::correctness("contract", self.now, what));
            return;
        }
        let unit = region_blocks(meta.config.size_blocks);
        if let Some(region) = regions(range, unit).find(|region| !meta.intent.contains(region)) {
            let what = format!("node {id} writes {range:?}, and the write intent of {region:?} is not durable");
            self.fail(Failure::correctness("intent", self.now, what));
        }
    }
}
