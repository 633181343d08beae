//! This node's parts: what the MirrorReplicas want is made, grown and taken away, and each says how its part is.
//!
//! One look at the engine a quarter of a second, on the same machine; only what changed goes to the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use lockstep_api::{MirrorReplica, ReplicaRole};
use lockstep_proto::node::v1 as proto;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster_agent::ClusterAgent;
use super::events::{happened, newer};
use super::health::Health;
use super::part_status::{Known, is_worth_sending, part_status};
use super::part_step::{Facts, Step, is_changer, plan_step, surplus_member, wanted_setting};
use super::part_work::Work;
use crate::failure::{Failure, Kind};

/// How often the engine is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long an attachment that nobody uses is kept: whoever made it may be about to attach, or kubelet to stage again.
const ABANDON_AFTER: Duration = Duration::from_secs(60);

/// How long the engine may have a volume that no object wants before that is told: the watch may be late.
const UNWANTED_AFTER: Duration = Duration::from_secs(10);

/// What failed is tried again after this long, then after twice as long each time, up to the longest.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_LONGEST: Duration = Duration::from_secs(30);

/// Parts that are made or taken away at once.
const WORK_AT_ONCE: usize = 8;

/// Something that was tried and did not succeed.
#[derive(Debug)]
struct Tried {
    failure: Failure,
    wait: Duration,
    not_before: Instant,
}

/// What is remembered from look to look, by the names of the objects.
#[derive(Default)]
pub(super) struct Parts {
    work: JoinSet<(String, Result<(), Failure>)>,
    busy: BTreeSet<String>,
    /// Objects that are let go, or were, by their UIDs: the watch may show them a moment longer, when another of their name is there.
    let_go: BTreeMap<String, Option<String>>,
    tried: BTreeMap<String, Tried>,
    sent: BTreeMap<String, Instant>,
    unused: BTreeMap<String, Instant>,
    /// Limits of resync that the engine was told, with its run.
    limits: BTreeMap<String, (u64, u64)>,
    /// Since when the engine has had volumes that no object wants.
    unwanted: BTreeMap<String, Instant>,
    /// The newest event of each volume when it was looked last.
    events: BTreeMap<String, Option<proto::VolumeEvent>>,
}

/// The engine at one look.
struct Look {
    identity: proto::EngineIdentity,
    volumes: BTreeMap<String, proto::VolumeStatus>,
    /// Why replicas cannot be made or found now.
    pool: Result<(), String>,
    pool_wanted: bool,
}

