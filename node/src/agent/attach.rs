//! Attaching: the engine makes the device or socket, the agent gives it the volume's name.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockstep_proto::node::v1 as proto;
use tokio::sync::mpsc::Sender;
use tonic::Status;

use super::{Agent, CHANGE_WITHIN};
use crate::failure::{Failure, Kind};
use crate::host::{device_node, mounts};
use crate::spec::Spec;
use crate::{input, rpc};

/// How long an attach may wait if its caller does not say.
const ATTACH_WITHIN: Duration = Duration::from_secs(30);

/// The longest that a caller may say: a wait for proof ends some day, and somebody looks.
const ATTACH_WITHIN_MAX: Duration = Duration::from_secs(3600);

/// How often the caller is told what is being waited for.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether an engine that has just started has its pool.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where a caller hears what happens.
pub(crate) type Events = Sender<Result<proto::AttachVolumeEvent, Status>>;

impl Agent {
    /// Attaches, telling `events` meanwhile what is waited for.
    pub(crate) async fn attach(
        &self,
        request: proto::AttachVolumeRequest,
        events: &Events,
    ) -> Result<proto::Attachment, Failure> {
        let spec = self.volume(&request.volume).await?;
        let timeout = match request.timeout_ms {
            0 => ATTACH_WITHIN,
            given => Duration::from_millis(given).min(ATTACH_WITHIN_MAX),
        };
        self.ensure_member(&spec, Instant::now() + timeout).await?;
        let engine_request = proto::EngineAttachRequest {
            volume: spec.name.clone(),
            front_end: request.front_end,
            fuse: request.fuse,
            mode: request.mode,
            take_over: request.take_over,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            priority: request.priority,
        };
        // The engine ends the wait itself and says why; only if it does not answer at all is it ended here.
        let longest = timeout + CHANGE_WITHIN;
        let mut engine = self.engine();
        let engine_name = self.engine_name();
        let call = rpc::answer(&engine_name, longest, engine.attach(engine_request));
        let attachment = tokio::select! {
            attached = call => attached.map_err(|failure| self.explain_attach(&spec, failure))?,
            () = self.tell(&spec, request.take_over, events) => {
                return Err(Failure::other("the caller went away"));
            }
        };
        self.name_device(attachment)
    }

