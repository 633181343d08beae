//! Attaching and detaching in the engine: first the right, then the front end; and back in the other order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_core::{AttachMode, Command};
use lockstep_proto::node::v1 as proto;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::engine_port::{Answer, EnginePort};
use crate::failure::Failure;

/// How long taking a front end away may take. Longer, and something holds it that an operator must find.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// What is attached of one volume. Locked while it changes.
type Slot = Option<proto::Attachment>;

/// Everything that is attached at this engine.
#[derive(Clone, Default)]
pub(super) struct Attachments(Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Slot>>>>>);

impl Attachments {
    fn slot(&self, volume: &str) -> Arc<tokio::sync::Mutex<Slot>> {
        Arc::clone(self.0.lock().expect("no holder panics").entry(volume.to_owned()).or_default())
    }

    /// The attachment of a volume, unless it is just changing.
    pub(super) fn get(&self, volume: &str) -> Option<proto::Attachment> {
        self.slot(volume).try_lock().ok().and_then(|slot| slot.clone())
    }

    /// Attaches, or gives the attachment that is there and is like the one that is asked for.
    pub(super) async fn attach(
        &self,
        engine: &Arc<EnginePort>,
        request: &proto::EngineAttachRequest,
    ) -> Result<proto::Attachment, Failure> {
        let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
        let Ok(mut slot) = tokio::time::timeout_at(deadline, self.slot(&request.volume).lock_owned()).await else {
            let message = format!("an earlier attach or detach of {:?} still waits", request.volume);
            return Err(Failure::not_reachable(message));
        };
        let front_end = choose_front_end(request.front_end());
        let mode = match request.mode() {
            proto::AttachMode::ReadOnly => AttachMode::ReadOnly,
            _ => AttachMode::ReadWrite,
        };
        if let Some(attachment) = &*slot {
            return repeat(attachment, front_end, mode);
        }
        let command = Command::Attach {
            mode,
            take_over: request.take_over,
            // Only a socket can be connected to again; a device ends with the engine that serves it.
            recoverable: front_end == proto::FrontEnd::NbdSocket,
        };
        let mut answer = engine.command(&request.volume, command)?;
        match tokio::time::timeout_at(deadline, &mut answer).await {
            Ok(result) => result.map(|_| ())?,
            Err(_) => {
                give_up(Arc::clone(engine), request.volume.clone(), answer, slot);
                let message = match request.take_over {
                    true => "it is not proven in time that the writer can write no more",
                    false => "no quorum of the volume's members decided in time",
                };
                return Err(Failure::not_reachable(format!("volume {:?}: {message}", request.volume)));
            }
        }
        match engine.start_front_end(&request.volume, front_end, request.fuse(), mode).await {
            Ok(attachment) => {
                *slot = Some(attachment.clone());
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

    /// Detaches. Says whether the volume was attached.
    pub(super) async fn detach(&self, engine: &Arc<EnginePort>, volume: &str) -> Result<bool, Failure> {
        let Ok(mut slot) = tokio::time::timeout(STOP_WITHIN, self.slot(volume).lock_owned()).await else {
            return Err(Failure::not_reachable(format!("an earlier attach or detach of {volume:?} still waits")));
        };
        let was_attached = engine.status(volume).await?.core.attached;
        if slot.is_some() {
            engine.stop_front_end(volume, false).await?;
            *slot = None;
        }
        if was_attached {
            run(engine, volume, Command::Detach).await?;
        }
        Ok(was_attached)
    }

    /// Takes all front ends away, before the engine leaves.
    pub(super) async fn stop_all(&self, engine: &Arc<EnginePort>) {
        let slots: Vec<_> = {
            let slots = self.0.lock().expect("no holder panics");
            slots.iter().map(|(volume, slot)| (volume.clone(), Arc::clone(slot))).collect()
        };
        for (volume, slot) in slots {
            let Ok(mut slot) = slot.try_lock_owned() else { continue };
            if slot.take().is_none() {
                continue;
            }
            let in_order = tokio::time::timeout(STOP_WITHIN, engine.stop_front_end(&volume, false)).await;
            if matches!(in_order, Ok(Ok(()))) {
                continue;
            }
            // Somebody still uses it; nobody will serve it any more.
            tracing::warn!(volume, "front end is in use and ends by force");
            if let Err(failure) = engine.stop_front_end(&volume, true).await {
                tracing::warn!(volume, %failure, "front end does not stop");
            }
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

/// Nobody waits any more for an attachment that may still be decided: when it is, it is given back.
fn give_up(engine: Arc<EnginePort>, volume: String, answer: Answer, slot: OwnedMutexGuard<Slot>) {
    tokio::spawn(async move {
        let decided = answer.await;
        if decided.is_ok()
            && let Err(failure) = run(&engine, &volume, Command::Detach).await
        {
            tracing::warn!(volume, %failure, "attachment that nobody waits for stays");
        }
        drop(slot);
    });
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
