//! The API server refuses what no object of ours may become: rules of the definitions themselves, which hold whoever edits.

mod setup;

use anyhow::{Result, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use lockstep_api::{MirrorPool, MirrorReplica, MirrorVolume};
use serde_json::{Value, json};
use setup::Setup;

fn volume(spec: Value) -> Result<MirrorVolume> {
    let mut whole = json!({ "sizeBytes": 4096, "replicas": 2 });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    Ok(serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorVolume", "metadata": { "name": "v" }, "spec": whole,
    }))?)
}

impl Setup {
    fn refused<K>(&self, name: &str, patch: Value, says: &str) -> Result<()>
    where
        K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let edited = self.run(self.all::<K>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)));
        match edited {
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains(says) => Ok(()),
            other => anyhow::bail!("{patch}: {other:?} does not say {says:?}"),
        }
    }
}

#[test]
fn edits_that_would_lose_data_or_confuse_members_are_refused() -> Result<()> {
    let setup = Setup::start(&[])?;
    let volumes = setup.all::<MirrorVolume>();
    for (wrong, says) in [
        (json!({ "sizeBytes": 4097 }), "multiple of 4096"),
        (json!({ "sizeBytes": 0 }), "multiple of 4096"),
        (json!({ "replicas": 4 }), "replicas is 2 or 3"),
    ] {
        let refused = setup.run(volumes.create(&PostParams::default(), &volume(wrong)?));
        ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains(says)), "{refused:?}");
    }
    setup.run(volumes.create(&PostParams::default(), &volume(json!({ "sizeBytes": 8192 }))?))?;
    for (patch, says) in [
        (json!({ "sizeBytes": 4096 }), "does not shrink"),
        (json!({ "access": "MultiWriter" }), "access cannot be changed"),
        (json!({ "policing": "Lease" }), "policing cannot be changed"),
        (json!({ "remoteAccess": false }), "remoteAccess cannot be changed"),
        (json!({ "replicas": 1 }), "replicas is 2 or 3"),
        (json!({ "ack": "Memory" }), "Unsupported value"),
    ] {
        setup.refused::<MirrorVolume>("v", json!({ "spec": patch }), says)?;
    }
    let grown = json!({ "spec": { "sizeBytes": 12288, "replicas": 3, "ack": "Durable" } });
    setup.run(volumes.patch("v", &PatchParams::default(), &Patch::Merge(&grown)))?;

    let pools = setup.all::<MirrorPool>();
    let pool = |name: &str, spec: Value| -> Result<MirrorPool> {
        Ok(serde_json::from_value(json!({
            "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorPool", "metadata": { "name": name }, "spec": spec,
        }))?)
    };
    let directory = json!({ "nodeName": "a", "storage": { "directory": "/pool" } });
    for (name, wrong, says) in [
        ("b", directory.clone(), "bears the name of its node"),
        ("a", json!({ "nodeName": "a", "storage": {} }), "either directory or device"),
        (
            "a",
            json!({ "nodeName": "a", "storage": { "directory": "/a", "device": "/b" } }),
            "either directory or device",
        ),
    ] {
        let refused = setup.run(pools.create(&PostParams::default(), &pool(name, wrong)?));
        ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains(says)), "{refused:?}");
    }
    setup.run(pools.create(&PostParams::default(), &pool("a", directory)?))?;
    setup.refused::<MirrorPool>(
        "a",
        json!({ "spec": { "storage": { "directory": "/other" } } }),
        "storage cannot be changed",
    )?;
    setup.refused::<MirrorPool>("a", json!({ "spec": { "storage": null } }), "storage cannot be changed")?;
    let edit = |spec: Value| {
        setup.run(pools.patch("a", &PatchParams::default(), &Patch::Merge(&json!({ "spec": spec })))).map(drop)
    };
    setup.refused::<MirrorPool>(
        "a",
        json!({ "spec": { "storage": { "directory": "/other" }, "evict": true } }),
        "storage cannot be changed",
    )?;
    edit(json!({ "evict": true }))?;
    edit(json!({ "storage": { "directory": null, "device": "/dev/x" }, "evict": false }))?;
    setup.refused::<MirrorPool>(
        "a",
        json!({ "spec": { "storage": { "device": "/dev/y" } } }),
        "storage cannot be changed",
    )?;

    let definition = json!({
        "id": "0".repeat(32), "generation": "0".repeat(16), "sizeBytes": 4096, "access": "SingleWriter", "arbiter": "Peers",
        "policingShards": 0, "ack": "Disk", "onQuorumLoss": "Suspend", "replicas": [{ "nodeId": 4_294_967_295_u32, "incarnation": 1 }],
    });
    let part: MirrorReplica = serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorReplica", "metadata": { "name": "v.a" },
        "spec": { "volume": "v", "nodeName": "a", "role": "Replica", "definition": definition },
    }))?;
    setup.run(setup.all::<MirrorReplica>().create(&PostParams::default(), &part))?;
    for (patch, says) in [
        (json!({ "nodeName": "b" }), "nodeName cannot be changed"),
        (json!({ "volume": "w" }), "volume cannot be changed"),
        (json!({ "role": "Attachment" }), "does not become an attachment"),
        (json!({ "definition": { "sizeBytes": 8192 } }), "definition cannot be changed"),
    ] {
        setup.refused::<MirrorReplica>("v.a", json!({ "spec": patch }), says)?;
    }
    let written = setup.run(setup.all::<MirrorReplica>().get("v.a"))?;
    ensure!(written.spec.definition.replicas[0].node_id == u32::MAX, "numbers are kept whole");
    Ok(())
}
