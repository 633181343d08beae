//! Processes and hosts: start, kill, pause, power.

use lockstep_core::broken::Broken;
use lockstep_core::status::DiskState;
use lockstep_core::timing::MS;
use lockstep_core::{AttachMode, BootId, Incarnation, Input, NodeId, Policing, Setup};

use super::{Happening, World};
use crate::clock::Clock;
use crate::codec;

impl World {
    /// Starts a node's engine now, or as soon as what its predecessor wrote has landed.
    pub fn start(&mut self, id: NodeId) {
        self.schedule(0, Happening::Start { node: id });
    }

    pub(super) fn on_start(&mut self, id: NodeId) {
        let now = self.now;
        let skips_lock = self.plan.broken == Some(Broken::DeadProcessWritesUnderSuccessor);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.machine.is_some() || !node.host_up || node.held_down {
            return;
        }
        if node.disk.is_busy() && !skips_lock {
            // The lock on the replica's file is free only when all has landed.
            self.schedule(5 * MS, Happening::Start { node: id });
            return;
        }
        let meta = match codec::reread(node.store.durable(), now) {
            Ok(meta) => meta,
            Err(failure) => return self.fail(failure),
        };
        let stored = node.store.durable().incarnation.max(node.incarnation);
        // The creator of the volume has written the first incarnation of each node into the configuration.
        let first = std::mem::take(&mut node.fresh).then_some(stored);
        let incarnation = first.unwrap_or(Incarnation((stored.0 + 1).max(now / MS * 100 + u64::from(id.0))));
        node.incarnation = incarnation;
        node.run += 1;
        node.paused = false;
        node.running_since = now;
        node.tick_at = None;
        let setup = Setup {
            incarnation,
            boot: BootId(node.boot * 1_000 + u64::from(id.0)),
            meta,
            timing: self.plan.timing,
            broken: self.plan.broken,
        };
        let run = node.run;
        node.machine = Some((self.factory)(setup, node.clock.local(now)));
        if self.trace.wants_lines() {
            self.trace.line(now, &format!("{id} starts as {incarnation:?}"));
        }
        self.check_started(id);
        if self.plan.settings.policing != Policing::Peer {
            self.schedule(MS, Happening::Renew { node: id, run });
        }
        self.step(id, Input::Tick);
        self.return_front(id);
    }

    /// Kills a node's engine (SIGKILL); its supervisor may tell the peers.
    pub fn kill(&mut self, id: NodeId, restarting: bool) {
        if self.nodes.get(&id).is_none_or(|node| node.machine.is_none()) {
            return;
        }
        self.note(&format!("{id} is killed"));
        self.check_crash(id, false);
        let late = self.rng.skewed(1, 900 * MS);
        let now = self.now;
        let survives = restarting && self.plan.recoverable;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.machine = None;
        node.paused = false;
        node.backlog.clear();
        node.buffers.clear();
        node.store.crash(&mut self.disk_rng);
        node.orphans_until = now + late;
        let incarnation = node.incarnation;
        for (connection, side) in self.net.ends_of(id) {
            let mut due = Vec::new();
            self.net.close(connection, side, Some(true), true, now, &mut due);
            self.schedule_network(due);
        }
        self.lose_requests(id, survives);
        self.forget_asked(id);
        if self.plan.supervised {
            self.report_exit(id, incarnation, restarting);
        }
    }

    fn report_exit(&mut self, id: NodeId, incarnation: Incarnation, restarting: bool) {
        for to in self.plan.nodes.clone().into_iter().filter(|to| *to != id) {
            // Usually at once; sometimes so late that the successor runs already.
            let after = if self.rng.one_in(5) { self.rng.skewed(MS, 2_000 * MS) } else { self.rng.within(MS, 5 * MS) };
            self.schedule(after, Happening::ExitReport { to, node: id, incarnation, restarting, tries: 20 });
        }
    }

    pub(super) fn on_exit_report(
        &mut self,
        to: NodeId,
        id: NodeId,
        incarnation: Incarnation,
        restarting: bool,
        tries: u32,
    ) {
        let passes = [lockstep_core::Net::Dedicated, lockstep_core::Net::Ordinary]
            .into_iter()
            .any(|net| self.net.passes(id, to, net));
        if passes && self.nodes.get(&id).is_some_and(|node| node.host_up) {
            self.deliver(to, Input::ProcessExited { node: id, incarnation, restarting });
        } else if tries > 0 {
            let again = Happening::ExitReport { to, node: id, incarnation, restarting, tries: tries - 1 };
            self.schedule(200 * MS, again);
        }
    }

