//! Going on with what an earlier engine had attached: its devices wait at the holder.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use lockstep_core::{Access, AttachMode, Command, CommandError, Epoch};
use lockstep_engine::LoopSession;
use lockstep_proto::node::v1 as proto;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::attachments::{Attachments, OwnedSlot, class_of};
use super::engine_port::EnginePort;
use super::holder_link::HolderLink;
use crate::failure::{Failure, Kind};
use crate::holder::Kept;
use crate::input;

/// How soon it is tried again what no quorum could decide: whoever uses the device waits.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// What an engine writes about a device for the next one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Description {
    /// Version of this description. 1: the first.
    format: u32,
    volume: String,
    volume_id: String,
    /// Generation of the configuration that made the attachment, and the epoch: together its identity.
    generation: u64,
    since: u64,
    read_only: bool,
    /// Number of a [`proto::Priority`].
    priority: i32,
    /// N of `/dev/loopN`.
    loop_number: u32,
    /// What was agreed upon with the kernel.
    max_io_bytes: u32,
    /// The run that made it, for people.
    incarnation: u64,
}

const FORMAT: u32 = 1;

impl Description {
    /// Of an attachment that was just made.
    pub(super) fn of(
        status: &lockstep_engine::VolumeStatus,
        request: &proto::EngineAttachRequest,
        session: &LoopSession,
    ) -> Option<Description> {
        let config = &status.core.config;
        let own = config.attached.get(&status.core.node)?;
        Some(Description {
            format: FORMAT,
            volume: status.name.clone(),
            volume_id: input::to_hex(&status.volume.0),
            generation: config.generation.id,
            since: own.since.0,
            read_only: own.mode == AttachMode::ReadOnly,
            priority: request.priority,
            loop_number: session.loop_number,
            max_io_bytes: session.max_io_bytes,
            incarnation: status.core.incarnation.0,
        })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text")
    }

    fn parse(bytes: &[u8]) -> Result<Description, String> {
        let description: Description = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match description.format {
            FORMAT => Ok(description),
            other => Err(format!("format {other}, not {FORMAT}")),
        }
    }

    const fn mode(&self) -> AttachMode {
        if self.read_only { AttachMode::ReadOnly } else { AttachMode::ReadWrite }
    }
}

/// A device that an earlier engine left.
pub(super) struct Left {
    pub(super) description: Description,
    connection: u64,
    device: OwnedFd,
}

impl Left {
    /// What the holder gave, if it is an engine's.
    pub(super) fn parse(kept: Kept) -> Result<Left, String> {
        let description = Description::parse(&kept.description)?;
        let device = kept.descriptors.into_iter().next().ok_or("without a descriptor")?;
        Ok(Left { description, connection: kept.connection, device })
    }

    pub(super) fn volume(&self) -> &str {
        &self.description.volume
    }

    fn session(&self) -> std::io::Result<LoopSession> {
        Ok(LoopSession {
            device: self.device.try_clone()?,
            connection: self.connection,
            loop_number: self.description.loop_number,
            max_io_bytes: self.description.max_io_bytes,
        })
    }
}

/// Where an attachment stands that is to be gone on with.
enum Standing {
    /// It is this run's.
    GoesOn,
    /// Not decided yet.
    Unknown(String),
    /// It has ended.
    Over(String),
}

/// Goes on with a device, or fails it. Takes as long as it takes until one of both is certain; `give_up` ends the wait.
pub(super) async fn resume(
    engine: Arc<EnginePort>,
    link: Arc<HolderLink>,
    left: Left,
    mut slot: OwnedSlot,
    give_up: Arc<Notify>,
) {
    let volume = left.volume().to_owned();
    let over = tokio::select! {
        standing = wait_standing(&engine, &left.description) => standing,
        () = give_up.notified() => Err("it was detached meanwhile".to_owned()),
    };
    let resumed = match over {
        Ok(()) => serve_again(&engine, &left).await.map_err(|failure| failure.message),
        Err(reason) => Err(reason),
    };
    match resumed {
        Ok(attachment) => {
            tracing::info!(volume, device = attachment.device, "device goes on");
            let size_bytes = engine.size_of(&volume).await.unwrap_or(0);
            Attachments::fill(&mut slot, attachment, size_bytes);
            link.hold(&volume, left.connection, left.description.to_bytes(), left.device);
        }
        Err(reason) => {
            tracing::warn!(volume, reason, "device is failed");
            abandon(&engine, &link, left).await;
        }
    }
}

