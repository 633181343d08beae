//! Pods that are to end and cannot, because their volume waits: its requests are made to fail, so that they can.
//!
//! A process that waits for a device cannot be killed, and kubelet asks for nothing of the volume before it is. While a volume waits for a
//! quorum, or for an engine that is away, that may be for ever.
//!
//! ```text
//! the volume waits for 10 s -> all pods that use it here are gone, or should have been 10 s ago -> its device does not answer -> it fails
//! ```
//! All three have to hold. A device that answers is never touched, nor one of which a pod is left that nobody told to end. Whoever had been
//! told that something is safe was told so by all replicas that are in sync: they keep it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use lockstep_csi::volume::VolumeId;
use lockstep_proto::node::v1 as proto;
use tokio::time::Instant;

use super::attacher::Attacher;
use super::cluster_agent::ClusterAgent;
use super::events::Happened;
use super::objects::{RequestError, request};
use crate::csi::attach_port::Attach as _;
use crate::csi::users::{User, Users};
use crate::failure::chain;
use crate::host::block_device;

/// How often it is looked. Requests go to the API server only for volumes that wait.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a volume may wait before anything is done: an engine that is restarted is back by then, and a quorum that only moves is found.
const WAITS_FOR: Duration = Duration::from_secs(10);

/// How long beyond its grace period a pod is left to kubelet, which kills at the end of that.
const BEYOND_GRACE: Duration = Duration::from_secs(10);

/// A pod that says nothing of its grace period has this one: Kubernetes' own default.
const GRACE_DEFAULT: i64 = 30;

/// How long a device may take to answer a read.
const PROBE_WITHIN: Duration = Duration::from_secs(5);

/// A pod as the API server shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodSeen {
    /// Nobody told it to end, or nobody can say.
    Stays,
    /// It was told to end within this time.
    Ending(Duration),
    /// It is not there any more.
    Gone,
}

/// Watches over the pods of this node.
pub(super) struct EndingPods {
    agent: Arc<ClusterAgent>,
    attacher: Attacher,
    users: Users,
    /// Where the CSI services name devices.
    devices: PathBuf,
    memory: Memory,
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
struct Memory {
    /// Since when volumes have waited.
    waiting: BTreeMap<String, Instant>,
    /// Since when pods have been seen ending, by uid.
    ending: BTreeMap<String, Instant>,
    /// Volumes whose devices were failed, while they wait.
    failed: BTreeSet<String>,
}

impl EndingPods {
    pub(super) fn new(agent: Arc<ClusterAgent>, users: Users, devices: PathBuf) -> Self {
        Self { attacher: Attacher::new(Arc::clone(&agent)), agent, users, devices, memory: Memory::default() }
    }

    /// Until it is dropped.
    pub(super) async fn watch(mut self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let used = match self.users.volumes() {
                Ok(used) if used.is_empty() && self.memory.waiting.is_empty() => continue,
                Ok(used) => used,
                Err(error) => {
                    tracing::error!(%error, "users_of_volumes_not_readable");
                    continue;
                }
            };
            let listed = self.agent.agent.list_here().await.ok();
            let waiting = used.into_iter().filter(|volume| waits(volume, listed.as_deref())).collect();
            for volume in self.memory.waiting_long(&waiting, Instant::now()) {
                self.look_at(&volume).await;
            }
        }
    }

    async fn look_at(&mut self, volume: &str) {
        let users = match self.users.of(volume) {
            Ok(users) => users,
            Err(error) => return tracing::error!(volume, %error, "users_of_volume_not_readable"),
        };
        let mut seen = Vec::new();
        for user in users {
            let pod = self.see(&user).await;
            seen.push((user.uid, pod));
        }
        if !self.memory.should_have_ended(&seen, Instant::now()) {
            return;
        }
        let Some(id) = VolumeId::parse(volume) else { return };
        let Err(error) = block_device::probe(&self.devices.join(volume), PROBE_WITHIN).await else { return };
        let why = chain(&error);
        match self.attacher.fail_fast(&id).await {
            Ok(()) => {
                tracing::warn!(volume, why, "device_failed_for_ending_pods");
                self.memory.failed.insert(volume.to_owned());
                self.agent.events.tell(Happened::device_failed(volume, &self.agent.objects.me));
            }
            Err(error) => tracing::error!(volume, %error, "device_does_not_fail"),
        }
    }

    async fn see(&self, user: &User) -> PodSeen {
        let pods: Api<Pod> = Api::namespaced(self.agent.objects.client.clone(), &user.namespace);
        match request(pods.get(&user.name)).await {
            Ok(pod) if pod.uid().as_deref() != Some(&user.uid) => PodSeen::Gone,
            Ok(pod) => seen_as(&pod),
            Err(RequestError::Missing) => PodSeen::Gone,
            Err(error) => {
                tracing::info!(pod = user.name, namespace = user.namespace, %error, "pod_not_seen");
                PodSeen::Stays
            }
        }
    }
}

