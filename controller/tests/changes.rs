//! Volumes change while they are there: they grow, their attributes change, their register goes, a member is lost while they are made, and
//! the controller itself leaves.

mod setup;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use lockstep_api::{
    Ack, Arbiter, LOST, Member, MirrorReplicaSpec, MirrorReplicaStatus, MirrorVolumeStatus, Phase, ReplicaRole,
    WritePriority, condition,
};
use nix::sys::signal::Signal;
use setup::{NAMESPACE, POOLS, Setup, block_many, request, seen};
use tonic::Code;

const GIB: i64 = 1 << 30;

impl Setup {
    fn status(&self, volume: &str) -> Result<MirrorVolumeStatus> {
        self.volume(volume)?.context("the volume")?.status.context("its status")
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn registers(&self) -> Result<Vec<Lease>> {
        let of = ListParams::default().labels("lockstep.storage/kind=configuration");
        Ok(self.run(self.leases().list(&of))?.items)
    }
}

#[test]
fn a_volume_grows_on_all_its_members_and_its_attributes_change() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let one = setup.controller("one", &format!("{POOLS}changeMembers: false\n"))?;
    setup.wait_pools(3)?;
    let csi = one.csi();
    setup.run(csi.create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;
    let grown = setup.run(csi.expand("pvc-1", 3 * GIB))?;
    ensure!(grown == 3 * GIB, "{grown}");
    ensure!(setup.parts("pvc-1")?.iter().all(|part| part.spec.size_bytes == Some(3 * GIB)));
    ensure!(setup.parts("pvc-1")?.iter().all(|part| part.spec.definition.size_bytes == GIB), "as it was created");
    ensure!(setup.run(csi.expand("pvc-1", 2 * GIB))? == 3 * GIB, "it is large enough");
    let refused = setup.run(csi.expand("pvc-1", 200 * GIB)).expect_err("too large");
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    ensure!(setup.volume("pvc-1")?.context("it")?.spec.size_bytes == 3 * GIB, "it keeps its size");
    let refused = setup.run(csi.expand("pvc-2", GIB)).expect_err("there is none");
    ensure!(refused.code() == Code::NotFound, "{refused:?}");

    setup.run(csi.modify("pvc-1", &[("resyncRate", "10MiB"), ("writePriority", "high"), ("ack", "durable")]))?;
    setup.until("they are told to all members", || {
        let is_told = |spec: &MirrorReplicaSpec| {
            (spec.resync_rate, spec.ack, spec.write_priority)
                == (10 << 20, Some(Ack::Durable), Some(WritePriority::High))
        };
        Ok(setup.parts("pvc-1")?.iter().all(|part| is_told(&part.spec)).then_some(()))
    })?;
    ensure!(setup.parts("pvc-1")?.iter().all(|part| part.spec.definition.ack == Ack::Disk), "as it was created");
    let before = setup.volume("pvc-1")?.context("it")?.spec;
    for (attributes, code, says) in [
        (&[("resyncRate", "fast"), ("writePriority", "low")][..], Code::InvalidArgument, "resyncRate"),
        (&[("writePriority", "low"), ("arbiter", "lease")][..], Code::InvalidArgument, "arbiter"),
        (&[("writePriority", "low"), ("replicas", "3")][..], Code::FailedPrecondition, "changeMembers"),
        (&[("ack", "memory")][..], Code::InvalidArgument, "ack"),
    ] {
        let refused = setup.run(csi.modify("pvc-1", attributes)).expect_err(says);
        ensure!(refused.code() == code && refused.message().contains(says), "{refused:?}");
    }
    ensure!(setup.volume("pvc-1")?.context("it")?.spec == before, "all or none");
    Ok(())
}

#[test]
fn a_volume_is_made_elsewhere_when_a_member_is_lost_meanwhile() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c", "d"])?;
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(4)?;
    let csi = one.csi();
    // b has its engine ready as far as anybody knows, and never makes its part.
    setup.nodes.say("b", "pvc-1", MirrorReplicaStatus { phase: Phase::Pending, ..MirrorReplicaStatus::default() });
    let call = {
        let csi = csi.clone();
        setup.runtime.spawn(async move { csi.create_in_the_end(request("pvc-1", GIB, Some("b"), &[])).await })
    };
    setup.until("it is placed on b", || Ok((setup.parts("pvc-1")?.len() == 3).then_some(())))?;
    let first = setup.status("pvc-1")?.id;
    setup.nodes.set_away("b", true);
    setup.run(call)?.context("the volume is made all the same")?;
    let status = setup.status("pvc-1")?;
    ensure!(status.id != first && status.placement.iter().all(|placed| placed.node != "b"), "{status:?}");
    let old: Vec<_> = setup.parts("pvc-1")?.into_iter().filter(|part| part.spec.node_name == "b").collect();
    ensure!(old.len() == 1 && old[0].metadata.deletion_timestamp.is_some(), "what b may have waits for it");
    setup.nodes.set_away("b", false);
    setup.until("b took away what it had", || Ok((setup.parts("pvc-1")?.len() == 3).then_some(())))?;
    ensure!(setup.status("pvc-1")?.ready.as_deref() == Some("2/2"));
    Ok(())
}

impl Setup {
    /// Every member says from now on that these replicas are in sync.
    fn all_see(&self, volume: &str, epoch: u64, in_sync: &[&str]) -> Result<()> {
        for part in self.parts(volume)? {
            let mut status =
                MirrorReplicaStatus { phase: Phase::Ready, seen: seen(&part, epoch), ..Default::default() };
            status.seen.in_sync = in_sync.iter().map(|node| (*node).to_owned()).collect();
            self.nodes.say(&part.spec.node_name, volume, status);
        }
        Ok(())
    }

