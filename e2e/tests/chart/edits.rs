//! Objects edited by hand: what must not change is refused by their definitions, whoever asks.

use anyhow::Result;
use lockstep_e2e::turn::turn;
use serde_json::{Value, json};

use crate::cluster::TestCluster;
use crate::policies::{part, pool, volume};
use crate::rows::Who::Person;
use crate::rows::{Ask, Kind, Row, granted, refused};

#[test]
fn an_edit_by_hand_that_would_lose_data_is_refused() -> Result<()> {
    let _turn = turn();
    let cluster = TestCluster::with_chart()?;
    for (kind, object) in [
        (Kind::Volume, volume("v")),
        (Kind::Pool, pool("a", Some(1))),
        (Kind::Replica, part("v.a", "v", "a", "Replica")),
    ] {
        cluster.make(&kind.resource(), kind.namespace(), &object)?;
    }
    let edit = |kind: Kind, name: &'static str, spec: Value, says: &'static str| -> Row {
        refused(Person, kind, Ask::Patch(name, json!({ "spec": spec })), says)
    };
    let mut long = volume("v");
    long["metadata"]["name"] = json!("v".repeat(64));
    let mut stranger = pool("b", None);
    stranger["spec"]["nodeName"] = json!("c");
    cluster.check(&[
        edit(Kind::Volume, "v", json!({ "sizeBytes": 4096 }), "does not shrink"),
        edit(Kind::Volume, "v", json!({ "sizeBytes": 8193 }), "multiple of 4096"),
        edit(Kind::Volume, "v", json!({ "replicas": 1 }), "replicas is 2 or 3"),
        edit(Kind::Volume, "v", json!({ "access": "MultiWriter" }), "access cannot be changed"),
        edit(Kind::Volume, "v", json!({ "policing": "Lease" }), "policing cannot be changed"),
        edit(Kind::Volume, "v", json!({ "remoteAccess": false }), "remoteAccess cannot be changed"),
        edit(Kind::Volume, "v", json!({ "ack": "Memory" }), "Unsupported value"),
        granted(Person, Kind::Volume, Ask::Patch("v", json!({ "spec": { "sizeBytes": 12288, "resyncRate": 1 } }))),
        refused(Person, Kind::Volume, Ask::Create(long), "at most 63 bytes"),
        edit(Kind::Pool, "a", json!({ "storage": { "directory": "/other" } }), "storage cannot be changed"),
        edit(Kind::Pool, "a", json!({ "nodeName": "b" }), "nodeName cannot be changed"),
        granted(Person, Kind::Pool, Ask::Patch("a", json!({ "spec": { "cordoned": true } }))),
        refused(Person, Kind::Pool, Ask::Create(stranger), "bears the name of its node"),
        edit(Kind::Replica, "v.a", json!({ "nodeName": "b" }), "nodeName cannot be changed"),
        edit(Kind::Replica, "v.a", json!({ "role": "Attachment" }), "does not become an attachment"),
        edit(Kind::Replica, "v.a", json!({ "definition": { "sizeBytes": 4096 } }), "definition cannot be changed"),
    ])
}
