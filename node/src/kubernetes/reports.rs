//! Statuses on their way to the API server: of each object the newest only, few at a time, and again until they arrive.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::objects::{RequestError, apply_status};
use super::watched::Watched;

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Requests a second, at most: an API server that is back, or a peer that is lost, has every volume of a node report at once.
const PER_SECOND: u32 = 40;

/// How long nothing is sent after a request that had no answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The same after one that was refused: somebody has to change something first.
const AGAIN_AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// A status that waits to be sent.
#[derive(Debug)]
struct Waiting {
    uid: String,
    status: Value,
    /// Not to be sent before: it was refused, and the reason may pass.
    not_before: Instant,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<String, Waiting>,
    /// Under way: a later one of the same object waits, or the earlier one could arrive after it.
    flying: BTreeMap<String, (String, Value)>,
}

/// The way of one kind's statuses to the API server.
#[derive(Debug)]
pub(super) struct Reports<K> {
    watched: Arc<Watched<K>>,
    api: Api<K>,
    queue: Mutex<Queue>,
    put: Notify,
}

impl<K> Reports<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    pub(super) fn new(watched: Arc<Watched<K>>, api: Api<K>) -> Self {
        Self { watched, api, queue: Mutex::default(), put: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a status soon; what still waits of the object is forgotten.
    pub(super) fn put(&self, object: &K, status: &impl Serialize) {
        let (Some(name), Some(uid)) = (object.meta().name.clone(), object.meta().uid.clone()) else { return };
        let mut status = serde_json::to_value(status).expect("statuses are JSON");
        remove_nulls(&mut status);
        let mut queue = self.queue();
        // One that is refused is not sent more often because it is put more often.
        let waits = queue.waiting.get(&name).is_some_and(|it| it.uid == uid && it.status == status);
        let flies = queue.flying.get(&name).is_some_and(|it| it.0 == uid && it.1 == status);
        if flies {
            // What waits behind it is older than what is put now.
            queue.waiting.remove(&name);
        } else if !waits {
            queue.waiting.insert(name, Waiting { uid, status, not_before: Instant::now() });
            drop(queue);
            self.put.notify_one();
        }
    }

    /// Takes back what waits: the object is as it should be again.
    pub(super) fn take_back(&self, name: &str) {
        self.queue().waiting.remove(name);
    }

    /// The next one to send, or when there may be one.
    fn take(&self, now: Instant) -> Result<(String, Waiting), Option<Instant>> {
        let mut queue = self.queue();
        let Queue { waiting, flying } = &mut *queue;
        let idle = waiting.iter().filter(|(name, _)| !flying.contains_key(*name));
        let due = idle.clone().find(|(_, it)| it.not_before <= now).map(|(name, _)| name.clone());
        let next = idle.map(|(_, it)| it.not_before).min();
        let (name, report) = due.and_then(|name| waiting.remove_entry(&name)).ok_or(next)?;
        flying.insert(name.clone(), (report.uid.clone(), report.status.clone()));
        Ok((name, report))
    }

    /// Sends until it is dropped.
    pub(super) async fn send(&self) {
        let mut sending = JoinSet::new();
        let pause = Duration::from_secs(1) / PER_SECOND;
        loop {
            while let Some(sent) = sending.try_join_next() {
                self.on_sent(sent);
            }
            while sending.len() >= AT_ONCE {
                if let Some(sent) = sending.join_next().await {
                    self.on_sent(sent);
                }
            }
            match self.take(Instant::now()) {
                Ok((name, report)) => {
                    sending.spawn(send_one(self.api.clone(), name, report));
                    tokio::time::sleep(pause).await;
                }
                Err(next) => {
                    tokio::select! {
                        () = self.put.notified() => {}
                        () = wait_until(next) => {}
                        Some(sent) = sending.join_next() => self.on_sent(sent),
                    }
                }
            }
        }
    }

    fn on_sent(&self, sent: Result<Sent<K>, tokio::task::JoinError>) {
        let Ok((name, mut report, result)) = sent else { return };
        self.queue().flying.remove(&name);
        let reason = match result {
            Ok(object) => return self.watched.put(object),
            // There is nobody to report about any more.
            Err(RequestError::Missing | RequestError::Conflict) => return,
            Err(error) => error,
        };
        tracing::info!(kind = %K::kind(&()), object = name, %reason, "status_not_sent");
        let refused = matches!(reason, RequestError::Refused(_));
        report.not_before = Instant::now() + if refused { AGAIN_AFTER_REFUSAL } else { AGAIN_AFTER };
        // What was put meanwhile is newer.
        self.queue().waiting.entry(name).or_insert(report);
    }
}

type Sent<K> = (String, Waiting, Result<K, RequestError>);

async fn send_one<K>(api: Api<K>, name: String, report: Waiting) -> Sent<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let result = apply_status(&api, (&name, &report.uid), &report.status).await;
    (name, report, result)
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What is absent is left out, not written as nothing.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}