impl ClusterAgent {
    /// Until it is dropped.
    pub(super) async fn keep_parts(self: &Arc<Self>, health: &Health) {
        let mut parts = Parts::default();
        let mut changes = self.objects.parts.changes();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Ok(()) = changes.changed() => {}
                Some(done) = parts.work.join_next() => parts.on_done(done),
            }
            while let Some(done) = parts.work.try_join_next() {
                parts.on_done(done);
            }
            health.beat();
            let look = self.look().await;
            self.tell_events(&mut parts, look.as_ref());
            // Before everything was listed, an object that is not known may be there.
            if self.objects.parts.is_listed() {
                let objects = self.objects.parts.all();
                parts.forget_all_but(&objects);
                self.note_unwanted(&mut parts, &objects, look.as_ref());
                for object in objects {
                    self.keep_part(&mut parts, &object, look.as_ref());
                }
            }
        }
    }

    /// The engine now; `None`: it does not answer.
    async fn look(&self) -> Option<Look> {
        let identity = self.agent.identity().await.ok()?;
        self.engine.see(identity.clone());
        if !identity.ready || identity.node_id != self.agent.me().id {
            return None;
        }
        let listed = self.agent.list_here().await.ok()?;
        let volumes = listed.into_iter().map(|status| (status.volume.clone(), status)).collect();
        let pool = match self.agent.describe_pool() {
            None => Err("this node has none".to_owned()),
            Some(pool) if !pool.ready && !pool.reason.is_empty() => Err(pool.reason),
            _ if identity.pool.is_empty() => Err("the engine has not taken it yet".to_owned()),
            Some(_) => Ok(()),
        };
        let pool_wanted = self.agent.cluster().this.pool.is_some();
        Some(Look { identity, volumes, pool, pool_wanted })
    }

    fn keep_part(self: &Arc<Self>, parts: &mut Parts, object: &Arc<MirrorReplica>, look: Option<&Look>) {
        let Some(name) = object.metadata.name.clone() else { return };
        let Some(look) = look else {
            // What was told of it before stays: that the engine is down is told of the node.
            if object.status.is_none() {
                self.report(parts, object, Known::Pending("the engine of this node does not answer"));
            }
            return;
        };
        let volume = &object.spec.volume;
        let engine = look.volumes.get(volume);
        let facts = Facts {
            engine,
            pool: look.pool.as_ref().copied().map_err(String::as_str),
            pool_wanted: look.pool_wanted,
            unused: object.spec.role == ReplicaRole::Attachment && self.is_unused(parts, &name, volume, engine),
        };
        let step = plan_step(object, facts);
        let work = match &step {
            Step::Make => Some(Work::Make),
            Step::Admit => Some(Work::Admit),
            Step::Join => Some(Work::Join),
            Step::Delete => Some(Work::Delete),
            Step::Abandon => Some(Work::Abandon),
            Step::Nothing => engine.and_then(|engine| parts.wish(object, engine, look.identity.incarnation)),
            Step::Lost(_) | Step::Taken | Step::Wait(_) => None,
        };
        match work {
            Some(work) => self.begin(parts, &name, object, work),
            None if !parts.busy.contains(&name) => drop(parts.tried.remove(&name)),
            None => {}
        }
        let tried = parts.tried.get(&name).map(|tried| (tried.failure.kind, tried.failure.message.clone()));
        let why = tried.as_ref().map_or("", |(_, message)| message.as_str());
        let known = match (&step, engine) {
            (Step::Wait(reason), _) if object.metadata.deletion_timestamp.is_some() => Known::Deleting(reason),
            (Step::Delete, _) => Known::Deleting(why),
            (Step::Lost(reason), _) => Known::Lost(reason),
            (Step::Taken, _) => Known::Failed("another volume bears this name on the node"),
            (Step::Wait(reason), _) => Known::Pending(reason),
            (Step::Make | Step::Admit | Step::Join, None) => match tried {
                Some((Kind::StateForbids | Kind::WrongInput, ref message)) => Known::Failed(message),
                _ => Known::Pending(why),
            },
            (_, Some(engine)) => Known::Engine(engine),
            // It goes, or waits to be used again.
            (Step::Nothing | Step::Abandon, None) => return,
        };
        self.report(parts, object, known);
    }

    fn report(&self, parts: &mut Parts, object: &MirrorReplica, known: Known<'_>) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let old = object.status.clone().unwrap_or_default();
        let new = part_status(object, known, &Time(Timestamp::now()));
        let since = parts.sent.get(&name).map_or(Duration::MAX, Instant::elapsed);
        if is_worth_sending(&old, &new, since) {
            self.part_reports.put(object, &new);
            parts.sent.insert(name, Instant::now());
        } else if old == new {
            self.part_reports.take_back(&name);
        }
    }

    /// Whether nobody has used an attachment for long.
    fn is_unused(&self, parts: &mut Parts, name: &str, volume: &str, engine: Option<&proto::VolumeStatus>) -> bool {
        let this = engine.and_then(|engine| engine.this_node.as_ref());
        let is_attached = |this: &proto::ThisNode| {
            let mode = this.attached();
            !matches!(mode, proto::AttachMode::Unspecified | proto::AttachMode::None) || !this.device.is_empty()
        };
        let opening = engine.is_some_and(|engine| engine.state() == proto::VolumeState::Starting);
        if self.in_use.contains(volume) || opening || this.is_some_and(is_attached) {
            parts.unused.remove(name);
            return false;
        }
        let unused_for = parts.unused.entry(name.to_owned()).or_insert_with(Instant::now).elapsed();
        unused_for >= ABANDON_AFTER || self.in_use.is_given_up(volume)
    }

    fn begin(self: &Arc<Self>, parts: &mut Parts, name: &str, object: &Arc<MirrorReplica>, work: Work) {
        let too_early = parts.tried.get(name).is_some_and(|tried| Instant::now() < tried.not_before);
        if too_early || parts.busy.contains(name) || parts.busy.len() >= WORK_AT_ONCE {
            return;
        }
        if work == Work::Delete {
            let uid = object.metadata.uid.clone();
            if parts.let_go.get(name) == Some(&uid) {
                return;
            }
            parts.let_go.insert(name.to_owned(), uid);
        }
        parts.busy.insert(name.to_owned());
        let (shell, object, name) = (Arc::clone(self), Arc::clone(object), name.to_owned());
        parts.work.spawn(async move {
            let done = shell.carry_out(&object, &work).await;
            if let Err(failure) = &done {
                tracing::warn!(volume = object.spec.volume, ?work, %failure, "part_not_as_wanted");
            }
            (name, done)
        });
    }

    /// A part that no object wants any more, as after a restored backup of the API server's store, is told and never deleted: somebody who
    /// knows what happened has to.
    fn note_unwanted(&self, parts: &mut Parts, objects: &[Arc<MirrorReplica>], look: Option<&Look>) {
        let Some(look) = look else { return };
        let wanted: BTreeSet<&str> = objects.iter().map(|object| object.spec.volume.as_str()).collect();
        parts.unwanted.retain(|volume, _| look.volumes.contains_key(volume) && !wanted.contains(volume.as_str()));
        for volume in look.volumes.keys().filter(|volume| !wanted.contains(volume.as_str())) {
            parts.unwanted.entry(volume.clone()).or_insert_with(Instant::now);
        }
        let old = parts.unwanted.iter().filter(|(_, since)| since.elapsed() >= UNWANTED_AFTER);
        *self.unwanted.lock().unwrap_or_else(PoisonError::into_inner) = old.map(|(volume, _)| volume.clone()).collect();
    }

    /// Tells what happened since the last look. What happened before the first one was told by the agent's earlier run, if by anybody.
    fn tell_events(&self, parts: &mut Parts, look: Option<&Look>) {
        for (volume, status) in look.iter().flat_map(|look| &look.volumes) {
            let last = status.events.last().cloned();
            let Some(known) = parts.events.insert(volume.clone(), last) else { continue };
            for event in newer(&status.events, known.as_ref()) {
                if let Some(happened) = happened(event, status, &self.objects.me) {
                    self.events.tell(happened);
                }
            }
        }
    }
}

