//! Making a volume: on all its members, or nowhere.
//!
//! Before the first member is asked, the intention is written down. It is struck out when all members have their part: from
//! then on the volume exists. Until then whatever goes wrong, here or there, ends with the parts being taken away again, if
//! need be by this agent's next run.

use lockstep_proto::node::v1 as proto;
use proto::peer_request::Request;

use super::plan::{Candidate, Members, Wish, plan_members};
use super::registry::Unfinished;
use super::seal::random_bytes;
use super::{Agent, CHANGE_WITHIN};
use crate::failure::Failure;
use crate::spec::{self, Arbiter, Policing, Spec};
use crate::{input, rpc};

impl Agent {
    pub(super) async fn create(&self, request: proto::CreateVolumeRequest) -> Result<proto::VolumeStatus, Failure> {
        self.check_keeper("make one")?;
        input::check_name("name", &request.name)?;
        input::check_size(request.size_bytes)?;
        let wish = Wish {
            size_bytes: request.size_bytes,
            replicas: request.replicas,
            on: request.on.clone(),
            tie_breaker: request.tie_breaker.clone(),
            arbiter: spec::parse_arbiter(request.arbiter()),
        };
        let policing = parse_policing(&request)?;
        let _changing = self.changing.lock().await;
        if let Some(known) = self.find_volume(&request.name).await? {
            return self.repeat(&known, &request, (&wish, policing)).await;
        }
        if wish.arbiter == Arbiter::Lease {
            self.leases()?;
        }
        let candidates = self.observe_candidates().await;
        let members = plan_members(&wish, self.me.id, &candidates)?;
        let spec = new_spec(&request, members, policing)?;
        self.create_on_members(&spec, &candidates).await?;
        tracing::info!(volume = spec.name, id = input::to_hex(&spec.id), "volume created");
        self.status(&spec.name).await
    }

    /// The same request again is answered with the volume that it made; another request for the name is refused.
    async fn repeat(
        &self,
        known: &Spec,
        request: &proto::CreateVolumeRequest,
        (wish, policing): (&Wish, Policing),
    ) -> Result<proto::VolumeStatus, Failure> {
        let names = |ids: Vec<u32>| ids.into_iter().map(|id| self.cluster().name_of(id)).collect::<Vec<_>>();
        let mut on = wish.on.clone();
        on.sort();
        let mut known_on = names(known.replicas.keys().copied().collect());
        known_on.sort();
        let count = usize::try_from(wish.replicas).unwrap_or(usize::MAX);
        let same_members = (on.is_empty() || on == known_on)
            && (count == 0 || count == known_on.len())
            && (count != 0 || !on.is_empty() || known_on.len() == 2)
            && (wish.tie_breaker.is_empty()
                || known.tie_breaker.map(|id| self.cluster().name_of(id)).as_deref() == Some(&wish.tie_breaker));
        let same_settings = known.size_bytes == request.size_bytes
            && known.ack == spec::parse_ack(request.ack())
            && known.on_quorum_loss == spec::parse_on_quorum_loss(request.on_quorum_loss())
            && known.access == spec::parse_access(request.access())
            && (known.arbiter, known.policing) == (wish.arbiter, policing);
        if same_members && same_settings {
            return self.status(&known.name).await;
        }
        Err(Failure::state_forbids(format!(
            "a volume named {:?} exists already, with {} on {}",
            known.name,
            input::show_bytes(known.size_bytes),
            known_on.join(", "),
        )))
    }

    async fn create_on_members(&self, spec: &Spec, candidates: &[Candidate]) -> Result<(), Failure> {
        let registry_failure = |error| Failure::of_host("write down the creation", &error);
        self.registry.put_unfinished(&Unfinished::Create { spec: spec.clone() }).map_err(registry_failure)?;
        if let Err(failure) = self.create_register(spec).await {
            return Err(self.undone(spec, failure).await);
        }
        let members: Vec<u32> = spec.members().collect();
        let request = Request::Create(proto::CreateReplicaRequest {
            spec: Some(spec.to_proto()),
            exists: false,
            ..Default::default()
        });
        let results = self.ask_all(&members, &request).await;
        if let Some((id, failure)) = results.into_iter().find_map(|(id, result)| Some((id, result.err()?))) {
            let message = format!("node {}: {}", self.cluster().name_of(id), failure.message);
            return Err(self.undone(spec, Failure { message, ..failure }).await);
        }
        self.registry.finish(spec).map_err(registry_failure)?;
        // The others learn of it when they can, else when somebody asks them for it.
        let others: Vec<u32> = candidates
            .iter()
            .filter(|candidate| candidate.offer.is_ok() && !members.contains(&candidate.id))
            .map(|candidate| candidate.id)
            .chain((!members.contains(&self.me.id)).then_some(self.me.id))
            .collect();
        self.ask_all(&others, &Request::Register(spec.to_proto())).await;
        Ok(())
    }

