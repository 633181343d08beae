//! Attaching and detaching in the engine: first the right, then the front end; and back in the other order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_core::{AttachMode, Class, Command};
use lockstep_proto::node::v1 as proto;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::engine_port::{Answer, EnginePort};
use super::holder_link::HolderLink;
use super::resume::{self, Description, Left};
use crate::failure::Failure;

/// How long taking a front end away may take. Longer, and something holds it that an operator must find.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How long the requests that are open may take when the engine ends as planned. The next engine has them asked again.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(10);

/// What is attached of one volume. Locked while it changes.
pub(super) type Slot = Option<Attached>;

/// An attachment, and the size that its device has.
#[derive(Clone)]
pub(super) struct Attached {
    attachment: proto::Attachment,
    size_bytes: u64,
}

/// A slot, locked.
pub(super) type OwnedSlot = tokio::sync::OwnedMutexGuard<Slot>;

/// A device of an earlier engine, until it goes on or has failed.
struct Resuming {
    expected: proto::Attachment,
    give_up: Arc<Notify>,
}

/// Everything that is attached at this engine.
pub(super) struct Attachments {
    slots: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
    resuming: Mutex<BTreeMap<String, Resuming>>,
    link: Arc<HolderLink>,
}

impl Attachments {
    /// Nothing is attached yet.
    pub(super) fn new(link: Arc<HolderLink>) -> Attachments {
        Attachments { slots: Mutex::default(), resuming: Mutex::default(), link }
    }

    fn slot(&self, volume: &str) -> Arc<tokio::sync::Mutex<Slot>> {
        Arc::clone(self.slots.lock().expect("no holder panics").entry(volume.to_owned()).or_default())
    }

    /// The attachment of a volume, unless it is just changing.
    pub(super) fn get(&self, volume: &str) -> Option<proto::Attachment> {
        let attached = self.slot(volume).try_lock().ok().and_then(|slot| Some(slot.as_ref()?.attachment.clone()));
        let resuming = || self.resuming.lock().expect("no holder panics").get(volume).map(|it| it.expected.clone());
        attached.or_else(resuming)
    }

    /// Why a restart of the engine would be visible at this attachment, if so.
    pub(super) fn restart_visible(&self, attachment: &proto::Attachment) -> Option<String> {
        match (attachment.front_end(), attachment.fuse()) {
            (proto::FrontEnd::Loop, proto::Fuse::IoUring) => Some("FUSE over io_uring sends nothing again".to_owned()),
            (proto::FrontEnd::Loop, _) => self.link.trouble(&attachment.volume),
            _ => None,
        }
    }

    /// Goes on with what an earlier engine left, in the background. Before anybody else can ask for these volumes.
    pub(super) fn resume_all(self: &Arc<Self>, engine: &Arc<EnginePort>, left: Vec<Left>) {
        for left in left {
            let volume = left.volume().to_owned();
            let Ok(slot) = self.slot(&volume).try_lock_owned() else { continue };
            let give_up = Arc::new(Notify::new());
            let resuming = Resuming { expected: resume::expected(&left.description), give_up: Arc::clone(&give_up) };
            self.resuming.lock().expect("no holder panics").insert(volume.clone(), resuming);
            let (own, engine, link) = (Arc::clone(self), Arc::clone(engine), Arc::clone(&self.link));
            tokio::spawn(async move {
                resume::resume(engine, link, left, slot, give_up).await;
                own.resuming.lock().expect("no holder panics").remove(&volume);
            });
        }
    }

    /// Puts what goes on into its slot.
    pub(super) fn fill(slot: &mut OwnedSlot, attachment: proto::Attachment, size_bytes: u64) {
        **slot = Some(Attached { attachment, size_bytes });
    }

    /// Gives a new device into the holder's keeping. Waits for it.
    async fn hold(&self, engine: &Arc<EnginePort>, request: &proto::EngineAttachRequest) {
        let volume = &request.volume;
        let Some(session) = engine.loop_session(volume) else { return };
        let Ok(status) = engine.status(volume).await else { return };
        let Some(description) = Description::of(&status, request, &session) else { return };
        let (link, volume) = (Arc::clone(&self.link), volume.clone());
        let hold = move || link.hold(&volume, session.connection, description.to_bytes(), session.device);
        if let Err(error) = tokio::task::spawn_blocking(hold).await {
            tracing::error!(%error, "holding panicked");
        }
    }

    /// Lets the holder close what it has of a volume. Waits for it.
    async fn forget(&self, volume: &str) {
        let (link, volume) = (Arc::clone(&self.link), volume.to_owned());
        if let Err(error) = tokio::task::spawn_blocking(move || link.forget(&volume)).await {
            tracing::error!(%error, "forgetting panicked");
        }
    }

