//! CreateVolume: the object is made, or found, and watched until the leader has made the volume.

use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use lockstep_api::{ClaimReference, MirrorVolume, MirrorVolumeSpec, names};
use lockstep_csi::controller_port::{CreateError, CreateVolume, Volume};

use super::Port;
use super::answers::{answer, difference, size};
use super::parameters::{Attributes, access, parse_class};
use crate::plan::status::{NO_ROOM, PART_FAILED, READY};
use crate::reconcile::apply::{ApplyError, send};

/// What the leader says of a volume that is being made.
enum Outcome {
    Created(Box<Volume>),
    NoRoom(Box<MirrorVolume>, String),
    Failed(Box<MirrorVolume>, String),
}

/// For the object to go that a request leaves behind which found no room. The request has failed already: this is only to be tidy.
const TIDY_WITHIN: Duration = Duration::from_secs(5);

impl Port {
    pub(super) async fn create(&self, request: &CreateVolume, within: Duration) -> Result<Volume, CreateError> {
        let deadline = Instant::now() + within;
        let spec = self.plan_spec(request)?;
        loop {
            let found = self.read(&request.id).await.map_err(uncertain)?;
            let volume = match found {
                Some(found) if found.metadata.deletion_timestamp.is_some() => {
                    self.wait_gone(request, &found, deadline).await?;
                    continue;
                }
                Some(found) => {
                    check_same(request, &spec, &found)?;
                    found
                }
                None => match self.post(request, &spec).await {
                    // Another replica of the controller was first.
                    Err(ApplyError::Conflict) => continue,
                    Err(ApplyError::Refused { message, .. }) => {
                        return Err(CreateError::Failed { source: message.into() });
                    }
                    made => made.map_err(uncertain)?,
                },
            };
            match self.wait_made(&volume, deadline).await {
                Some(Outcome::Created(volume)) => return Ok(*volume),
                Some(Outcome::NoRoom(volume, reason)) => {
                    if self.back_out(&volume).await? {
                        return Err(CreateError::NoRoom { reason });
                    }
                }
                Some(Outcome::Failed(volume, reason)) => {
                    if self.back_out(&volume).await? {
                        return Err(CreateError::Failed { source: reason.into() });
                    }
                }
                None => return Err(self.still_working(request)),
            }
        }
    }

    /// The whole specification of the volume that is asked for.
    fn plan_spec(&self, request: &CreateVolume) -> Result<MirrorVolumeSpec, CreateError> {
        let wrong = |error: super::parameters::ParameterError| CreateError::WrongInput { reason: error.to_string() };
        let mut spec = parse_class(&request.parameters).map_err(wrong)?;
        Attributes::parse(&request.mutable_parameters).map_err(wrong)?.put(&mut spec);
        spec.size_bytes = i64::try_from(request.size_bytes)
            .map_err(|_| CreateError::OutOfRange { reason: format!("{} bytes are too many", request.size_bytes) })?;
        spec.access = access(&request.capabilities);
        spec.requested_name = Some(request.name.as_str().to_owned());
        spec.claim = request
            .claim
            .as_ref()
            .map(|claim| ClaimReference { namespace: claim.namespace.clone(), name: claim.name.clone() });
        let pools = self.cluster.pools.state();
        // A node whose agent never said anything (a control plane's, which runs none) is none of ours.
        let known = pools.iter().filter(|pool| pool.status.as_ref().is_some_and(|status| status.node_id != 0));
        let known: Vec<String> = known.map(|pool| pool.name_any()).collect();
        if let Some(accessibility) = &request.accessibility {
            let node =
                |topology: &lockstep_csi::topology::Topology| topology.segments.get(names::TOPOLOGY_NODE).cloned();
            // The first is the first consumer's; the others are only the rest of the cluster, in some order.
            spec.preferred_nodes = accessibility.preferred.first().and_then(node).into_iter().collect();
            let requisite: Option<Vec<String>> = accessibility.requisite.iter().map(node).collect();
            spec.allowed_nodes = plan_allowed(requisite.unwrap_or_default(), &known, spec.replicas);
            if !spec.remote_access && spec.preferred_nodes.is_empty() {
                spec.preferred_nodes = accessibility.requisite.iter().filter_map(node).take(1).collect();
            }
        }
        Ok(spec)
    }

