//! Events that people see on a claim, a pod or a node. Each reason is documented, and none comes more often than it can be read.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolumeClaim, Pod};
use kube::api::Api;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};
use lockstep_api::MirrorVolume;

use super::Leader;
use super::apply::send;
use crate::cluster::lock;
use crate::plan::transitions::Transition;

/// The same reason about the same object is not told again for so long.
const SAME_EVERY: Duration = Duration::from_secs(60);
/// So many events of all kinds may come at once,
const BURST: u32 = 50;
/// and one more each time this has passed: a cluster that is on fire needs no flood on top.
const ONE_EVERY: Duration = Duration::from_secs(2);

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    reason: &'static str,
    action: &'static str,
    message: String,
    warning: bool,
}

impl Note {
    pub(super) fn warning(reason: &'static str, action: &'static str, message: String) -> Self {
        Self { reason, action, message, warning: true }
    }

    pub(super) fn normal(reason: &'static str, action: &'static str, message: String) -> Self {
        Self { reason, action, message, warning: false }
    }
}

/// About whom.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// Its claim, or the volume itself where it has none.
    Volume(Box<MirrorVolume>),
    Pod(Box<Pod>),
    Node(String),
    /// The namespace that Lockstep is installed in.
    Installation,
}

/// Where events go.
pub(super) struct Events {
    recorder: Recorder,
    budget: Mutex<Budget>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Events").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// How many may still be told.
#[derive(Debug)]
struct Budget {
    left: u32,
    filled: Instant,
    told: BTreeMap<(String, &'static str), Instant>,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: BURST, filled: now, told: BTreeMap::new() }
    }

    /// Whether this may be told now; counts it if so.
    fn take(&mut self, object: &str, reason: &'static str, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_millis() / ONE_EVERY.as_millis();
        if let Ok(more @ 1..) = u32::try_from(passed) {
            self.left = self.left.saturating_add(more).min(BURST);
            self.filled = now;
        }
        self.told.retain(|_, at| now.saturating_duration_since(*at) < SAME_EVERY);
        let key = (object.to_owned(), reason);
        if self.left == 0 || self.told.contains_key(&key) {
            return false;
        }
        self.left -= 1;
        self.told.insert(key, now);
        true
    }
}

impl Events {
    pub(super) fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "lockstep-controller".to_owned(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter), budget: Mutex::new(Budget::new(Instant::now())) }
    }
}

impl Leader {
    /// Tells, if the budget allows it. An event that cannot be written is not worth a second try.
    pub(super) async fn note(&self, note: Note, subject: &Subject) {
        let name = match subject {
            Subject::Volume(volume) => format!("volume {}", volume.name_any()),
            Subject::Pod(pod) => format!("pod {}", pod.uid().unwrap_or_default()),
            Subject::Node(node) => format!("node {node}"),
            Subject::Installation => "installation".to_owned(),
        };
        if !lock(&self.events.budget).take(&name, note.reason, Instant::now()) {
            return;
        }
        let reference = self.reference(subject).await;
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.to_owned(),
            note: Some(note.message.chars().take(1000).collect()),
            action: note.action.to_owned(),
            secondary: None,
        };
        if let Err(error) = send(self.events.recorder.publish(&event, &reference)).await {
            tracing::info!(object = name, reason = note.reason, %error, "event_not_written");
        }
    }

    /// What became different with a volume's new status.
    pub(super) async fn note_transitions(&self, volume: &MirrorVolume, transitions: Vec<Transition>) {
        for Transition { reason, action, message, warning, told_by_nodes } in transitions {
            tracing::info!(volume = volume.name_any(), reason, message, "volume_changed");
            if told_by_nodes {
                continue;
            }
            let note =
                if warning { Note::warning(reason, action, message) } else { Note::normal(reason, action, message) };
            self.note(note, &Subject::Volume(Box::new(volume.clone()))).await;
        }
    }

    async fn reference(&self, subject: &Subject) -> ObjectReference {
        match subject {
            Subject::Pod(pod) => pod.object_ref(&()),
            Subject::Node(name) => match self.cluster.node(name) {
                // kubelet's own events name the node in place of its uid, which is what `kubectl describe node` looks for.
                Some(node) => ObjectReference { uid: Some(name.clone()), ..node.object_ref(&()) },
                None => reference(&Node::kind(&()), "v1", name),
            },
            Subject::Installation => reference("Namespace", "v1", &self.cluster.namespace),
            Subject::Volume(volume) => match self.claim_of(volume).await {
                Some(claim) => claim.object_ref(&()),
                None => volume.object_ref(&()),
            },
        }
    }

    async fn claim_of(&self, volume: &MirrorVolume) -> Option<PersistentVolumeClaim> {
        let claim = volume.spec.claim.as_ref()?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.cluster.client.clone(), &claim.namespace);
        send(claims.get_opt(&claim.name)).await.ok().flatten()
    }
}

fn reference(kind: &str, version: &str, name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some(kind.to_owned()),
        api_version: Some(version.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_a_minute_and_a_flood_is_cut() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!(budget.take("a", "ReplicaLost", start));
        assert!(!budget.take("a", "ReplicaLost", start + Duration::from_secs(59)));
        assert!(budget.take("a", "NoQuorum", start), "another reason");
        assert!(budget.take("a", "ReplicaLost", start + SAME_EVERY));
        let mut flood = Budget::new(start);
        let told = (0..200).filter(|at| flood.take(&at.to_string(), "ReplicaLost", start)).count();
        assert_eq!(told, BURST as usize);
        assert!(flood.take("later", "ReplicaLost", start + ONE_EVERY));
        assert!(!flood.take("later still", "ReplicaLost", start + ONE_EVERY));
    }
}