    /// A node without any part of the volume becomes a member without data.
    async fn ensure_member(&self, spec: &Spec, deadline: Instant) -> Result<(), Failure> {
        while !self.has_part(&spec.name).await? {
            if !spec.replicas.contains_key(&self.me.id) {
                self.register_here(spec)?;
                return self.admit_here(spec).await;
            }
            let failure = self.explain_lost_replica(spec).await;
            // An engine that has just started is told of its pool in a moment.
            if failure.kind != Kind::NotReachable || Instant::now() >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// This node should have a replica, and its engine knows of none. Nothing is made in its place: it would be empty.
    async fn explain_lost_replica(&self, spec: &Spec) -> Failure {
        let node = &self.me.name;
        if let Err(reason) = self.pool() {
            return Failure::state_forbids(format!(
                "the pool of node {node} is not open: {reason}; attach at another node"
            ));
        }
        let call = self.engine().get_identity(proto::GetIdentityRequest {}).await;
        if call.is_ok_and(|identity| identity.get_ref().pool.is_empty()) {
            let refused = self.pool_refused.lock().expect("no holder panics").clone();
            if !refused.is_empty() {
                return Failure::state_forbids(format!(
                    "the pool of node {node} is not open: {refused}; attach at another node"
                ));
            }
            return Failure::not_reachable(format!("the engine of node {node} has not opened its pool yet"));
        }
        let message = format!("the replica of volume {:?} is not in the pool of node {node} any more", spec.name);
        Failure::state_forbids(format!("{message}; attach at another node"))
    }

    fn explain_attach(&self, spec: &Spec, failure: Failure) -> Failure {
        match &failure.holder {
            Some(holder) if !failure.message.contains("--take-over") => {
                let message = format!(
                    "{}; detach it there, or attach with --take-over to wait until node {holder} is proven fenced",
                    failure.message
                );
                Failure { message, ..failure }
            }
            _ => self.name_members(spec, failure),
        }
    }

    /// Tells what is waited for, until the caller no longer listens.
    async fn tell(&self, spec: &Spec, take_over: bool, events: &Events) {
        let start = Instant::now();
        let mut interval = tokio::time::interval(TELL_EVERY);
        interval.tick().await;
        loop {
            tokio::select! {
                () = events.closed() => return,
                _ = interval.tick() => {}
            }
            let step = match self.engine_status(&spec.name).await {
                Ok(status) => describe_wait(&status, &self.me.name, take_over),
                Err(failure) => failure.message,
            };
            let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let progress = proto::AttachProgress { step, elapsed_ms };
            let event = proto::attach_volume_event::Event::Progress(progress);
            if events.send(Ok(proto::AttachVolumeEvent { event: Some(event) })).await.is_err() {
                return;
            }
        }
    }

    fn name_device(&self, mut attachment: proto::Attachment) -> Result<proto::Attachment, Failure> {
        attachment.node.clone_from(&self.me.name);
        if attachment.device.is_empty() {
            return Ok(attachment);
        }
        let path = self.device_path(&attachment.volume);
        device_node::ensure_node(&path, attachment.device_major, attachment.device_minor)
            .map_err(|error| Failure::of_host("name the device", &error))?;
        attachment.device = path.display().to_string();
        Ok(attachment)
    }

    pub(super) fn device_path(&self, volume: &str) -> PathBuf {
        self.cluster().this.volume_dev_dir.join(volume)
    }

    pub(crate) async fn detach(&self, name: &str) -> Result<bool, Failure> {
        let spec = self.volume(name).await?;
        let path = self.device_path(&spec.name);
        if let Some(point) = observe_mounted(&path).map_err(|error| Failure::of_host("list the mounts", &error))? {
            let message = format!("volume {name:?} is mounted at {}: unmount it first", point.display());
            return Err(Failure::state_forbids(message));
        }
        let request = proto::EngineDetachRequest { volume: spec.name.clone(), force: false };
        let reply = rpc::answer(&self.engine_name(), CHANGE_WITHIN, self.engine().detach(request)).await;
        let was_attached = match reply {
            Ok(reply) => reply.was_attached,
            Err(failure) if failure.kind == Kind::WrongInput => false,
            Err(failure) => return Err(failure),
        };
        device_node::remove_node(&path).map_err(|error| Failure::of_host("remove the device's name", &error))?;
        Ok(was_attached)
    }

    /// Gives every attached device its name again, and takes names away whose volume is not attached: after a restart.
    pub(super) async fn ensure_device_names(&self) -> Result<(), Failure> {
        for status in self.list_here().await? {
            let Some(this) = status.this_node else { continue };
            let attached = !matches!(this.attached(), proto::AttachMode::Unspecified | proto::AttachMode::None);
            let path = self.device_path(&status.volume);
            // A device that waits for its volume to be attached again keeps its name.
            if !attached
                && this.device.is_empty()
                && let Err(error) = device_node::remove_node(&path)
            {
                tracing::warn!(volume = status.volume, %error, "name of a device that is not attached stays");
            }
        }
        Ok(())
    }
}

/// Where the device of that name is mounted, if it is.
fn observe_mounted(device: &Path) -> std::io::Result<Option<PathBuf>> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let Ok(there) = std::fs::metadata(device) else { return Ok(None) };
    if !there.file_type().is_block_device() {
        return Ok(None);
    }
    let number = there.rdev();
    let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    Ok(mounts::observe_mounts()?.into_iter().find(|mount| mount.device == number).map(|mount| mount.point))
}

fn describe_wait(status: &proto::VolumeStatus, me: &str, take_over: bool) -> String {
    let others = |names: &[String]| names.iter().filter(|name| *name != me).cloned().collect::<Vec<_>>().join(", ");
    let writers = others(&status.writers);
    let away: Vec<&str> = status.peers.iter().filter(|peer| !peer.reachable).map(|peer| peer.node.as_str()).collect();
    let mut text = match (take_over, writers.is_empty()) {
        (true, false) => format!("waiting for proof that node {writers} is fenced"),
        (true, true) => "waiting for proof that the former writer is fenced".to_owned(),
        _ => "waiting for a decision of the quorum".to_owned(),
    };
    if !away.is_empty() {
        text.push_str(&format!(" (not reachable: {})", away.join(", ")));
    }
    text.push_str(&format!(", epoch {}, {}", status.epoch, input::show_bytes(status.size_bytes)));
    text
}