    /// Attaches, or gives the attachment that is there and is like the one that is asked for. Nothing is waited for any more once `caller`
    /// ends.
    pub(super) async fn attach(
        &self,
        engine: &Arc<EnginePort>,
        request: &proto::EngineAttachRequest,
        caller: oneshot::Receiver<()>,
    ) -> Result<proto::Attachment, Failure> {
        let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
        let Ok(mut slot) = tokio::time::timeout_at(deadline, self.slot(&request.volume).lock_owned()).await else {
            let message = format!("an earlier attach or detach of {:?} still waits", request.volume);
            return Err(Failure::not_reachable(message));
        };
        engine.wait_open(&request.volume, deadline).await;
        let front_end = choose_front_end(request.front_end());
        let mode = match request.mode() {
            proto::AttachMode::ReadOnly => AttachMode::ReadOnly,
            _ => AttachMode::ReadWrite,
        };
        if let Some(attached) = &*slot {
            if engine.status(&request.volume).await?.core.attached {
                return repeat(&attached.attachment, front_end, mode);
            }
            // The volume was taken over by another node: what is left here only answers with errors.
            engine.stop_front_end(&request.volume, true).await?;
            self.forget(&request.volume).await;
            *slot = None;
        }
        let recoverable = self.is_recoverable(front_end, request.fuse());
        let command =
            Command::Attach { mode, take_over: request.take_over, recoverable, class: class_of(request.priority()) };
        let mut answer = engine.command(&request.volume, command)?;
        let unanswered = tokio::select! {
            result = &mut answer => result.map(|_| None)?,
            () = tokio::time::sleep_until(deadline) => Some(match request.take_over {
                true => "it is not proven in time that the writer can write no more",
                false => "no quorum of the volume's members decided in time",
            }),
            _ = caller => Some("the caller went away"),
        };
        if let Some(message) = unanswered {
            give_up(engine, &request.volume, answer).await;
            return Err(Failure::not_reachable(format!("volume {:?}: {message}", request.volume)));
        }
        // Read before: a volume that grows meanwhile is seen to have grown afterwards.
        let size_bytes = engine.size_of(&request.volume).await.unwrap_or(0);
        match engine.start_front_end(&request.volume, front_end, request.fuse(), mode).await {
            Ok(attachment) => {
                *slot = Some(Attached { attachment: attachment.clone(), size_bytes });
                if recoverable {
                    self.hold(engine, request).await;
                }
                Ok(attachment)
            }
            Err(failure) => {
                if let Err(second) = run(engine, &request.volume, Command::Detach).await {
                    tracing::warn!(volume = request.volume, failure = %second, "attachment without a front end stays");
                }
                Err(failure)
            }
        }
    }

    /// Whether the front end can outlive this engine: a socket can be connected to again, and a device lives on in the holder's keeping.
    fn is_recoverable(&self, front_end: proto::FrontEnd, fuse: proto::Fuse) -> bool {
        match front_end {
            proto::FrontEnd::NbdSocket => true,
            _ => fuse != proto::Fuse::IoUring && self.link.is_connected(),
        }
    }

    /// Detaches; with `force` also if somebody has the device open, who gets errors. Says whether the volume was attached.
    pub(super) async fn detach(&self, engine: &Arc<EnginePort>, volume: &str, force: bool) -> Result<bool, Failure> {
        let resuming = self.resuming.lock().expect("no holder panics").get(volume).map(|it| Arc::clone(&it.give_up));
        let was_resuming = resuming.is_some();
        if let Some(give_up) = resuming {
            give_up.notify_one();
        }
        let Ok(mut slot) = tokio::time::timeout(STOP_WITHIN, self.slot(volume).lock_owned()).await else {
            return Err(Failure::not_reachable(format!("an earlier attach or detach of {volume:?} still waits")));
        };
        let was_attached = engine.status(volume).await?.core.attached;
        let had_front_end = slot.is_some();
        if had_front_end {
            // A front end that was failed cannot write anything back.
            engine.stop_front_end(volume, force || !was_attached).await?;
            self.forget(volume).await;
            *slot = None;
        }
        if was_attached {
            run(engine, volume, Command::Detach).await?;
        }
        Ok(was_attached || had_front_end || was_resuming)
    }

    /// Lets the devices follow the volumes that have grown, whoever asked for that.
    pub(super) async fn follow_growth(&self, engine: &Arc<EnginePort>) -> Result<(), Failure> {
        for (volume, slot) in self.slots() {
            let Ok(mut slot) = slot.try_lock_owned() else { continue };
            let Some(attached) = slot.as_mut() else { continue };
            let size_bytes = engine.size_of(&volume).await?;
            if size_bytes > attached.size_bytes {
                engine.grow_front_end(&volume).await?;
                attached.size_bytes = size_bytes;
                tracing::info!(volume, size_bytes, "device has grown");
            }
        }
        Ok(())
    }

