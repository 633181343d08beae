//! Volumes are made, found again, refused and deleted, by whatever replica of the controller is asked, over a real API server.

mod setup;

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use lockstep_api::{ReplicaRole, VolumeState, is_true};
use setup::{Setup, request};
use tonic::Code;

const GIB: i64 = 1 << 30;

#[test]
fn one_volume_is_made_by_ten_requests_at_two_controllers_and_goes_without_a_trace() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let (one, two) = (setup.controller_with_pools("one")?, setup.controller_with_pools("two")?);
    setup.wait_pools(3)?;
    let wanted = request("pvc-1", GIB, Some("b"), &[]);
    let answers = setup.run(async {
        let calls = (0..10).map(|at| {
            let (csi, wanted) = (if at % 2 == 0 { one.csi() } else { two.csi() }, wanted.clone());
            async move { csi.create_in_the_end(wanted).await }
        });
        futures::future::join_all(calls).await
    });
    for answer in answers {
        let volume = answer.context("an answer")?;
        ensure!(volume.volume_id == "pvc-1" && volume.capacity_bytes == GIB, "{volume:?}");
        ensure!(volume.accessible_topology[0].segments.contains_key("topology.csi.lockstep.storage/driver"));
    }
    let volume = setup.volume("pvc-1")?.context("the object")?;
    let status = volume.status.clone().context("its status")?;
    ensure!(is_true(&status.conditions, "Ready") && status.state == VolumeState::UpToDate, "{status:?}");
    ensure!(status.ready.as_deref() == Some("2/2") && status.epoch == 1, "{status:?}");
    let parts = setup.parts("pvc-1")?;
    let of = |role| -> Vec<String> {
        parts.iter().filter(|part| part.spec.role == role).map(|part| part.spec.node_name.clone()).collect()
    };
    let replicas = of(ReplicaRole::Replica);
    ensure!(replicas.len() == 2 && replicas.contains(&"b".to_owned()), "the first consumer's has one: {replicas:?}");
    ensure!(of(ReplicaRole::TieBreaker).len() == 1 && parts.len() == 3);
    ensure!(parts.iter().all(|part| part.spec.definition == parts[0].spec.definition), "all are told the same");

    // Another volume under the name is refused by both.
    for csi in [one.csi(), two.csi()] {
        let other = setup.run(csi.create(request("pvc-1", 2 * GIB, None, &[]))).expect_err("another size");
        ensure!(other.code() == Code::AlreadyExists, "{other:?}");
        let other = setup.run(csi.create(request("pvc-1", GIB, None, &[("ack", "durable")]))).expect_err("another ack");
        ensure!(other.code() == Code::AlreadyExists && other.message().contains("ack"), "{other:?}");
        ensure!(setup.run(csi.list())? == ["pvc-1"]);
    }
    let wrong = setup.run(one.csi().create(request("pvc-2", GIB, None, &[("frontEnd", "ublk")]))).expect_err("wrong");
    ensure!(wrong.code() == Code::InvalidArgument && wrong.message().contains("auto or loop"), "{wrong:?}");

    setup.run(two.csi().delete("pvc-1"))?;
    setup.wait_gone("pvc-1")?;
    setup.run(one.csi().delete("pvc-1")).context("again")?;
    Ok(())
}

#[test]
fn what_finds_no_room_leaves_nothing_and_capacity_says_so_before() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(3)?;
    let csi = one.csi();
    setup.until("capacity is known", || Ok((setup.run(csi.largest("a"))? == 99 * GIB).then_some(())))?;
    let refused = setup.run(csi.create(request("pvc-big", 200 * GIB, Some("a"), &[]))).expect_err("too large");
    ensure!(refused.code() == Code::ResourceExhausted && refused.message().contains("a: has room for"), "{refused:?}");
    setup.wait_gone("pvc-big")?;
    let refused = setup.run(csi.create(request("pvc-far", GIB, None, &[("poolSelector", "disk=nvme")])));
    let refused = refused.expect_err("no pool has the label");
    ensure!(refused.code() == Code::ResourceExhausted && refused.message().contains("poolSelector"), "{refused:?}");
    setup.wait_gone("pvc-far")?;
    // What was promised counts, also of volumes made a moment ago: fifty side by side take all there is, and no more.
    let made = setup.run(async {
        let calls = (0..20).map(|at| {
            let csi = csi.clone();
            async move { csi.create_in_the_end(request(&format!("pvc-{at}"), 10 * GIB, None, &[])).await }
        });
        futures::future::join_all(calls).await
    });
    let fitted = made.iter().filter(|answer| answer.is_ok()).count();
    let promised = |name: &str| -> Result<i64> {
        let parts = setup.run(setup.all::<lockstep_api::MirrorReplica>().list(&Default::default()))?.items;
        let here = parts.iter().filter(|part| part.spec.node_name == name && part.spec.role == ReplicaRole::Replica);
        Ok(here.map(|part| part.spec.definition.size_bytes).sum())
    };
    for node in ["a", "b", "c"] {
        ensure!(promised(node)? <= 100 * GIB, "{node} is promised {} GiB", promised(node)? / GIB);
    }
    ensure!((12..=14).contains(&fitted), "of 27 replicas' room, {fitted} volumes of two");
    ensure!(made.iter().flat_map(|answer| answer.as_ref().err()).all(|it| it.code() == Code::ResourceExhausted));
    Ok(())
}

