//! The register of a volume: its configuration in a Lease, changed by compare-and-swap only.
//!
//! ```text
//! nothing --POST--> bare --PUT: configuration, uid--> made --PUT under the version read: next configuration--> ...
//! ```
//! What is found is either the configuration, or *lost*, with why and what to do. An answer that does not come is *failed*:
//! the swap may have happened, or may still happen. Nothing is sent a second time here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::coordination::v1::Lease;
use lockstep_core::{Config, RegisterAnswer, VolumeId};
use lockstep_format::register;

use crate::access::{Access, Place, RequestError, volume_selector};
use crate::names;
use crate::object;
use crate::requests::{Kind, Requests};

/// What an operator does about a register that is lost.
const REMEDY: &str = "I/O goes on while no replica is lost. Restore the Lease from a saved copy, or stop whoever changes it: \
    docs/troubleshooting.md";

/// Why a register was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreateRegister {
    /// The API server could not be asked, or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is a Lease of that name, with something else in it.
    #[error("Lease {0} exists, and does not hold this configuration")]
    Exists(String),
}

/// Access to the Leases of a cluster, for one node.
#[derive(Debug)]
pub struct Leases {
    pub(crate) access: Access,
    /// The node, as it is named in what it writes.
    holder: String,
    /// What was found last, per volume: a swap replaces this object and no other.
    found: Mutex<BTreeMap<VolumeId, Lease>>,
    /// The newest grant Leases seen, by volume and shard: a write replaces this object and no other.
    pub(crate) found_grants: Mutex<BTreeMap<(VolumeId, u8), Lease>>,
    /// Why the last request for a volume failed, if it did.
    troubles: Mutex<BTreeMap<VolumeId, String>>,
}

impl Leases {
    /// Nothing is asked, and no file is read, before the first request.
    #[must_use]
    pub fn new(place: Place, holder: String) -> Leases {
        Leases {
            access: Access::new(place),
            holder,
            found: Mutex::default(),
            found_grants: Mutex::default(),
            troubles: Mutex::default(),
        }
    }

