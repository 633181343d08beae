//! `lockstep volume`, `lockstep node` and `lockstep pool`.

use std::time::{Duration, Instant};

use lockstep_proto::node::v1 as proto;
use serde_json::json;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::args::{self, Format, Place};
use super::connect::Agent;
use super::progress::{Amount, Progress};
use super::{output, tables};
use crate::failure::Failure;
use crate::{input, rpc, spec, view};

/// How long a question to the agent may take: it may itself ask nodes that do not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long a change may take, on nodes whose disks are busy.
const CHANGE_WITHIN: Duration = Duration::from_secs(120);

/// How long beyond its own limit an attach is waited for, before the agent counts as not answering.
const ATTACH_GRACE: Duration = Duration::from_secs(60);

/// Runs one command.
pub(super) async fn run(place: &Place, format: Format, command: args::Volume) -> Result<(), Failure> {
    match command {
        args::Volume::Create(create) => self::create(place, format, create).await,
        args::Volume::Attach(attach) => self::attach(place, format, attach).await,
        args::Volume::Detach(named) => detach(place, format, named).await,
        args::Volume::Status(named) => {
            let mut agent = place.agent()?;
            let request = proto::GetVolumeRequest { volume: check(named.volume)? };
            let status = rpc::answer(&agent.name, ANSWER_WITHIN, agent.client.get_volume(request)).await?;
            print_volume(format, status)
        }
        args::Volume::Watch(watch) => self::watch(place, format, watch).await,
        args::Volume::List => list(place, format).await,
        args::Volume::Resize(resize) => self::resize(place, format, resize).await,
        args::Volume::Verify(verify) => self::verify(place, format, verify).await,
        args::Volume::Delete(delete) => self::delete(place, format, delete).await,
        args::Volume::Force(force) => self::force(place, format, force, Choice::Force).await,
        args::Volume::Rejoin(force) => self::force(place, format, force, Choice::Rejoin).await,
        args::Volume::Priority(priority) => set_priority(place, format, priority).await,
        args::Volume::Ack(ack) => set_ack(place, format, ack).await,
        args::Volume::Migrate(migrate) => self::migrate(place, format, migrate).await,
        args::Volume::LimitResync(limit) => limit_resync(place, format, limit).await,
    }
}

fn check(volume: String) -> Result<String, Failure> {
    input::check_name("volume", &volume).map(|()| volume)
}

fn print_volume(format: Format, status: proto::VolumeStatus) -> Result<(), Failure> {
    output::print(format, &view::Volume::from(status), tables::volume)
}

async fn create(place: &Place, format: Format, create: args::Create) -> Result<(), Failure> {
    // What is wrong by itself is said without asking anybody.
    input::check_name("name", &create.volume)?;
    let size_bytes = input::parse_size(&create.size)?;
    input::check_size(size_bytes)?;
    if create.replicas == Some(0) {
        return Err(Failure::wrong_input("replicas", 0, "must be 2 or 3"));
    }
    let mut request = proto::CreateVolumeRequest {
        name: create.volume,
        size_bytes,
        replicas: create.replicas.unwrap_or(0),
        on: create.on,
        tie_breaker: create.tie_breaker.unwrap_or_default(),
        ..Default::default()
    };
    request.set_ack(ack_to_proto(create.ack));
    request.set_on_quorum_loss(match create.on_quorum_loss {
        args::OnQuorumLoss::Suspend => proto::OnQuorumLoss::Suspend,
        args::OnQuorumLoss::Error => proto::OnQuorumLoss::Error,
    });
    request.set_access(match create.access {
        args::Access::SingleWriter => proto::Access::SingleWriter,
        args::Access::MultiWriter => proto::Access::MultiWriter,
    });
    request.set_arbiter(match create.arbiter {
        args::Arbiter::Peers => proto::Arbiter::Peers,
        args::Arbiter::Lease => proto::Arbiter::Lease,
    });
    request.set_policing(match create.policing {
        args::Policing::Peer => proto::Policing::Peer,
        args::Policing::Lease => proto::Policing::Lease,
    });
    request.policing_shards = create.policing_shards.map(|text| parse_shards(&text)).transpose()?;
    let (arbiter, access) = (spec::parse_arbiter(request.arbiter()), spec::parse_access(request.access()));
    spec::parse_policing(request.policing(), request.policing_shards, arbiter, access)?;
    let mut agent = place.agent()?;
    let mut progress = Progress::new(format!("creating {}", request.name));
    let call = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.create_volume(request));
    print_volume(format, progress.during(call).await?)
}