    /// Why a creation failed, and what is left of it.
    async fn undone(&self, spec: &Spec, failure: Failure) -> Failure {
        let undone = self.undo_create(spec).await;
        let rest = if undone { "nothing created" } else { "what was created is taken away when all answer" };
        Failure { message: format!("{} ({rest})", failure.message), ..failure }
    }

    /// Takes away what a creation made. Says whether nothing of it is left.
    pub(super) async fn undo_create(&self, spec: &Spec) -> bool {
        let members: Vec<u32> = spec.members().collect();
        let request = proto::DeleteReplicaRequest { volume: spec.name.clone(), id: input::to_hex(&spec.id) };
        let results = self.ask_all(&members, &Request::Delete(request)).await;
        let mut undone = true;
        for (id, result) in results {
            if let Err(failure) = result {
                undone = false;
                let node = self.cluster().name_of(id);
                tracing::warn!(volume = spec.name, node, %failure, "creation not undone yet");
            }
        }
        if let Err(reason) = self.delete_leases(spec).await {
            undone = false;
            tracing::warn!(volume = spec.name, reason, "creation not undone yet");
        }
        if undone && let Err(error) = self.registry.finish(spec) {
            tracing::error!(volume = spec.name, %error, "undone creation cannot be struck out");
        }
        undone
    }

    /// Makes this node's part of a volume, as another agent (or this one) asks. Idempotent.
    pub(crate) async fn create_here(&self, spec: &Spec) -> Result<(), Failure> {
        let _part = self.part.lock().await;
        self.register_here(spec)?;
        let request = proto::CreateReplicaRequest { spec: Some(spec.to_proto()), exists: false, ..Default::default() };
        let call = rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().create_replica(request)).await;
        if let Err(failure) = call {
            if let Err(error) = self.registry.forget_volume(&spec.name, spec.id) {
                tracing::error!(volume = spec.name, %error, "volume cannot be forgotten");
            }
            return Err(failure);
        }
        Ok(())
    }

    /// Remembers a volume that exists, or will when its creation succeeds.
    pub(crate) fn register_here(&self, spec: &Spec) -> Result<(), Failure> {
        match self.registry.put_volume(spec) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::state_forbids(format!("another volume is named {:?} there", spec.name))),
            Err(error) => Err(Failure::of_host("remember the volume", &error)),
        }
    }
}

fn parse_policing(request: &proto::CreateVolumeRequest) -> Result<Policing, Failure> {
    let (arbiter, access) = (spec::parse_arbiter(request.arbiter()), spec::parse_access(request.access()));
    spec::parse_policing(request.policing(), request.policing_shards, arbiter, access)
}

fn new_spec(request: &proto::CreateVolumeRequest, members: Members, policing: Policing) -> Result<Spec, Failure> {
    let random_failure = |error: std::io::Error| Failure::of_host("read random bytes", &error);
    let generation = u64::from_le_bytes(random_bytes().map_err(random_failure)?);
    Ok(Spec {
        name: request.name.clone(),
        id: random_bytes().map_err(random_failure)?,
        // 0 is the parent of a first generation, so it cannot be one.
        generation: generation.max(1),
        size_bytes: request.size_bytes,
        ack: spec::parse_ack(request.ack()),
        on_quorum_loss: spec::parse_on_quorum_loss(request.on_quorum_loss()),
        access: spec::parse_access(request.access()),
        arbiter: spec::parse_arbiter(request.arbiter()),
        policing,
        replicas: members.replicas,
        tie_breaker: members.tie_breaker,
    })
}