    /// How often the API server was asked.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.access.requests
    }

    /// Why the last request for a volume failed, if it did.
    #[must_use]
    pub fn trouble(&self, volume: VolumeId) -> Option<String> {
        lock(&self.troubles).get(&volume).cloned()
    }

    /// Forgets what was found of a volume, which does not run here any more.
    pub fn forget(&self, volume: VolumeId) {
        lock(&self.found).remove(&volume);
        lock(&self.found_grants).retain(|(of, _), _| *of != volume);
        lock(&self.troubles).remove(&volume);
    }

    /// Makes the register of a new volume. May be repeated: one that holds this configuration already is left as it is.
    ///
    /// # Errors
    /// See [`CreateRegister`].
    pub async fn create_register(&self, config: &Config) -> Result<(), CreateRegister> {
        let name = names::register_name(config.volume);
        let bare = object::bare(&name, Kind::Configuration, Some(config.volume));
        let made = match self.access.create(Kind::Configuration, &name, &bare).await {
            Err(RequestError::Conflict(full_name)) => {
                let found = self.access.get(Kind::Configuration, &name).await?;
                if !object::is_bare(&found) {
                    return match decode(&found) {
                        Ok(same) if same == *config => Ok(()),
                        _ => Err(CreateRegister::Exists(full_name)),
                    };
                }
                found
            }
            result => result?,
        };
        self.access.update(Kind::Configuration, &name, &self.filled(&made, config)).await?;
        Ok(())
    }

    /// Reads the register: [`RegisterAnswer::Found`], `Lost` or `Failed`.
    pub async fn read_register(&self, volume: VolumeId) -> RegisterAnswer {
        let name = names::register_name(volume);
        let answer = self.access.get(Kind::Configuration, &name).await;
        self.note(volume, answer.as_ref().err());
        let lease = match answer {
            Ok(lease) => lease,
            Err(RequestError::Missing(_)) => return self.lost(&name, "it does not exist"),
            Err(_) => return RegisterAnswer::Failed,
        };
        let found = object::version(&lease).and_then(|version| Ok((version, decode(&lease)?)));
        match found {
            Ok((version, config)) => {
                lock(&self.found).insert(volume, lease);
                RegisterAnswer::Found { version, config: Box::new(config) }
            }
            Err(reason) => self.lost(&name, &reason),
        }
    }

    /// Replaces what the register holds, if that is still what was found under `version`: [`RegisterAnswer::Swapped`],
    /// `Conflict`, `Lost` or `Failed`. Sends one request to change something, or none.
    pub async fn swap_register(&self, version: u64, config: &Config) -> RegisterAnswer {
        let (volume, name) = (config.volume, names::register_name(config.volume));
        let is_version = |lease: &Lease| object::version(lease) == Ok(version);
        let known = lock(&self.found).get(&volume).filter(|lease| is_version(lease)).cloned();
        let known = match known {
            Some(known) => known,
            // Found by somebody else, who told the version only: the object is needed.
            None => match self.access.get(Kind::Configuration, &name).await {
                Ok(lease) if is_version(&lease) && object::check_uid(&lease).is_ok() => lease,
                Ok(_) => return RegisterAnswer::Conflict,
                Err(error) => return self.refused(volume, &name, &error),
            },
        };
        match self.access.update(Kind::Configuration, &name, &self.filled(&known, config)).await {
            Ok(lease) => {
                self.note(volume, None);
                lock(&self.found).insert(volume, lease);
                RegisterAnswer::Swapped
            }
            Err(error) => self.refused(volume, &name, &error),
        }
    }

    /// Deletes all Leases of a volume. Those that are not there are deleted already.
    ///
    /// # Errors
    /// One could not be deleted; what is left is found by the next call.
    pub async fn delete_all(&self, volume: VolumeId) -> Result<(), RequestError> {
        for lease in self.access.list(Kind::Configuration, &volume_selector(volume)).await? {
            let kind = Kind::ALL.into_iter().find(|kind| label(&lease) == Some(kind.name()));
            self.access.delete(kind.unwrap_or(Kind::Configuration), &lease).await?;
        }
        self.forget(volume);
        Ok(())
    }

    fn refused(&self, volume: VolumeId, name: &str, error: &RequestError) -> RegisterAnswer {
        self.note(volume, Some(error));
        match error {
            RequestError::Conflict(_) => RegisterAnswer::Conflict,
            RequestError::Missing(_) => self.lost(name, "it does not exist"),
            RequestError::Failed(_) => RegisterAnswer::Failed,
        }
    }

    fn lost(&self, name: &str, reason: &str) -> RegisterAnswer {
        RegisterAnswer::Lost { reason: format!("Lease {}: {reason}. {REMEDY}", self.access.full_name(name)) }
    }

    pub(crate) fn note(&self, volume: VolumeId, error: Option<&RequestError>) {
        let mut troubles = lock(&self.troubles);
        match error {
            Some(RequestError::Failed(reason)) => {
                if troubles.insert(volume, reason.clone()).as_ref() != Some(reason) {
                    tracing::warn!(volume = names::volume_label(volume), reason, "api_server_request_failed");
                }
            }
            _ => {
                troubles.remove(&volume);
            }
        }
    }

    /// The Lease with this configuration in it.
    fn filled(&self, lease: &Lease, config: &Config) -> Lease {
        let in_sync: Vec<String> = config.in_sync.keys().map(ToString::to_string).collect();
        let members: BTreeSet<_> = config
            .replicas
            .iter()
            .chain(&config.tie_breaker)
            .chain(config.voters.keys())
            .chain(config.attached.keys())
            .collect();
        let members: Vec<String> = members.into_iter().map(ToString::to_string).collect();
        let mut lease = object::with_content(
            lease,
            [
                (names::CONFIGURATION_ANNOTATION, STANDARD.encode(register::encode(config))),
                (names::EPOCH_ANNOTATION, config.epoch.to_string()),
                (names::IN_SYNC_ANNOTATION, in_sync.join(",")),
                (names::MEMBERS_ANNOTATION, members.join(",")),
            ],
        );
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.holder.clone());
        spec.lease_transitions = Some(i32::try_from(config.epoch.0).unwrap_or(i32::MAX));
        lease
    }
}

fn label(lease: &Lease) -> Option<&str> {
    lease.metadata.labels.as_ref()?.get(names::KIND_LABEL).map(String::as_str)
}

/// The configuration in a Lease, or why there is none.
fn decode(lease: &Lease) -> Result<Config, String> {
    let text = annotation(lease)?;
    let bytes = STANDARD.decode(text).map_err(|error| {
        format!("its annotation {} is not base64, {error}: it was edited", names::CONFIGURATION_ANNOTATION)
    })?;
    register::decode(&bytes).map_err(|error| format!("its annotation {}: {error}", names::CONFIGURATION_ANNOTATION))
}

fn annotation(lease: &Lease) -> Result<&str, String> {
    let missing = || format!("its annotation {} is missing", names::CONFIGURATION_ANNOTATION);
    let text = object::annotation(lease, names::CONFIGURATION_ANNOTATION);
    if object::is_bare(lease) && text.is_none() {
        return Err("it has no configuration: its creation was interrupted".to_owned());
    }
    object::check_uid(lease)?;
    text.ok_or_else(missing)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