fn parse_shards(text: &str) -> Result<u32, Failure> {
    text.parse().map_err(|_| Failure::wrong_input("policing_shards", text, "must be a number, 1 to 16"))
}

async fn attach(place: &Place, format: Format, attach: args::Attach) -> Result<(), Failure> {
    let mut request = proto::AttachVolumeRequest {
        volume: check(attach.volume)?,
        take_over: attach.take_over,
        timeout_ms: u64::try_from(attach.timeout.as_millis()).unwrap_or(u64::MAX),
        ..Default::default()
    };
    request.set_front_end(match attach.front_end {
        args::FrontEnd::Auto => proto::FrontEnd::Auto,
        args::FrontEnd::Loop => proto::FrontEnd::Loop,
        args::FrontEnd::NbdSocket => proto::FrontEnd::NbdSocket,
    });
    request.set_fuse(match attach.fuse {
        args::Fuse::Recoverable => proto::Fuse::Recoverable,
        args::Fuse::IoUring => proto::Fuse::IoUring,
    });
    request.set_mode(if attach.read_only { proto::AttachMode::ReadOnly } else { proto::AttachMode::ReadWrite });
    request.set_priority(attach.priority.map_or(proto::Priority::Unspecified, to_proto));
    let mut agent = place.agent()?;
    let mut progress = Progress::new(format!("attaching {}", request.volume));
    let mut events = rpc::answer(&agent.name, ANSWER_WITHIN, agent.client.attach_volume(request)).await?;
    let deadline = Instant::now() + attach.timeout + ATTACH_GRACE;
    loop {
        let event = next(&agent, &mut events, deadline).await;
        match event.inspect_err(|_| progress.clear())?.and_then(|event| event.event) {
            Some(proto::attach_volume_event::Event::Progress(step)) => progress.step(&step.step, None),
            Some(proto::attach_volume_event::Event::Attached(attachment)) => {
                progress.clear();
                return output::print(format, &view::Attachment::from(attachment), tables::attachment);
            }
            None => {
                progress.clear();
                return Err(Failure::not_reachable(format!("{} ended before the volume was attached", agent.name)));
            }
        }
    }
}

async fn next<T>(agent: &Agent, events: &mut Streaming<T>, deadline: Instant) -> Result<Option<T>, Failure> {
    let name = &agent.name;
    match tokio::time::timeout_at(deadline.into(), events.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(event))) => Ok(Some(event)),
        Ok(Some(Err(status))) => Err(rpc::name_transport_error(name, &status)),
        Err(_) => Err(Failure::not_reachable(format!("{name} does not answer any more"))),
    }
}

async fn detach(place: &Place, format: Format, named: args::Named) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let volume = check(named.volume)?;
    let request = proto::DetachVolumeRequest { volume: volume.clone() };
    let mut progress = Progress::new(format!("detaching {volume}"));
    let call = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.detach_volume(request));
    let was_attached = progress.during(call).await?.was_attached;
    output::print(format, &json!({ "volume": volume, "was_attached": was_attached }), |_| match was_attached {
        true => format!("{volume} is detached"),
        false => format!("{volume} was not attached"),
    })
}

async fn list(place: &Place, format: Format) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let list = rpc::answer(&agent.name, ANSWER_WITHIN, agent.client.list_volumes(proto::ListVolumesRequest {})).await?;
    let volumes: Vec<view::Volume> = list.volumes.into_iter().map(view::Volume::from).collect();
    output::print(format, &volumes, |volumes| tables::volumes(volumes))
}