    async fn post(&self, request: &CreateVolume, spec: &MirrorVolumeSpec) -> Result<MirrorVolume, ApplyError> {
        let volume = MirrorVolume {
            metadata: ObjectMeta {
                name: Some(request.id.as_str().to_owned()),
                finalizers: Some(vec![names::FINALIZER_VOLUME.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: spec.clone(),
            status: None,
        };
        let parameters =
            PostParams { field_manager: Some(names::MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
        send(self.volumes().create(&parameters, &volume)).await
    }

    /// Waits for what the leader says of this very object. `None`: the time is over.
    async fn wait_made(&self, volume: &MirrorVolume, deadline: Instant) -> Option<Outcome> {
        let (name, uid) = (volume.name_any(), volume.uid());
        let look = || {
            let volume = self.cluster.volume(&name).filter(|found| found.uid() == uid)?;
            if let Some(volume) = answer(&volume) {
                return Some(Outcome::Created(Box::new(volume)));
            }
            let condition = volume.status.as_ref()?.conditions.iter().find(|it| it.type_ == READY)?;
            let (reason, message) = (condition.reason.clone(), condition.message.clone());
            match reason.as_str() {
                NO_ROOM => Some(Outcome::NoRoom(Box::new((*volume).clone()), message)),
                PART_FAILED => Some(Outcome::Failed(Box::new((*volume).clone()), message)),
                _ => None,
            }
        };
        self.cluster.until(deadline.saturating_duration_since(Instant::now()), look).await
    }

    async fn wait_gone(
        &self,
        request: &CreateVolume,
        volume: &MirrorVolume,
        deadline: Instant,
    ) -> Result<(), CreateError> {
        let (name, uid) = (volume.name_any(), volume.uid());
        let gone = || self.cluster.volume(&name).is_none_or(|found| found.uid() != uid).then_some(());
        let left = deadline.saturating_duration_since(Instant::now());
        self.cluster.until(left, gone).await.ok_or_else(|| CreateError::StillWorking {
            id: request.id.clone(),
            state: "an earlier volume of this name is still being deleted".to_owned(),
        })
    }

    /// Takes the object of a volume away that could not be made, if it is still as it was seen. Says whether it was.
    async fn back_out(&self, seen: &MirrorVolume) -> Result<bool, CreateError> {
        let preconditions =
            Some(Preconditions { uid: seen.uid(), resource_version: seen.metadata.resource_version.clone() });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        match send(self.volumes().delete(&seen.name_any(), &parameters)).await {
            Ok(_) | Err(ApplyError::Missing) => {}
            // The leader found something in between.
            Err(ApplyError::Conflict) => return Ok(false),
            Err(error) => return Err(uncertain(error)),
        }
        let (name, uid) = (seen.name_any(), seen.uid());
        let gone = || self.cluster.volume(&name).is_none_or(|found| found.uid() != uid).then_some(());
        if self.cluster.until(TIDY_WITHIN, gone).await.is_none() {
            tracing::warn!(volume = name, "object_of_failed_creation_stays_longer");
        }
        Ok(true)
    }

    fn still_working(&self, request: &CreateVolume) -> CreateError {
        let volume = self.cluster.volume(request.id.as_str());
        let conditions = volume.and_then(|volume| Some(volume.status.as_ref()?.conditions.clone())).unwrap_or_default();
        let said = conditions.into_iter().find(|it| it.type_ == READY).map(|it| it.message);
        let state = said.unwrap_or_else(|| "waits for the controller's leader".to_owned());
        CreateError::StillWorking { id: request.id.clone(), state }
    }
}

fn uncertain(error: ApplyError) -> CreateError {
    CreateError::Uncertain { source: Box::new(error) }
}

/// An object that is there has to be the volume that is asked for.
fn check_same(request: &CreateVolume, spec: &MirrorVolumeSpec, found: &MirrorVolume) -> Result<(), CreateError> {
    let size = request.accepts_size(size(found));
    let difference = if size { difference(spec, &found.spec) } else { Some("size") };
    match difference {
        None => Ok(()),
        Some(what) => Err(CreateError::Exists { id: request.id.clone(), difference: what.to_owned() }),
    }
}

/// The only nodes that may hold replicas, of the topology that the caller requires: a class with `allowedTopologies` names some.
///
/// Fewer than there are replicas cannot be meant so (a volume is reachable from elsewhere), and all of them are no restriction, which
/// nodes that come later must not fall under.
fn plan_allowed(mut requisite: Vec<String>, known: &[String], replicas: u8) -> Vec<String> {
    requisite.sort();
    requisite.dedup();
    let all = known.iter().all(|node| requisite.contains(node));
    if all || requisite.len() < usize::from(replicas) {
        return Vec::new();
    }
    requisite
}

#[cfg(test)]
mod tests {
    use super::plan_allowed;

    #[test]
    fn only_a_real_restriction_is_written_down() {
        let nodes = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
        let known = nodes("a b c");
        assert_eq!(plan_allowed(nodes("b a b"), &known, 2), nodes("a b"));
        assert!(plan_allowed(nodes("a b"), &known, 3).is_empty(), "three replicas do not fit on two nodes");
        assert!(plan_allowed(nodes("c b a"), &known, 2).is_empty(), "all");
        assert!(plan_allowed(nodes("a"), &known, 2).is_empty(), "the first consumer's");
        assert!(plan_allowed(nodes(""), &known, 2).is_empty(), "nothing was said");
    }
}