#[test]
fn a_volume_in_use_stays_and_a_node_that_is_away_finishes_later() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(3)?;
    let csi = one.csi();
    setup.run(csi.create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;
    for part in setup.parts("pvc-1")? {
        setup.nodes.say(&part.spec.node_name, "pvc-1", setup::attached(&part, "a", 2));
    }
    setup.until("the writer is seen", || {
        let status = setup.volume("pvc-1")?.and_then(|volume| volume.status).unwrap_or_default();
        Ok((status.writers == ["a"] && status.epoch == 2).then_some(()))
    })?;
    let refused = setup.run(csi.delete("pvc-1")).expect_err("it is in use");
    ensure!(refused.code() == Code::FailedPrecondition && refused.message().contains("on a"), "{refused:?}");
    ensure!(setup.volume("pvc-1")?.context("it stays")?.metadata.deletion_timestamp.is_none());

    // By hand it is blocked, and says why.
    setup.run(setup.all::<lockstep_api::MirrorVolume>().delete("pvc-1", &Default::default()))?;
    setup.until("the deletion is blocked", || {
        let status = setup.volume("pvc-1")?.context("it stays")?.status.unwrap_or_default();
        let blocked = status.conditions.iter().find(|it| it.type_ == "DeletionBlocked" && it.reason == "InUse");
        Ok(blocked.map(|_| ()))
    })?;
    ensure!(setup.parts("pvc-1")?.iter().all(|part| part.metadata.deletion_timestamp.is_none()), "nothing is touched");

    // It is not used any more; one of its nodes is away.
    let away = setup.parts("pvc-1")?.iter().map(|part| part.spec.node_name.clone()).find(|node| node != "a");
    let away = away.context("another node")?;
    setup.nodes.set_away(&away, true);
    for part in setup.parts("pvc-1")? {
        let mut free = setup::attached(&part, "a", 3);
        (free.attached, free.seen.writers) = (None, Vec::new());
        setup.nodes.say(&part.spec.node_name, "pvc-1", free);
    }
    setup.until("only the node that is away is left", || {
        let left: Vec<String> = setup.parts("pvc-1")?.iter().map(|part| part.spec.node_name.clone()).collect();
        Ok((left == [away.clone()]).then_some(()))
    })?;
    setup.run(csi.delete_in_the_end("pvc-1")).context("the rest is for later")?;
    ensure!(setup.volume("pvc-1")?.is_some(), "the finalizer holds it");
    setup.nodes.set_away(&away, false);
    setup.wait_gone("pvc-1")
}

#[test]
fn a_killed_controller_is_followed_by_the_other_and_by_itself() -> Result<()> {
    let setup = Setup::start(&["a", "b"])?;
    let (one, two) = (setup.controller_with_pools("one")?, setup.controller_with_pools("two")?);
    setup.wait_pools(2)?;
    let leases: kube::Api<k8s_openapi::api::coordination::v1::Lease> =
        kube::Api::namespaced(setup.client.clone(), setup::NAMESPACE);
    let leader = || -> Result<String> {
        let lease = setup.run(leases.get("lockstep-controller"))?;
        Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
    };
    for round in 0..4 {
        let name = format!("pvc-{round}");
        let holder = leader()?;
        let (leads, follows) = if holder.starts_with("one") { (&one, &two) } else { (&two, &one) };
        // Killed while it makes volumes: some are only wished for, some placed, some half made.
        let calls: Vec<_> = (0..6)
            .map(|at| {
                let csi = follows.csi();
                let wanted = request(&format!("{name}-{at}"), GIB, Some("a"), &[]);
                setup.runtime.spawn(async move { csi.create_in_the_end(wanted).await })
            })
            .collect();
        setup.until("the first is placed", || {
            Ok(setup.volume(&format!("{name}-{round}"))?.filter(|it| it.status.is_some()).map(|_| ()))
        })?;
        leads.restart()?;
        for call in calls {
            setup.run(call)?.with_context(|| format!("round {round}"))?;
        }
        setup.until("another leads", || Ok((leader()? != holder).then_some(())))?;
        for at in 0..6 {
            let volume = format!("{name}-{at}");
            ensure!(setup.parts(&volume)?.len() == 2, "two nodes, and a Lease decides");
            setup.run(follows.csi().delete_in_the_end(&volume))?;
            setup.wait_gone(&volume)?;
        }
        let registers = setup.run(leases.list(&Default::default()))?.items;
        ensure!(registers.len() == 1, "{:?}", registers.iter().map(|it| it.name_any()).collect::<Vec<_>>());
    }
    Ok(())
}
