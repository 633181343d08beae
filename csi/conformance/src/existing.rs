//! Questions about volumes that exist, and changes of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use tonic::Code;

use crate::Target;
use crate::expect::{done, refused};
use crate::request::{block, ext4, mount};

/// What does not fit is no error: it is not confirmed, and a message says why.
pub async fn t15_capabilities_are_confirmed_or_not(target: &Target) -> Result<()> {
    let made = target.make("t15", &ext4()).await?;
    let question = |capabilities: Vec<proto::VolumeCapability>| proto::ValidateVolumeCapabilitiesRequest {
        volume_id: made.id.clone(),
        volume_context: made.context.clone(),
        volume_capabilities: capabilities,
        parameters: target.parameters.clone(),
        ..Default::default()
    };
    let asked = question(vec![ext4()]);
    let found = done("validate", target.controller().validate_volume_capabilities(asked.clone()).await)?;
    let confirmed = found.confirmed.context("it was made so")?;
    ensure!(confirmed.volume_capabilities == asked.volume_capabilities, "what was asked is repeated");
    ensure!(confirmed.volume_context == asked.volume_context && confirmed.parameters == asked.parameters, "all of it");
    let unfit = [
        question(vec![mount(Mode::MultiNodeMultiWriter, "ext4", &[])]),
        question(vec![ext4(), mount(Mode::MultiNodeReaderOnly, "ext4", &[])]),
        question(vec![mount(Mode::SingleNodeWriter, "ntfs", &[])]),
        proto::ValidateVolumeCapabilitiesRequest {
            parameters: [("nobodysKey".to_owned(), "any".to_owned())].into(),
            ..question(vec![ext4()])
        },
        proto::ValidateVolumeCapabilitiesRequest {
            volume_context: [("nobodysKey".to_owned(), "any".to_owned())].into(),
            ..question(vec![ext4()])
        },
    ];
    for asked in unfit {
        let capabilities = format!("{:?}", asked.volume_capabilities);
        let found = done(&capabilities, target.controller().validate_volume_capabilities(asked.clone()).await)?;
        ensure!(found.confirmed.is_none() && !found.message.is_empty(), "{capabilities}: {found:?}");
        let unknown = proto::ValidateVolumeCapabilitiesRequest { volume_id: target.unique("t15"), ..asked };
        let answer = target.controller().validate_volume_capabilities(unknown).await;
        refused("an unknown volume", Code::NotFound, answer)?;
    }
    target.delete(&made).await
}

/// Ids of nobody, whether they could be ids or not.
pub async fn t20_unknown_volumes_are_not_found(target: &Target) -> Result<()> {
    let (mut controller, mut node) = (target.controller(), target.node());
    for id in ["no-volume-has-this-id", "../../etc", "A B"] {
        let volume_id = id.to_owned();
        let answer =
            controller.controller_get_volume(proto::ControllerGetVolumeRequest { volume_id: volume_id.clone() }).await;
        refused(id, Code::NotFound, answer)?;
        let query = proto::ControllerGetVolumeHealthRequest { volume_id: volume_id.clone(), ..Default::default() };
        refused(id, Code::NotFound, controller.controller_get_volume_health(query).await)?;
        let query = proto::NodeGetVolumeHealthRequest { volume_id: volume_id.clone(), ..Default::default() };
        refused(id, Code::NotFound, node.node_get_volume_health(query).await)?;
        let change = proto::ControllerModifyVolumeRequest { volume_id: volume_id.clone(), ..modification(target) };
        refused(id, Code::NotFound, controller.controller_modify_volume(change).await)?;
        let question = proto::ValidateVolumeCapabilitiesRequest {
            volume_id,
            volume_capabilities: vec![block(Mode::SingleNodeWriter)],
            ..Default::default()
        };
        refused(id, Code::NotFound, controller.validate_volume_capabilities(question).await)?;
    }
    Ok(())
}

/// What was said when it was made is said again.
pub async fn t20_a_volume_is_described_as_it_was_made(target: &Target) -> Result<()> {
    let made = target.make("t20", &ext4()).await?;
    let query = proto::ControllerGetVolumeRequest { volume_id: made.id.clone() };
    let found = done("get", target.controller().controller_get_volume(query).await)?;
    ensure!(found.status.is_some(), "a volume has a status");
    let volume = found.volume.context("a volume")?;
    ensure!(volume.volume_id == made.id && volume.capacity_bytes == made.capacity_bytes, "{volume:?}");
    ensure!(volume.volume_context == made.context, "{volume:?}");
    target.delete(&made).await
}

/// An unknown key beside a known one changes nothing; the known one alone does, any number of times.
pub async fn t23_attributes_are_changed_all_or_none(target: &Target) -> Result<()> {
    let made = target.make("t23", &ext4()).await?;
    let (key, value) = target.mutable_parameter.clone();
    let change = |parameters: BTreeMap<String, String>| proto::ControllerModifyVolumeRequest {
        volume_id: made.id.clone(),
        mutable_parameters: parameters,
        ..Default::default()
    };
    let has = |value: &str| proto::ValidateVolumeCapabilitiesRequest {
        volume_id: made.id.clone(),
        volume_capabilities: vec![ext4()],
        mutable_parameters: [(key.clone(), value.to_owned())].into(),
        ..Default::default()
    };
    let wrong = [
        ("nobodysKey", [(key.clone(), value.clone()), ("nobodysKey".to_owned(), "any".to_owned())].into()),
        (key.as_str(), [(key.clone(), "no value of it".to_owned())].into()),
    ];
    for (named, parameters) in wrong {
        let answer = target.controller().controller_modify_volume(change(parameters)).await;
        let reason = refused(named, Code::InvalidArgument, answer)?;
        ensure!(reason.contains(named), "the refusal names {named}: {reason}");
        let found = done("validate", target.controller().validate_volume_capabilities(has(&value)).await)?;
        ensure!(found.confirmed.is_none(), "nothing was applied");
    }
    for _ in 0..2 {
        let parameters = [(key.clone(), value.clone())].into();
        done("modify", target.controller().controller_modify_volume(change(parameters)).await)?;
        let found = done("validate", target.controller().validate_volume_capabilities(has(&value)).await)?;
        ensure!(found.confirmed.is_some(), "it was applied: {}", found.message);
    }
    done("nothing", target.controller().controller_modify_volume(change([].into())).await)?;
    let found = done("validate", target.controller().validate_volume_capabilities(has(&value)).await)?;
    ensure!(found.confirmed.is_some(), "what is not named stays");
    target.delete(&made).await
}

fn modification(target: &Target) -> proto::ControllerModifyVolumeRequest {
    let (key, value) = target.mutable_parameter.clone();
    proto::ControllerModifyVolumeRequest { mutable_parameters: [(key, value)].into(), ..Default::default() }
}