/// Shows the resync of this node's replica, or the wait for another's, until all are in sync.
async fn watch(place: &Place, format: Format, watch: args::Watch) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let request = proto::WatchVolumeRequest { volume: check(watch.volume)?, interval_ms: 0 };
    let deadline = watch.timeout.map(|timeout| Instant::now() + timeout);
    let mut progress = Progress::new(format!("resync of {}", request.volume));
    let mut events = rpc::answer(&agent.name, ANSWER_WITHIN, agent.client.watch_volume(request)).await?;
    loop {
        // The agent sends one status after the other: silence is not progress.
        let status = next(&agent, &mut events, Instant::now() + ANSWER_WITHIN).await?;
        let status = status.ok_or_else(|| Failure::not_reachable(format!("{} has ended", agent.name)))?;
        let whole = status.joining.is_empty() && status.replicas.iter().all(|replica| replica.in_sync);
        if whole {
            progress.clear();
            return print_volume(format, status);
        }
        let resync = status.resync.clone().unwrap_or_default();
        let owed: u64 = status.dirty_bytes.values().sum();
        match resync.active {
            true => progress.step("", Some(Amount::of_resync(&resync))),
            false => progress.step(&format!("waits; {} owed to others", input::show_bytes(owed)), None),
        }
        if format == Format::Json {
            output::print(format, &view::Volume::from(status), tables::volume)?;
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            progress.clear();
            return Err(Failure::not_reachable("the replicas are not all in sync yet".to_owned()));
        }
    }
}

async fn resize(place: &Place, format: Format, resize: args::Resize) -> Result<(), Failure> {
    let size_bytes = input::parse_size(&resize.size)?;
    input::check_size(size_bytes)?;
    let mut agent = place.agent()?;
    let request = proto::ResizeVolumeRequest { volume: check(resize.volume)?, size_bytes };
    let mut progress = Progress::new(format!("resizing {}", request.volume));
    let call = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.resize_volume(request));
    print_volume(format, progress.during(call).await?)
}

async fn verify(place: &Place, format: Format, verify: args::Verify) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let request = proto::VerifyVolumeRequest {
        volume: check(verify.volume)?,
        repair_from: verify.repair_from.unwrap_or_default(),
    };
    let mut progress = Progress::new(format!("verifying {}", request.volume));
    let mut events = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.verify_volume(request)).await?;
    loop {
        // The engine tells how far it is even while nothing moves: silence is not progress.
        let event = next(&agent, &mut events, Instant::now() + CHANGE_WITHIN).await;
        let state = event.inspect_err(|_| progress.clear())?;
        let state = state.ok_or_else(|| Failure::not_reachable(format!("{} ended before the end", agent.name)))?;
        if state.done {
            progress.clear();
            return output::print(format, &view::Verify::from(state), tables::verify);
        }
        progress.step("", Some(Amount::of_verify(&state)));
    }
}

async fn delete(place: &Place, format: Format, delete: args::Delete) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let volume = check(delete.volume)?;
    let request = proto::DeleteVolumeRequest { volume: volume.clone(), allow_absent: delete.allow_absent };
    let mut progress = Progress::new(format!("deleting {volume}"));
    let call = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.delete_volume(request));
    let proto::DeleteVolumeReply { pending_nodes: pending, leases_pending } = progress.during(call).await?;
    let leases = Some(&leases_pending).filter(|reason| !reason.is_empty());
    let json = json!({ "volume": volume, "deleted": true, "pending_nodes": pending, "leases_pending": leases });
    output::print(format, &json, |_| {
        let mut text = format!("{volume} is deleted");
        if !pending.is_empty() {
            text.push_str(&format!("; its part goes when they come back from {}", pending.join(", ")));
        }
        if let Some(reason) = leases {
            text.push_str(&format!("; its Leases go when the API server lets them: {reason}"));
        }
        text
    })
}