    /// Waits until these are the parts that stay, in order of their nodes, and each names all of them.
    fn wait_parts(&self, volume: &str, wanted: &[(&str, ReplicaRole)]) -> Result<()> {
        let last = || -> Result<Vec<(String, ReplicaRole, Vec<Member>)>> {
            let mut parts = self.parts(volume)?;
            parts.retain(|part| part.metadata.deletion_timestamp.is_none());
            Ok(parts.into_iter().map(|part| (part.spec.node_name, part.spec.role, part.spec.members)).collect())
        };
        let found = self.until(&format!("the parts are {wanted:?}"), || {
            let parts = last()?;
            let same = parts.iter().map(|(node, role, _)| (node.as_str(), *role)).eq(wanted.iter().copied());
            let told = parts.iter().all(|(_, _, members)| members.len() == wanted.len());
            Ok((same && told).then_some(()))
        });
        found.with_context(|| format!("{:?} {:?}", last(), self.status(volume)))
    }
}

#[test]
fn members_that_are_lost_are_replaced() -> Result<()> {
    use ReplicaRole::{Replica, TieBreaker};
    let setup = Setup::start(&["a", "b", "c", "d", "e"])?;
    let one = setup.controller("one", &format!("{POOLS}replaceAfter: 1s\n"))?;
    setup.wait_pools(5)?;
    let csi = one.csi();
    setup.run(csi.create_in_the_end(request("v", GIB, Some("a"), &[])))?;
    setup.wait_parts("v", &[("a", Replica), ("b", Replica), ("c", TieBreaker)])?;

    setup.nodes.set_away("b", true);
    setup.all_see("v", 2, &["a"])?;
    setup.wait_parts("v", &[("a", Replica), ("b", Replica), ("c", TieBreaker), ("d", Replica)])?;
    let new = setup.parts("v")?.into_iter().find(|part| part.spec.node_name == "d").context("the new one")?;
    ensure!(new.spec.joins, "it begins empty");
    setup.all_see("v", 3, &["a", "d"])?;
    setup.wait_parts("v", &[("a", Replica), ("c", TieBreaker), ("d", Replica)])?;
    let old = setup.parts("v")?.into_iter().find(|part| part.spec.node_name == "b").context("it waits for its node")?;
    ensure!(old.metadata.deletion_timestamp.is_some(), "{old:?}");

    // That one waits for its node, and keeps nobody from being replaced.
    setup.nodes.set_away("c", true);
    setup.wait_parts("v", &[("a", Replica), ("d", Replica), ("e", TieBreaker)])?;
    setup.nodes.set_away("b", false);
    setup.nodes.set_away("c", false);
    setup.until("what they had is gone", || Ok((setup.parts("v")?.len() == 3).then_some(())))?;

    // A replica that is gone from a pool that is there: another one is made in its place.
    let first = setup.parts("v")?.into_iter().find(|part| part.spec.node_name == "d").context("it")?.metadata.uid;
    let gone = condition(LOST, true, "NotInPool", "", None, Time(Timestamp::UNIX_EPOCH));
    let lost = MirrorReplicaStatus { phase: Phase::Failed, conditions: vec![gone], ..Default::default() };
    setup.nodes.say("d", "v", lost);
    setup.until("it is made anew", || {
        let part = setup.parts("v")?.into_iter().find(|part| part.spec.node_name == "d");
        Ok(part.filter(|part| part.metadata.uid != first && part.spec.joins).map(|_| ()))
    })?;
    Ok(())
}

#[test]
fn a_register_is_made_once_and_its_loss_is_told() -> Result<()> {
    let setup = Setup::start(&["a", "b"])?;
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(2)?;
    let csi = one.csi();
    let mut shared = request("pvc-1", GIB, None, &[("policing", "lease")]);
    shared.volume_capabilities = vec![block_many()];
    setup.run(csi.create_in_the_end(shared))?;
    let status = setup.status("pvc-1")?;
    ensure!(status.arbiter == Some(Arbiter::Lease), "two nodes: a Lease decides");
    let parts = setup.parts("pvc-1")?;
    ensure!(parts.len() == 2 && parts.iter().all(|part| part.spec.definition.policing_shards > 1), "{parts:?}");
    let registers = setup.registers()?;
    let [register] = registers.as_slice() else { anyhow::bail!("{registers:?}") };
    ensure!(!status.conditions.iter().any(|it| it.type_ == "RegisterLost"));

    setup.run(setup.leases().delete(&register.name_any(), &DeleteParams::default()))?;
    setup.until("its loss is told", || {
        let lost = setup.status("pvc-1")?.conditions.into_iter().find(|it| it.type_ == "RegisterLost");
        Ok(lost.filter(|it| it.status == "True").map(|_| ()))
    })?;
    one.restart()?;
    let refused = setup.run(csi.delete_in_the_end("pvc-1"));
    ensure!(refused.is_ok(), "{refused:?}");
    setup.wait_gone("pvc-1")?;
    ensure!(setup.registers()?.is_empty(), "never made anew");
    Ok(())
}

#[test]
fn a_controller_that_leaves_gives_the_leadership_away() -> Result<()> {
    let setup = Setup::start(&["a", "b"])?;
    let one = setup.controller_with_pools("one")?;
    let holder = || -> Result<String> {
        let lease = setup.run(setup.leases().get_opt("lockstep-controller"))?;
        Ok(lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default())
    };
    setup.until("it leads", || Ok(holder()?.starts_with("one").then_some(())))?;
    one.process.signal(Signal::SIGTERM)?;
    setup.until("nobody leads", || Ok(holder()?.is_empty().then_some(())))
}
