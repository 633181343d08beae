//! Objects of the API server as they were seen last, kept by a watch, and still there while the API server is away.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use lockstep_leases::Again;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

/// After so long the API server ends a watch, and the next begins where it ended: a connection that died unnoticed is noticed then.
const WATCH_SECONDS: u32 = 60;

/// A watch that broke is begun again after this long, later attempts after up to the longest: many nodes do so at once, when
/// the API server is back.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_LONGEST: Duration = Duration::from_secs(5);

/// Objects of one kind, by name.
#[derive(Debug)]
pub(crate) struct Watched<K> {
    objects: Mutex<Objects<K>>,
    /// Rises with each change; 0 until everything was listed once.
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Objects<K> {
    by_name: BTreeMap<String, Arc<K>>,
    /// The highest version that an object had when it ended. The answer to a request may come after the news of its object's end; what
    /// is not known and not newer than this is gone, because the watch tells in the order of versions.
    newest_end: u64,
}

impl<K> Default for Watched<K> {
    fn default() -> Self {
        Self {
            objects: Mutex::new(Objects { by_name: BTreeMap::new(), newest_end: 0 }),
            version: watch::Sender::new(0),
        }
    }
}

impl<K> Watched<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn lock(&self) -> MutexGuard<'_, Objects<K>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<K>> {
        self.lock().by_name.get(name).cloned()
    }

    /// All objects, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.lock().by_name.values().cloned().collect()
    }

    /// Whether everything was listed at least once.
    pub(crate) fn is_listed(&self) -> bool {
        *self.version.borrow() > 0
    }

    /// Tells changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Takes over an object that an answer contained, unless a newer one is known, or its end.
    pub(crate) fn put(&self, object: K) {
        let Some(name) = object.meta().name.clone() else { return };
        let mut objects = self.lock();
        let version = version_of(&object);
        let is_old = match objects.by_name.get(&name) {
            Some(known) => {
                known.meta().uid == object.meta().uid && version.is_some() && version_of(&**known) >= version
            }
            None => version.is_some_and(|version| version <= objects.newest_end),
        };
        if !is_old {
            objects.by_name.insert(name, Arc::new(object));
            drop(objects);
            self.changed();
        }
    }

    fn remove(&self, object: &K) {
        let Some(name) = object.meta().name.as_deref() else { return };
        let mut objects = self.lock();
        objects.newest_end = objects.newest_end.max(version_of(object).unwrap_or(0));
        if objects.by_name.get(name).is_some_and(|known| known.meta().uid == object.meta().uid) {
            objects.by_name.remove(name);
            drop(objects);
            self.changed();
        }
    }

    fn changed(&self) {
        // Before the first list is complete nobody shall decide anything.
        self.version.send_if_modified(|version| {
            let listed = *version > 0;
            *version += u64::from(listed);
            listed
        });
    }

    /// Watches until it is dropped. `fields` selects.
    pub(crate) async fn watch(&self, api: Api<K>, fields: Option<&str>) {
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if let Some(fields) = fields {
            config = config.fields(fields);
        }
        let mut events = pin!(watcher(api, config).backoff(Again::new(AGAIN, AGAIN_LONGEST)));
        let mut listed: Option<BTreeMap<String, Arc<K>>> = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed = Some(BTreeMap::new()),
                Ok(Event::InitApply(object)) => {
                    if let (Some(listed), Some(name)) = (&mut listed, object.meta().name.clone()) {
                        listed.insert(name, Arc::new(object));
                    }
                }
                Ok(Event::InitDone) => {
                    self.lock().by_name = listed.take().unwrap_or_default();
                    self.version.send_modify(|version| *version += 1);
                }
                Ok(Event::Apply(object)) => self.put(object),
                Ok(Event::Delete(object)) => self.remove(&object),
                Err(error) => tracing::info!(kind = short_name::<K>(), %error, "watched_anew"),
            }
        }
    }
}

fn short_name<K>() -> &'static str {
    let name = std::any::type_name::<K>();
    name.rsplit("::").next().unwrap_or(name)
}

/// Versions of the objects of one kind rise. An API server where they are no numbers has every object seen as new.
fn version_of<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Watched;
    use lockstep_api::{MirrorPool, MirrorPoolSpec};

    fn pool(uid: &str, version: &str) -> MirrorPool {
        let spec = MirrorPoolSpec { node_name: "a".to_owned(), storage: None, cordoned: false, evict: false };
        let mut pool = MirrorPool::new("a", spec);
        pool.metadata.uid = Some(uid.to_owned());
        pool.metadata.resource_version = Some(version.to_owned());
        pool
    }

    fn version(watched: &Watched<MirrorPool>) -> Option<String> {
        watched.get("a")?.metadata.resource_version.clone()
    }

    #[test]
    fn what_is_older_than_what_is_known_is_not_taken() {
        let watched = Watched::default();
        watched.put(pool("1", "9"));
        watched.put(pool("1", "10"));
        watched.put(pool("1", "9"));
        assert_eq!(version(&watched).as_deref(), Some("10"));
        // Another object of that name, whatever its version.
        watched.put(pool("2", "3"));
        assert_eq!(version(&watched).as_deref(), Some("3"));
        watched.remove(&pool("1", "11"));
        assert!(watched.get("a").is_some(), "the former object's end is not this one's");
        watched.remove(&pool("2", "12"));
        assert!(watched.get("a").is_none());
        watched.put(pool("2", "11"));
        assert!(watched.get("a").is_none(), "what is gone does not come back by an answer that was late");
        watched.put(pool("3", "13"));
        assert_eq!(version(&watched).as_deref(), Some("13"));
    }

    #[test]
    fn changes_are_told_once_everything_was_listed() {
        let watched = Watched::default();
        watched.put(pool("1", "1"));
        assert!(!watched.is_listed());
    }
}