    /// Stops a node's process cleanly after it has left: its data is all durable.
    pub fn stop_cleanly(&mut self, id: NodeId) {
        self.note(&format!("{id} stops"));
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.machine = None;
        node.paused = false;
        node.backlog.clear();
        node.buffers.clear();
        node.store.crash(&mut self.disk_rng);
        node.orphans_until = 0;
        let incarnation = node.incarnation;
        for (connection, side) in self.net.ends_of(id) {
            let mut due = Vec::new();
            self.net.close(connection, side, Some(false), false, now, &mut due);
            self.schedule_network(due);
        }
        self.lose_requests(id, false);
        self.forget_asked(id);
        if self.plan.supervised {
            self.report_exit(id, incarnation, false);
        }
    }

    /// Stops a node's process (SIGSTOP).
    pub fn pause(&mut self, id: NodeId) {
        self.note(&format!("{id} is paused"));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.paused = node.machine.is_some();
        }
    }

    /// Lets a stopped process go on.
    pub fn resume(&mut self, id: NodeId) {
        let ticks_first = self.rng.one_in(2);
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.paused) else { return };
        node.paused = false;
        node.running_since = self.now;
        let mut inputs = std::mem::take(&mut node.backlog);
        self.note(&format!("{id} goes on, {} inputs waited", inputs.len()));
        if ticks_first {
            inputs.push_front(Input::Tick);
        } else {
            inputs.push_back(Input::Tick);
        }
        for input in inputs {
            self.deliver(id, input);
        }
    }

    /// Cuts a host's power.
    pub fn lose_power(&mut self, id: NodeId) {
        if !self.nodes.get(&id).is_some_and(|node| node.host_up) {
            return;
        }
        self.note(&format!("{id} loses its power"));
        self.check_crash(id, true);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.host_up = false;
        node.machine = None;
        node.paused = false;
        node.backlog.clear();
        node.buffers.clear();
        node.operations.clear();
        node.store.crash(&mut self.disk_rng);
        node.disk.lose_power(&mut self.disk_rng);
        node.orphans_until = 0;
        for (connection, side) in self.net.ends_of(id) {
            self.net.vanish(connection, side);
        }
        self.lose_requests(id, false);
        self.forget_asked(id);
        self.check_power_lost(id);
    }

    /// Gives a host its power back, with a clock that starts anew, and starts its engine.
    pub fn power_up(&mut self, id: NodeId) {
        self.boots += 1;
        let (boots, now) = (self.boots, self.now);
        let local = self.rng.skewed(1, 5_000 * MS);
        let rate = crate::clock::any_rate(&self.plan, &mut self.rng);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if !node.host_up {
            node.host_up = true;
            node.boot = boots + 1;
            node.clock = Clock::new(now, local, rate);
        }
        self.start(id);
    }

    /// Makes everything work again.
    pub fn heal(&mut self) {
        self.note("everything is healed");
        self.triggers.clear();
        self.mend_all();
        self.register.cut.clear();
        self.register.lag = 0;
        self.set_register(None, true);
        self.register.slowest = super::Register::USUAL;
        for id in self.plan.nodes.clone() {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.disk.faults = crate::disk::Faults::default();
                node.store.failing = false;
                node.held_down = false;
            }
            self.resume(id);
            self.restart_failed(id);
            self.power_up(id);
        }
    }

    /// A disk that failed only in its process's eyes (it was full, or was the last) is tried again by the next process.
    pub fn restart_failed(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let failed = node.machine.as_ref().is_some_and(|m| matches!(m.status().disk, DiskState::Failed(_)));
        if failed && node.store.durable().failed.is_none() {
            self.kill(id, false);
            self.start(id);
        }
    }

    /// A line in the log.
    pub fn note(&mut self, line: &str) {
        if self.trace.wants_lines() {
            self.trace.line(self.now, line);
        }
    }

    /// Whether a node should be attached by the plan, and how.
    #[must_use]
    pub fn wanted_mode(&self, id: NodeId) -> Option<AttachMode> {
        self.plan.attach.iter().find(|(node, _)| *node == id).map(|(_, mode)| *mode)
    }
}
