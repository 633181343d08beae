//! Grant Leases at a real API server: written by one of several, told by one watch, and a node's own Lease.

mod setup;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{DeleteParams, PostParams};
use lockstep_core::{
    Class, Effect, Epoch, GrantLease, GrantNumber, Incarnation, Input, LeaseAsk, LeaseTold, LeaseWant, NodeId,
    VolumeId, Wish,
};
use lockstep_leases::{Kind, Leases, Service, Verb, names};
use setup::Setup;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const VOLUME: VolumeId = VolumeId([3; 16]);
const SHARD: u8 = 15;
/// While nothing is told that should not be.
const SILENCE: Duration = Duration::from_millis(500);

fn said(holder: u32, counter: u64) -> GrantLease {
    let wish = Wish { node: NodeId(2), incarnation: Incarnation(u64::MAX), class: Class::High };
    GrantLease {
        number: GrantNumber { epoch: Epoch(4), counter },
        holder: Some((NodeId(holder), Incarnation(9))),
        wishes: vec![wish],
    }
}

fn write(version: u64, lease: &GrantLease) -> LeaseWant {
    LeaseWant::Write { shard: SHARD, version, lease: Box::new(lease.clone()) }
}

fn found(told: LeaseTold) -> Result<(u64, Result<GrantLease, String>)> {
    match told {
        LeaseTold::Found { shard: SHARD, version, lease } => Ok((version, lease)),
        other => bail!("{other:?}"),
    }
}

/// What it says of itself, which is nothing, for this reason.
fn useless(told: LeaseTold, says: &str) -> Result<u64> {
    let (version, lease) = found(told)?;
    let reason = lease.err().context("it can be used")?;
    ensure!(reason.contains(says) && reason.contains("-grants-15"), "{reason}");
    Ok(version)
}

#[test]
fn grant_lease_is_made_written_by_one_and_written_anew_over_anything() -> Result<()> {
    let setup = Setup::start()?;
    let (a, b) = (setup.leases("a"), setup.leases("b"));
    let ask = |leases: &Leases, want: LeaseWant| setup.run(leases.lease(VOLUME, &want));
    let read = LeaseWant::Read { shard: SHARD };
    ensure!(useless(ask(&a, read.clone()), "does not exist")? == 0);
    // Nothing is made by a write.
    ensure!(useless(ask(&a, write(7, &said(1, 1))), "does not exist")? == 0);
    let made = useless(ask(&a, LeaseWant::Make { shard: SHARD }), "not opened yet")?;
    ensure!(ask(&b, LeaseWant::Make { shard: SHARD }) == LeaseTold::Conflict);
    ensure!(useless(ask(&b, read.clone()), "not opened yet")? == made);

    let (version, lease) = found(ask(&a, write(made, &said(1, 1))))?;
    ensure!(version > made && lease == Ok(said(1, 1)), "{lease:?}");
    ensure!(ask(&b, write(made, &said(2, 2))) == LeaseTold::Conflict, "under the version of before");
    ensure!(found(ask(&b, read.clone()))? == (version, Ok(said(1, 1))));
    let nobody = GrantLease { holder: None, wishes: Vec::new(), ..said(1, u64::MAX) };
    let (version, lease) = found(ask(&b, write(version, &nobody)))?;
    ensure!(lease == Ok(nobody), "{lease:?}");

    let (objects, name) = (setup.objects()?, names::grants_name(VOLUME, SHARD));
    let mut edited = setup.run(objects.get(&name))?;
    edited.spec.get_or_insert_default().holder_identity = Some("somebody".to_owned());
    setup.run(objects.replace(&name, &PostParams::default(), &edited))?;
    let nonsense = useless(ask(&a, read.clone()), "is no node's run")?;
    ensure!(nonsense > version);
    let (_, lease) = found(ask(&a, write(nonsense, &said(1, 5))))?;
    ensure!(lease == Ok(said(1, 5)), "{lease:?}");

    let mut copy = setup.run(objects.get(&name))?;
    setup.run(objects.delete(&name, &DeleteParams::default()))?;
    ensure!(useless(ask(&b, read.clone()), "does not exist")? == 0);
    (copy.metadata.uid, copy.metadata.resource_version) = (None, None);
    setup.run(objects.create(&PostParams::default(), &copy))?;
    let copied = useless(ask(&b, read.clone()), "deleted and made again, or copied")?;
    let (_, lease) = found(ask(&b, write(copied, &said(2, 6))))?;
    ensure!(lease == Ok(said(2, 6)), "{lease:?}");

    setup.server.stop_server()?;
    for want in [read, write(copied, &said(1, 7)), LeaseWant::ReadNode { node: NodeId(1) }] {
        let told = ask(&b, want);
        ensure!(matches!(told, LeaseTold::Failed { .. }), "{told:?}");
    }
    setup.server.restart_server()?;
    setup.run(a.delete_all(VOLUME))?;
    ensure!(setup.count()? == 0);
    Ok(())
}

/// A service, and what it tells.
struct Heard {
    service: Service,
    told: Receiver<(VolumeId, Input)>,
}

impl Heard {
    fn start(setup: &Setup) -> Result<Self> {
        let (sender, told) = channel();
        let sender = Mutex::new(sender);
        let tell = move |volume, input| drop(sender.lock().expect("no holder panics").send((volume, input)));
        let service = Service::start(setup.leases("a"), NodeId(1), Arc::new(tell))?;
        Ok(Heard { service, told })
    }