/// Fails a device that nobody may serve any more, and lets go of all that belonged to it.
async fn abandon(engine: &Arc<EnginePort>, link: &HolderLink, left: Left) {
    let volume = left.volume().to_owned();
    if let Ok(session) = left.session() {
        engine.abandon_front_end(&volume, &left.description.volume_id, session).await;
    }
    link.forget(&volume);
    if engine.status(&volume).await.is_ok_and(|status| status.core.attached)
        && let Err(failure) = super::attachments::run(engine, &volume, Command::Detach).await
    {
        tracing::warn!(volume, %failure, "attachment without a device stays");
    }
}

/// `Err`: the attachment is over, and why.
async fn wait_standing(engine: &Arc<EnginePort>, description: &Description) -> Result<(), String> {
    let mut told = String::new();
    loop {
        match look(engine, description).await {
            Standing::GoesOn => return Ok(()),
            Standing::Over(reason) => return Err(reason),
            Standing::Unknown(reason) => {
                if told != reason {
                    tracing::info!(volume = description.volume, reason, "device waits");
                    told = reason;
                }
                tokio::time::sleep(TRY_EVERY).await;
            }
        }
    }
}

async fn look(engine: &Arc<EnginePort>, description: &Description) -> Standing {
    let status = match engine.status(&description.volume).await {
        Ok(status) => status,
        Err(failure) if failure.kind == Kind::NotReachable => return Standing::Unknown(failure.message),
        Err(failure) if engine.waits_for_pool() => return Standing::Unknown(failure.message),
        Err(failure) => return Standing::Over(failure.message),
    };
    let config = &status.core.config;
    if input::to_hex(&status.volume.0) != description.volume_id || config.generation.id != description.generation {
        return Standing::Over("it is another volume, or another generation of it, by now".to_owned());
    }
    let shared = config.settings.access == Access::MultiWriter;
    let command = if shared || description.read_only {
        // Nothing that the device's users remember of the volume has to be true still.
        let priority = proto::Priority::try_from(description.priority).unwrap_or_default();
        let class = class_of(priority);
        Command::Attach { mode: description.mode(), take_over: false, recoverable: true, class }
    } else {
        Command::Resume { since: Epoch(description.since) }
    };
    match engine.raw_command(&description.volume, command).await {
        Ok(Ok(_)) => Standing::GoesOn,
        Ok(Err(CommandError::Forbidden { reason } | CommandError::Invalid { reason })) => Standing::Over(reason),
        Ok(Err(CommandError::AttachedElsewhere { holder })) => {
            Standing::Over(format!("node {holder} has it attached for writing"))
        }
        Ok(Err(CommandError::AttachState { reason })) => Standing::Unknown(reason),
        Ok(Err(error @ (CommandError::NoQuorum | CommandError::NoUpToDateReplica | CommandError::Silent { .. }))) => {
            Standing::Unknown(format!("{error:?}"))
        }
        Err(failure) => Standing::Unknown(failure.message),
    }
}

async fn serve_again(engine: &Arc<EnginePort>, left: &Left) -> Result<proto::Attachment, Failure> {
    let session = left.session().map_err(|error| Failure::of_host("use the device's descriptor", &error))?;
    engine.resume_front_end(left.volume(), session, left.description.mode()).await
}

/// What is known of a device before it goes on.
pub(super) fn expected(description: &Description) -> proto::Attachment {
    let mut attachment = proto::Attachment {
        volume: description.volume.clone(),
        device: format!("/dev/loop{}", description.loop_number),
        device_major: 7,
        device_minor: description.loop_number,
        ..Default::default()
    };
    attachment.set_front_end(proto::FrontEnd::Loop);
    attachment.set_fuse(proto::Fuse::Recoverable);
    attachment.set_mode(match description.mode() {
        AttachMode::ReadWrite => proto::AttachMode::ReadWrite,
        AttachMode::ReadOnly => proto::AttachMode::ReadOnly,
    });
    attachment
}

#[cfg(test)]
mod tests {
    use super::{Description, FORMAT};

    #[test]
    fn a_description_is_read_back_and_another_format_is_not() {
        let description = Description {
            format: FORMAT,
            volume: "v1".to_owned(),
            volume_id: "07".repeat(16),
            generation: 3,
            since: 9,
            read_only: true,
            priority: 0,
            loop_number: 4,
            max_io_bytes: 1 << 20,
            incarnation: 1,
        };
        assert_eq!(Description::parse(&description.to_bytes()), Ok(description.clone()));
        let other = Description { format: FORMAT + 1, ..description };
        assert!(Description::parse(&other.to_bytes()).is_err());
        assert!(Description::parse(b"{}").is_err());
    }
}
