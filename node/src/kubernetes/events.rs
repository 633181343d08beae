//! Events of Kubernetes about what this node is the one to know: on the volume, and on its claim.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use lockstep_api::{MirrorVolume, names};
use lockstep_proto::node::v1 as proto;
use tokio::sync::Notify;

use super::objects::{Objects, request};

/// Events that wait; older ones are dropped. They say what happened: who wants to know how it is reads the status.
const WAITING_MAX: usize = 64;

/// Between two events.
const PAUSE: Duration = Duration::from_millis(200);

/// What happened to a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) volume: String,
    reason: &'static str,
    warning: bool,
    note: String,
}

impl Happened {
    /// The requests of a volume that waits were made to fail on a node, for pods that are to end.
    pub(super) fn device_failed(volume: &str, node: &str) -> Self {
        let note = format!("{node}: its pods were told to end and wait for it: their requests fail now");
        Self { volume: volume.to_owned(), reason: "DeviceFailed", warning: true, note }
    }
}

/// Events on their way to the API server.
pub(super) struct Events {
    recorder: Recorder,
    client: Client,
    waiting: Arc<Mutex<VecDeque<Happened>>>,
    put: Notify,
}

impl Events {
    pub(super) fn new(client: Client, node: &str) -> Self {
        let reporter = Reporter { controller: names::MANAGER_NODE.to_owned(), instance: Some(node.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { recorder, client, waiting: Arc::default(), put: Notify::new() }
    }

    /// Tells soon, if at all: an API server that is away for long is not told of the past.
    pub(super) fn tell(&self, happened: Happened) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back(happened);
        drop(waiting);
        self.put.notify_one();
    }

    /// Sends until it is dropped.
    pub(super) async fn send(&self, objects: &Objects) {
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(happened) = next else {
                self.put.notified().await;
                continue;
            };
            self.send_one(objects, &happened).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn send_one(&self, objects: &Objects, happened: &Happened) {
        let volume = match objects.volume(&happened.volume).await {
            Ok(Some(volume)) => volume,
            Ok(None) => return,
            Err(error) => return tracing::info!(volume = happened.volume, %error, "event_not_sent"),
        };
        let event = Event {
            type_: if happened.warning { EventType::Warning } else { EventType::Normal },
            reason: happened.reason.to_owned(),
            note: Some(happened.note.clone()),
            action: "Mirroring".to_owned(),
            secondary: None,
        };
        let claim = self.claim(&volume).await;
        for about in claim.into_iter().chain([volume.object_ref(&())]) {
            if let Err(error) = request(self.recorder.publish(&event, &about)).await {
                tracing::info!(volume = happened.volume, reason = happened.reason, %error, "event_not_sent");
            }
        }
    }

    /// The claim as events name it: with its uid, or nobody finds them.
    async fn claim(&self, volume: &MirrorVolume) -> Option<ObjectReference> {
        let claim = volume.spec.claim.as_ref()?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let found = request(claims.get_metadata(&claim.name)).await.ok()?;
        Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            name: Some(claim.name.clone()),
            namespace: Some(claim.namespace.clone()),
            uid: found.uid(),
            ..ObjectReference::default()
        })
    }
}

/// What of an engine's event people are told, and whether this node is the one to tell it.
pub(super) fn happened(event: &proto::VolumeEvent, status: &proto::VolumeStatus, me: &str) -> Option<Happened> {
    // Of what all members see, one tells: the writer, of several the first, else the first in-sync replica.
    let speaker = status.writers.iter().min().or_else(|| status.in_sync.iter().min());
    let speaks = speaker.is_some_and(|first| first == me);
    let (reason, warning) = match event.name.as_str() {
        "fenced" => ("Fenced", true),
        "replica_failed" => ("ReplicaFailed", true),
        "diverged" => ("Diverged", true),
        "resync_started" => ("ResyncStarted", false),
        "resync_finished" => ("ResyncFinished", false),
        "expelled" if speaks => ("ReplicaLost", true),
        "frozen" if status.writers.iter().any(|writer| writer == me) => ("NoQuorum", true),
        "register_lost" | "shard_lost" if speaks => ("RegisterLost", true),
        _ => return None,
    };
    Some(Happened { volume: status.volume.clone(), reason, warning, note: format!("node {me}: {}", event.text) })
}

/// The events of a volume that are newer than `last`, which was the newest when it was looked last.
pub(super) fn newer<'a>(
    events: &'a [proto::VolumeEvent],
    last: Option<&proto::VolumeEvent>,
) -> &'a [proto::VolumeEvent] {
    let Some(last) = last else { return events };
    match events.iter().rposition(|event| event == last) {
        Some(at) => &events[at + 1..],
        // It is not kept any more, or of an earlier run.
        None => events,
    }
}

#[cfg(test)]
mod tests {
    use super::{happened, newer};
    use lockstep_proto::node::v1::{VolumeEvent, VolumeStatus};

    fn event(at_ms: u64, name: &str) -> VolumeEvent {
        VolumeEvent { at_ms, name: name.to_owned(), text: "text".to_owned() }
    }

    fn status(writer: &str) -> VolumeStatus {
        VolumeStatus { volume: "v".to_owned(), writers: vec![writer.to_owned()], ..Default::default() }
    }

    #[test]
    fn of_what_all_members_see_one_tells() {
        let told = |name: &str, me: &str| happened(&event(1, name), &status("a"), me).map(|happened| happened.reason);
        assert_eq!((told("expelled", "a"), told("expelled", "b")), (Some("ReplicaLost"), None));
        assert_eq!((told("frozen", "a"), told("frozen", "b")), (Some("NoQuorum"), None));
        assert_eq!((told("fenced", "a"), told("fenced", "b")), (Some("Fenced"), Some("Fenced")));
        assert_eq!(told("session_opened", "a"), None);
    }

    #[test]
    fn each_event_is_told_once() {
        let events = [event(1, "a"), event(1, "b"), event(2, "c")];
        assert_eq!(newer(&events, None), events);
        assert_eq!(newer(&events, Some(&events[1])), &events[2..]);
        assert!(newer(&events, Some(&events[2])).is_empty());
        assert_eq!(newer(&events, Some(&event(9, "of an earlier run"))), events);
    }
}