    /// The next that is as wanted; what comes before is of no interest.
    fn until<T>(&self, what: &str, wanted: impl Fn(VolumeId, Input) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + setup::BOUND;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (volume, input) = self.told.recv_timeout(left).with_context(|| format!("not told: {what}"))?;
            if let Some(found) = wanted(volume, input) {
                return Ok(found);
            }
        }
    }

    /// A grant Lease, by the watch.
    fn seen(&self, what: &str, wanted: impl Fn(u64, &Result<GrantLease, String>) -> bool) -> Result<u64> {
        self.until(what, |volume, input| match input {
            Input::Lease { ask: None, told: LeaseTold::Found { shard: SHARD, version, lease } } => {
                (volume == VOLUME && wanted(version, &lease)).then_some(version)
            }
            _ => None,
        })
    }

    fn renewed(&self, of: VolumeId) -> Result<()> {
        self.until("renewed", |volume, input| {
            let renewed = input == Input::Lease { ask: None, told: LeaseTold::Renewed };
            (renewed && volume == of).then_some(())
        })
    }
}

#[test]
fn one_watch_tells_what_others_do_also_after_the_server_was_away() -> Result<()> {
    let setup = Setup::start()?;
    let other = setup.leases("b");
    let ask = |want: LeaseWant| setup.run(other.lease(VOLUME, &want));
    let heard = Heard::start(&setup)?;
    heard.service.police(VOLUME);
    heard.renewed(VOLUME)?;
    let made = useless(ask(LeaseWant::Make { shard: SHARD }), "not opened")?;
    heard.seen("it was made", |version, lease| version == made && lease.is_err())?;
    let started = Instant::now();
    let (written, _) = found(ask(write(made, &said(2, 1))))?;
    heard.seen("it was written", |version, lease| version == written && *lease == Ok(said(2, 1)))?;
    println!("written and told after {:?}", started.elapsed());

    // What the service itself is asked for comes with the number of the question.
    let want = LeaseWant::Read { shard: SHARD };
    heard.service.ask(VOLUME, Effect::Lease { ask: LeaseAsk(5), want });
    heard.until("an answer", |_, input| {
        matches!(input, Input::Lease { ask: Some(LeaseAsk(5)), told: LeaseTold::Found { .. } }).then_some(())
    })?;

    // Nothing is told while it stands still; what happened meanwhile comes when it runs on.
    setup.server.pause()?;
    ensure!(heard.told.recv_timeout(SILENCE).is_err(), "a frozen server tells");
    setup.server.resume()?;
    let (written, _) = found(ask(write(written, &said(1, 2))))?;
    heard.seen("it was written after the pause", |version, _| version == written)?;

    setup.server.stop_server()?;
    setup.server.restart_server()?;
    let (written, _) = found(ask(write(written, &said(2, 3))))?;
    heard.seen("it was written after the restart", |version, _| version == written)?;
    setup.run(other.delete_all(VOLUME))?;
    heard.seen("it was deleted", |version, _| version == 0)?;
    // Another volume's Leases are nobody's business here.
    let stranger = VolumeId([9; 16]);
    setup.run(other.lease(stranger, &LeaseWant::Make { shard: 0 }));
    let told = heard.told.recv_timeout(SILENCE);
    ensure!(told.is_err(), "{told:?}");
    Ok(())
}

#[test]
fn node_renews_one_lease_however_many_volumes_and_takes_it_away_with_the_last() -> Result<()> {
    let setup = Setup::start()?;
    let heard = Heard::start(&setup)?;
    let other = setup.leases("b");
    let stamp = || match setup.run(other.lease(VOLUME, &LeaseWant::ReadNode { node: NodeId(1) })) {
        LeaseTold::Node { node: NodeId(1), renewed } => Ok(renewed),
        told => bail!("{told:?}"),
    };
    ensure!(stamp()?.is_none(), "before any volume runs");
    let volumes: Vec<VolumeId> = (0..100).map(|number| VolumeId([number; 16])).collect();
    for volume in &volumes {
        heard.service.police(*volume);
    }
    heard.renewed(volumes[99])?;
    let first = stamp()?.context("it is there")?;
    let sent = |verb, kind| heard.service.leases().requests().sent(verb, kind);
    let of_node = || sent(Verb::Update, Kind::Node) + sent(Verb::Create, Kind::Node);
    ensure!(of_node() <= 3, "{} requests", of_node());
    // It is renewed by itself, and by one request.
    let (before, started) = (of_node(), Instant::now());
    setup.until("renewed", || Ok((stamp()? != Some(first) && of_node() > before).then_some(())))?;
    println!("after {:?}", started.elapsed());
    ensure!(sent(Verb::List, Kind::Grants) == 1 && sent(Verb::Watch, Kind::Grants) == 1);
    ensure!(sent(Verb::Get, Kind::Grants) + sent(Verb::Get, Kind::Configuration) == 0);

    // Whoever takes it away by hand sees it again.
    let (objects, name) = (setup.objects()?, names::node_name(NodeId(1)));
    setup.run(objects.delete(&name, &DeleteParams::default()))?;
    setup.until("made again", || Ok(stamp()?.is_some().then_some(())))?;
    for volume in &volumes {
        heard.service.ended(*volume);
    }
    setup.until("gone with the last volume", || Ok(stamp()?.is_none().then_some(())))?;
    Ok(())
}