    fn slots(&self) -> Vec<(String, Arc<tokio::sync::Mutex<Slot>>)> {
        let slots = self.slots.lock().expect("no holder panics");
        slots.iter().map(|(volume, slot)| (volume.clone(), Arc::clone(slot))).collect()
    }

    /// Leaves the devices that the holder keeps to the next engine: what is open is answered, and what comes waits. Gives the volumes.
    pub(super) async fn hand_over_all(&self, engine: &Arc<EnginePort>) -> BTreeSet<String> {
        let mut handed_over = BTreeSet::new();
        for (volume, slot) in self.slots() {
            let Ok(mut slot) = slot.try_lock_owned() else { continue };
            let kept = slot.as_ref().is_some_and(|attached| {
                attached.attachment.front_end() == proto::FrontEnd::Loop
                    && self.restart_visible(&attached.attachment).is_none()
            });
            if !kept {
                continue;
            }
            match tokio::time::timeout(HAND_OVER_WITHIN, engine.hand_over_front_end(&volume)).await {
                Ok(Ok(())) => tracing::info!(volume, "device waits for the next engine"),
                // What is open is asked again, as after a crash.
                Ok(Err(failure)) => tracing::warn!(volume, %failure, "device is left as it is"),
                Err(_) => tracing::warn!(volume, "device is left with requests open"),
            }
            *slot = None;
            handed_over.insert(volume);
        }
        let resuming = self.resuming.lock().expect("no holder panics");
        handed_over.extend(resuming.keys().cloned());
        handed_over
    }

    /// Takes all front ends away, before the engine leaves.
    pub(super) async fn stop_all(&self, engine: &Arc<EnginePort>) {
        for (volume, slot) in self.slots() {
            let Ok(mut slot) = slot.try_lock_owned() else { continue };
            if slot.take().is_none() {
                continue;
            }
            let in_order = tokio::time::timeout(STOP_WITHIN, engine.stop_front_end(&volume, false)).await;
            if !matches!(in_order, Ok(Ok(()))) {
                // Somebody still uses it; nobody will serve it any more.
                tracing::warn!(volume, "front end is in use and ends by force");
                if let Err(failure) = engine.stop_front_end(&volume, true).await {
                    tracing::warn!(volume, %failure, "front end does not stop");
                }
            }
            self.forget(&volume).await;
        }
    }
}

/// Runs a command to its end.
pub(super) async fn run(engine: &EnginePort, volume: &str, command: Command) -> Result<lockstep_core::Reply, Failure> {
    engine.command(volume, command)?.await
}

fn repeat(
    attachment: &proto::Attachment,
    front_end: proto::FrontEnd,
    mode: AttachMode,
) -> Result<proto::Attachment, Failure> {
    let same_mode = (attachment.mode() == proto::AttachMode::ReadOnly) == (mode == AttachMode::ReadOnly);
    if attachment.front_end() == front_end && same_mode {
        return Ok(attachment.clone());
    }
    let message = format!("volume {:?} is attached here already in another way: detach it first", attachment.volume);
    Err(Failure::state_forbids(message))
}

/// Nobody waits any more for an attachment that may just have been decided: then it is given back.
async fn give_up(engine: &EnginePort, volume: &str, answer: Answer) {
    let given_up = run(engine, volume, Command::GiveUpAttach).await;
    let ended = match (given_up, answer.await) {
        (Ok(_), Ok(_)) => run(engine, volume, Command::Detach).await.map(|_| ()),
        (given_up, _) => given_up.map(|_| ()),
    };
    if let Err(failure) = ended {
        tracing::warn!(volume, %failure, "attachment that nobody waits for stays");
    }
}

/// The class of requests for grants that a priority stands for; `None`: the volume's.
pub(super) const fn class_of(priority: proto::Priority) -> Option<Class> {
    match priority {
        proto::Priority::Unspecified => None,
        proto::Priority::Low => Some(Class::Low),
        proto::Priority::Normal => Some(Class::Normal),
        proto::Priority::High => Some(Class::High),
    }
}

/// The best front end that this machine has, unless one is named.
fn choose_front_end(wanted: proto::FrontEnd) -> proto::FrontEnd {
    let exists = |path: &str| std::path::Path::new(path).exists();
    match wanted {
        proto::FrontEnd::Loop | proto::FrontEnd::NbdSocket => wanted,
        _ if exists("/dev/fuse") && exists("/dev/loop-control") => proto::FrontEnd::Loop,
        _ => proto::FrontEnd::NbdSocket,
    }
}