impl Parts {
    fn on_done(&mut self, done: Result<(String, Result<(), Failure>), tokio::task::JoinError>) {
        let (name, result) = match done {
            Ok(done) => done,
            Err(error) => return tracing::error!(%error, "work_on_a_part_panicked"),
        };
        self.busy.remove(&name);
        match result {
            Ok(()) => drop(self.tried.remove(&name)),
            Err(failure) => {
                self.let_go.remove(&name);
                let wait = self.tried.get(&name).map_or(AGAIN, |tried| (tried.wait * 2).min(AGAIN_LONGEST));
                self.tried.insert(name, Tried { failure, wait, not_before: Instant::now() + wait });
            }
        }
    }

    /// What a part that is there should be otherwise.
    fn wish(&mut self, object: &MirrorReplica, engine: &proto::VolumeStatus, incarnation: u64) -> Option<Work> {
        if engine.epoch == 0 {
            return None;
        }
        let (spec, me) = (&object.spec, &object.spec.node_name);
        let size_bytes = spec.size_bytes.and_then(|size| u64::try_from(size).ok());
        if let Some(size_bytes) = size_bytes.filter(|size| *size > engine.size_bytes && is_changer(engine, me)) {
            return Some(Work::Resize { size_bytes });
        }
        if let Some(work) = wanted_setting(spec, engine, me) {
            return Some(work);
        }
        if let Some(node_id) = surplus_member(spec, engine) {
            return Some(Work::Remove { node_id });
        }
        let rate = u64::try_from(spec.resync_rate).unwrap_or(0);
        let name = object.metadata.name.clone().unwrap_or_default();
        let told = self.limits.get(&name).filter(|told| told.0 == incarnation).map_or(0, |told| told.1);
        if rate == told {
            return None;
        }
        // Told again if it fails: then the engine has another run, or nothing to limit.
        self.limits.insert(name, (incarnation, rate));
        Some(Work::LimitResync { bytes_per_second: rate })
    }

    fn forget_all_but(&mut self, objects: &[Arc<MirrorReplica>]) {
        let names: BTreeSet<&str> = objects.iter().filter_map(|object| object.metadata.name.as_deref()).collect();
        self.tried.retain(|name, _| names.contains(name.as_str()));
        self.sent.retain(|name, _| names.contains(name.as_str()));
        self.let_go.retain(|name, _| names.contains(name.as_str()));
        self.unused.retain(|name, _| names.contains(name.as_str()));
        self.limits.retain(|name, _| names.contains(name.as_str()));
    }
}