fn seen_as(pod: &Pod) -> PodSeen {
    if pod.metadata.deletion_timestamp.is_none() {
        return PodSeen::Stays;
    }
    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(GRACE_DEFAULT);
    PodSeen::Ending(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Whether nobody serves a volume's requests now, as far as the engine says; `None`: it does not answer.
fn waits(volume: &str, listed: Option<&[proto::VolumeStatus]>) -> bool {
    let Some(listed) = listed else { return true };
    let found = listed.iter().find(|status| status.volume == volume);
    found.is_none_or(|status| {
        matches!(
            status.state(),
            proto::VolumeState::Suspended | proto::VolumeState::Starting | proto::VolumeState::Failed
        )
    })
}

impl Memory {
    /// Of those that wait now, those that have waited long and were not failed yet.
    fn waiting_long(&mut self, waiting: &BTreeSet<String>, now: Instant) -> Vec<String> {
        self.waiting.retain(|volume, _| waiting.contains(volume));
        self.failed.retain(|volume| waiting.contains(volume));
        for volume in waiting {
            self.waiting.entry(volume.clone()).or_insert(now);
        }
        if self.waiting.is_empty() {
            self.ending.clear();
        }
        let long = |since: &Instant| now.duration_since(*since) >= WAITS_FOR;
        let due = self.waiting.iter().filter(|(volume, since)| long(since) && !self.failed.contains(*volume));
        due.map(|(volume, _)| volume.clone()).collect()
    }

    /// Whether all pods of a volume are gone or should be, and one is not.
    fn should_have_ended(&mut self, pods: &[(String, PodSeen)], now: Instant) -> bool {
        let mut all = true;
        let mut any = false;
        for (uid, pod) in pods {
            match pod {
                PodSeen::Gone => {}
                PodSeen::Stays => all = false,
                PodSeen::Ending(grace) => {
                    let since = *self.ending.entry(uid.clone()).or_insert(now);
                    any = true;
                    all &= now.duration_since(since) >= *grace + BEYOND_GRACE;
                }
            }
        }
        all && any
    }
}

#[cfg(test)]
mod tests {
    use super::{BEYOND_GRACE, Memory, PodSeen, WAITS_FOR, waits};
    use lockstep_proto::node::v1 as proto;
    use std::collections::BTreeSet;
    use std::slice::from_ref;
    use std::time::Duration;
    use tokio::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_volume_has_to_wait_for_long_without_a_break() {
        let mut memory = Memory::default();
        let (start, v) = (Instant::now(), BTreeSet::from(["v".to_owned()]));
        assert!(memory.waiting_long(&v, start).is_empty());
        assert!(memory.waiting_long(&v, start + WAITS_FOR - SECOND).is_empty());
        assert!(memory.waiting_long(&BTreeSet::new(), start + WAITS_FOR).is_empty(), "it was served");
        assert!(memory.waiting_long(&v, start + WAITS_FOR + SECOND).is_empty(), "it waits again");
        assert_eq!(memory.waiting_long(&v, start + 2 * WAITS_FOR + SECOND), ["v"]);
        memory.failed.insert("v".to_owned());
        assert!(memory.waiting_long(&v, start + 3 * WAITS_FOR).is_empty(), "once is enough");
    }

    #[test]
    fn every_pod_has_to_be_beyond_its_grace_period() {
        let mut memory = Memory::default();
        let start = Instant::now();
        let ending = ("1".to_owned(), PodSeen::Ending(30 * SECOND));
        let mut should = |pods: &[(String, PodSeen)], at| memory.should_have_ended(pods, at);
        let overdue = start + 30 * SECOND + BEYOND_GRACE;
        assert!(!should(from_ref(&ending), start));
        assert!(!should(from_ref(&ending), overdue - SECOND));
        assert!(should(from_ref(&ending), overdue));
        let with = |other| [ending.clone(), ("2".to_owned(), other)];
        assert!(!should(&with(PodSeen::Stays), overdue), "another pod goes on");
        assert!(!should(&with(PodSeen::Ending(SECOND)), overdue), "another was told only now");
        assert!(should(&with(PodSeen::Gone), overdue));
        assert!(!should(&[("1".to_owned(), PodSeen::Gone)], overdue), "nobody is left who waits");
        assert!(!should(&[], overdue));
    }

    #[test]
    fn a_volume_waits_unless_its_engine_says_that_it_serves() {
        let volume = |state: proto::VolumeState| {
            let mut status = proto::VolumeStatus { volume: "v".to_owned(), ..Default::default() };
            status.set_state(state);
            [status]
        };
        assert!(waits("v", None) && waits("v", Some(&[])));
        assert!(waits("v", Some(&volume(proto::VolumeState::Suspended))));
        assert!(!waits("v", Some(&volume(proto::VolumeState::Degraded))));
    }
}