/// Whose generation is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Force,
    Rejoin,
}

async fn force(place: &Place, format: Format, force: args::Force, choice: Choice) -> Result<(), Failure> {
    let volume = check(force.volume)?;
    if !force.i_accept_data_loss {
        let message = match choice {
            Choice::Force => "must be given: what the other replicas hold and this one does not is given up",
            Choice::Rejoin => "must be given: what only this node's replica holds is given up",
        };
        return Err(Failure::wrong_input("i-accept-data-loss", "false", message));
    }
    let mut agent = place.agent()?;
    let request = proto::ForceVolumeRequest { volume: volume.clone(), accept_data_loss: true };
    let status = match choice {
        Choice::Force => {
            let call = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.force_volume(request));
            Progress::new(format!("forcing {volume}")).during(call).await?
        }
        Choice::Rejoin => {
            let call = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.rejoin_volume(request));
            Progress::new(format!("rejoining {volume}")).during(call).await?
        }
    };
    print_volume(format, status)
}

const fn to_proto(priority: args::Priority) -> proto::Priority {
    match priority {
        args::Priority::Low => proto::Priority::Low,
        args::Priority::Normal => proto::Priority::Normal,
        args::Priority::High => proto::Priority::High,
    }
}

async fn set_priority(place: &Place, format: Format, set: args::SetPriority) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let mut request = proto::SetPriorityRequest { volume: check(set.volume)?, ..Default::default() };
    request.set_priority(to_proto(set.priority));
    print_volume(format, rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.set_priority(request)).await?)
}

const fn ack_to_proto(ack: args::Ack) -> proto::Ack {
    match ack {
        args::Ack::Disk => proto::Ack::Disk,
        args::Ack::Durable => proto::Ack::Durable,
    }
}

async fn set_ack(place: &Place, format: Format, set: args::SetAck) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let mut request = proto::SetAckRequest { volume: check(set.volume)?, ..Default::default() };
    request.set_ack(ack_to_proto(set.ack));
    print_volume(format, rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.set_ack(request)).await?)
}

async fn migrate(place: &Place, format: Format, migrate: args::Migrate) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let request = proto::MigrateVolumeRequest { volume: check(migrate.volume)?, to: migrate.to };
    let (volume, node) = (request.volume.clone(), request.to.clone());
    let mut progress = Progress::new(format!("moving the grants of {volume} to {node}"));
    let call = rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.migrate_volume(request));
    let proto::MigrateVolumeReply { took_us } = progress.during(call).await?;
    output::print(format, &view::Migration { volume, node, took_us }, tables::migration)
}

async fn limit_resync(place: &Place, format: Format, limit: args::LimitResync) -> Result<(), Failure> {
    let bytes_per_second = input::parse_size(&limit.rate).map_err(|failure| Failure {
        field: Some("rate".to_owned()),
        message: "is not a rate; write bytes a second with a unit, like 50MiB, or 0 for no limit".to_owned(),
        ..failure
    })?;
    let mut agent = place.agent()?;
    let request = proto::LimitResyncRequest { volume: check(limit.volume)?, bytes_per_second };
    print_volume(format, rpc::answer(&agent.name, CHANGE_WITHIN, agent.client.limit_resync(request)).await?)
}

/// `lockstep node`.
pub(super) async fn node(place: &Place, format: Format) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let node = rpc::answer(&agent.name, ANSWER_WITHIN, agent.client.get_node(proto::GetNodeRequest {})).await?;
    output::print(format, &view::Node::from(node), tables::node)
}

/// `lockstep pool`.
pub(super) async fn pool(place: &Place, format: Format) -> Result<(), Failure> {
    let mut agent = place.agent()?;
    let pool = rpc::answer(&agent.name, ANSWER_WITHIN, agent.client.get_pool(proto::GetPoolRequest {})).await?;
    output::print(format, &view::Pool::from(pool), tables::pool)
}
