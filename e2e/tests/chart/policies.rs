//! What the accounts of Lockstep's programs may do: rights by RBAC, and what RBAC cannot say by the chart's admission policies.
//!
//! Nodes `a`, `b` and `c` have the numbers 1, 2 and 3; `d` has not said its number. Volume `v` has replicas on `a` and `b`, and is attached
//! at `c`; `a` and `b` are the members of its configuration.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, Patch, PatchParams, PostParams};
use lockstep_e2e::turn::turn;
use serde_json::{Value, json};

use crate::cluster::{TestCluster, api};
use crate::helm::NAMESPACE;
use crate::rows::Who::{Agent, AgentOfNoNode, Controller, Engine};
use crate::rows::{Ask, Kind, Row, granted, refused};

/// Of volume `v`: 32 hex digits.
const ID: &str = "000102030405060708090a0b0c0d0e0f";
const CONFIGURATION: &str = "lockstep-000102030405060708090a0b0c0d0e0f";
const GRANTS: &str = "lockstep-000102030405060708090a0b0c0d0e0f-grants-0";

pub fn pool(node: &str, number: Option<u32>) -> Value {
    let mut pool = json!({
        "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorPool", "metadata": { "name": node },
        "spec": { "nodeName": node, "storage": { "directory": "/pool" } },
    });
    if let Some(number) = number {
        pool["status"] = json!({ "nodeId": number });
    }
    pool
}

pub fn volume(name: &str) -> Value {
    json!({
        "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorVolume", "metadata": { "name": name },
        "spec": { "sizeBytes": 8192, "replicas": 2 },
    })
}

pub fn part(name: &str, volume: &str, node: &str, role: &str) -> Value {
    json!({
        "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorReplica",
        "metadata": { "name": name, "finalizers": ["lockstep.storage/replica"] },
        "spec": {
            "volume": volume, "nodeName": node, "role": role,
            "definition": {
                "id": ID, "generation": "0000000000000001", "sizeBytes": 8192, "access": "SingleWriter", "arbiter": "Lease",
                "policingShards": 0, "ack": "Disk", "onQuorumLoss": "Suspend", "replicas": [{ "nodeId": 1, "incarnation": 1 }],
            },
        },
        "status": { "phase": "Ready" },
    })
}

fn lease(name: &str, kind: Option<&str>, holder: &str, notes: Value) -> Value {
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "annotations": notes },
        "spec": { "holderIdentity": holder },
    });
    if let Some(kind) = kind {
        lease["metadata"]["labels"] = json!({ "lockstep.storage/kind": kind, "lockstep.storage/volume": ID });
    }
    lease
}

fn configuration(name: &str) -> Value {
    let notes = json!({ "lockstep.storage/epoch": "5", "lockstep.storage/members": "1,2", "lockstep.storage/uid": "as it was made" });
    lease(name, Some("configuration"), "b", notes)
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
}

fn prepare() -> Result<TestCluster> {
    let cluster = TestCluster::with_chart()?;
    let make = |kind: Kind, object: Value| cluster.make(&kind.resource(), kind.namespace(), &object);
    for (name, number) in [("a", Some(1)), ("b", Some(2)), ("c", Some(3)), ("d", None)] {
        make(Kind::Pool, pool(name, number))?;
        make(Kind::NodeLease, lease(name, None, name, json!({})))?;
    }
    make(Kind::Node, node("a"))?;
    make(Kind::Volume, volume("v"))?;
    for (name, node, role) in [("v.a", "a", "Replica"), ("v.b", "b", "Replica"), ("v.c", "c", "Attachment")] {
        make(Kind::Replica, part(name, "v", node, role))?;
    }
    make(Kind::Lease, configuration(CONFIGURATION))?;
    let counters = json!({ "lockstep.storage/epoch": "5", "lockstep.storage/counter": "7" });
    make(Kind::Lease, lease(GRANTS, Some("grants"), "b", counters))?;
    make(Kind::Lease, lease("lockstep-node-1", Some("node"), "a", json!({})))?;
    make(Kind::Lease, lease("lockstep-node-2", Some("node"), "b", json!({})))?;
    Ok(cluster)
}

/// A node's agent: its own parts, pool and Lease.
fn agent_rows() -> Vec<Row> {
    let another = "this belongs to another node than a";
    let progress = json!({ "status": { "phase": "Ready", "dirtyBytes": 1 } });
    let free = json!({ "status": { "freeBytes": 1 } });
    let renewed = |holder: &str| json!({ "spec": { "holderIdentity": holder, "leaseDurationSeconds": 6 } });
    let attachment = |name: &str, node: &str| Ask::Create(part(name, "w", node, "Attachment"));
    vec![
        granted(Agent("a"), Kind::Replica, Ask::UpdateStatus("v.a", progress.clone())),
        refused(Agent("a"), Kind::Replica, Ask::UpdateStatus("v.b", progress.clone()), another),
        refused(AgentOfNoNode, Kind::Replica, Ask::UpdateStatus("v.a", progress), "this token names no node"),
        granted(Agent("a"), Kind::Replica, attachment("w.a", "a")),
        refused(Agent("a"), Kind::Replica, attachment("w.b", "b"), another),
        refused(Agent("a"), Kind::Replica, attachment("w.b", "a"), "is named VOLUME.NODE"),
        refused(
            Agent("a"),
            Kind::Replica,
            Ask::Create(part("w.a", "w", "a", "Replica")),
            "a node makes and deletes attachments only",
        ),
        granted(Agent("c"), Kind::Replica, Ask::Delete("v.c")),
        refused(Agent("a"), Kind::Replica, Ask::Delete("v.c"), another),
        refused(Agent("a"), Kind::Replica, Ask::Delete("v.a"), "a node makes and deletes attachments only"),
        granted(Agent("a"), Kind::Replica, Ask::Update("v.a", json!({ "metadata": { "labels": { "a": "b" } } }))),
        refused(
            Agent("a"),
            Kind::Replica,
            Ask::Update("v.a", json!({ "spec": { "resyncRate": 1 } })),
            "the spec of a part of a volume is the controller's",
        ),
        refused(
            Agent("a"),
            Kind::Replica,
            Ask::Update("v.a", json!({ "metadata": { "finalizers": [] } })),
            "keeps its finalizers",
        ),
        granted(Agent("a"), Kind::Pool, Ask::UpdateStatus("a", free.clone())),
        refused(Agent("a"), Kind::Pool, Ask::UpdateStatus("b", free), another),
        refused(
            Agent("a"),
            Kind::Pool,
            Ask::Update("a", json!({ "spec": { "evict": true } })),
            "cannot update resource",
        ),
        granted(Agent("a"), Kind::NodeLease, Ask::Update("a", renewed("a"))),
        refused(Agent("a"), Kind::NodeLease, Ask::Update("b", renewed("a")), "renews its own Lease only"),
        refused(
            Agent("a"),
            Kind::NodeLease,
            Ask::Update("a", renewed("b")),
            "the holder of a node's Lease is the node",
        ),
        refused(AgentOfNoNode, Kind::NodeLease, Ask::Update("a", renewed("a")), "renews its own Lease only"),
        refused(Agent("a"), Kind::Volume, Ask::Create(volume("w")), "cannot create resource"),
        refused(Agent("a"), Kind::Lease, Ask::Update(CONFIGURATION, json!({})), "cannot update resource"),
        refused(
            Agent("a"),
            Kind::Node,
            Ask::Patch("a", json!({ "spec": { "unschedulable": true } })),
            "cannot patch resource",
        ),
        refused(Agent("a"), Kind::Pod, Ask::Delete("any"), "cannot delete resource"),
        refused(Agent("a"), Kind::Secret, Ask::Get("lockstep-key"), "cannot get resource"),
    ]
}

/// A node's engine: Leases of volumes of which it is a member, and its own.
fn engine_rows() -> Vec<Row> {
    let swap = |epoch: &str, holder: &str, members: &str| {
        Ask::Update(
            CONFIGURATION,
            json!({
                "metadata": { "annotations": { "lockstep.storage/epoch": epoch, "lockstep.storage/members": members } },
                "spec": { "holderIdentity": holder },
            }),
        )
    };
    let note = |name: &str, value: &str| json!({ "metadata": { "annotations": { name: value } } });
    let counted = |counter: &str| Ask::Update(GRANTS, note("lockstep.storage/counter", counter));
    let own = |number: u32| Ask::Create(lease(&format!("lockstep-node-{number}"), Some("node"), "d", json!({})));
    let mut copied = swap_of("6", "a");
    copied["metadata"]["annotations"]["lockstep.storage/uid"] = json!("another");
    let mut relabelled = swap_of("6", "a");
    relabelled["metadata"]["labels"] = json!({ "lockstep.storage/volume": "another" });
    vec![
        granted(Engine("a"), Kind::Lease, swap("6", "a", "1,2")),
        granted(Engine("c"), Kind::Lease, swap("6", "c", "1,2,3")),
        granted(Engine("b"), Kind::Lease, swap("6", "b", "1")),
        refused(Engine("c"), Kind::Lease, swap("6", "c", "1,2"), "node 3 is no member of this volume"),
        refused(Engine("d"), Kind::Lease, swap("6", "d", "1,2"), "has not said which number it has"),
        refused(Engine("a"), Kind::Lease, swap("5", "a", "1,2"), "replaced by one of a later epoch"),
        refused(Engine("a"), Kind::Lease, swap("6", "b", "1,2"), "the node that wrote it last"),
        refused(
            Engine("a"),
            Kind::Lease,
            Ask::Update(CONFIGURATION, copied),
            "which Lease this was made as does not change",
        ),
        refused(
            Engine("a"),
            Kind::Lease,
            Ask::Update(CONFIGURATION, relabelled),
            "the labels that say what a Lease is for stay",
        ),
        refused(
            Engine("a"),
            Kind::Lease,
            Ask::Create(configuration("lockstep-ffffffffffffffffffffffffffffffff")),
            "is made by the controller, with the volume",
        ),
        refused(Engine("a"), Kind::Lease, Ask::Delete(CONFIGURATION), "deleted by the controller, with the volume"),
        granted(Engine("a"), Kind::Lease, counted("8")),
        refused(Engine("a"), Kind::Lease, counted("6"), "numbers of grants do not fall"),
        granted(
            Engine("a"),
            Kind::Lease,
            Ask::Update("lockstep-node-1", json!({ "spec": { "leaseDurationSeconds": 10 } })),
        ),
        granted(Engine("c"), Kind::Lease, own(3)),
        refused(
            Engine("a"),
            Kind::Lease,
            Ask::Update("lockstep-node-2", json!({ "spec": { "leaseDurationSeconds": 10 } })),
            "this is not the Lease of node 1",
        ),
        refused(
            Engine("a"),
            Kind::Lease,
            Ask::Create(lease("lockstep-controller", None, "a", json!({}))),
            "as Lockstep names and labels them",
        ),
        refused(Engine("a"), Kind::NodeLease, Ask::Update("a", json!({})), "cannot update resource"),
        refused(Engine("a"), Kind::Replica, Ask::Delete("v.c"), "cannot delete resource"),
    ]
}

fn swap_of(epoch: &str, holder: &str) -> Value {
    json!({ "metadata": { "annotations": { "lockstep.storage/epoch": epoch } }, "spec": { "holderIdentity": holder } })
}

/// The controller: our taint of a node, and nothing else of it.
fn controller_rows() -> Vec<Row> {
    let taint =
        |key: &str, effect: &str| Ask::Patch("a", json!({ "spec": { "taints": [{ "key": key, "effect": effect }] } }));
    let only_taints = "changes taints of nodes only";
    vec![
        granted(Controller, Kind::Node, taint("lockstep.storage/fenced", "NoSchedule")),
        refused(Controller, Kind::Node, taint("lockstep.storage/fenced", "NoExecute"), "has the effect NoSchedule"),
        refused(Controller, Kind::Node, taint("another", "NoSchedule"), "the taint lockstep.storage/fenced only"),
        refused(Controller, Kind::Node, Ask::Patch("a", json!({ "spec": { "unschedulable": true } })), only_taints),
        refused(
            Controller,
            Kind::Node,
            Ask::Patch("a", json!({ "metadata": { "labels": { "a": "b" } } })),
            only_taints,
        ),
        refused(Controller, Kind::Node, Ask::Delete("a"), "cannot delete resource"),
        refused(Controller, Kind::Node, Ask::Create(node("e")), "cannot create resource"),
        refused(Controller, Kind::Secret, Ask::Get("lockstep-key"), "cannot get resource"),
        granted(Controller, Kind::Volume, Ask::Create(volume("w"))),
        granted(Controller, Kind::Replica, Ask::Update("v.a", json!({ "spec": { "resyncRate": 1 } }))),
        granted(Controller, Kind::Lease, Ask::Create(configuration("lockstep-ffffffffffffffffffffffffffffffff"))),
        granted(Controller, Kind::Lease, Ask::Delete(CONFIGURATION)),
        granted(Controller, Kind::NodeLease, Ask::Delete("a")),
        refused(Controller, Kind::NodeLease, Ask::Update("a", json!({})), "cannot update resource"),
    ]
}

#[test]
fn accounts_may_do_what_they_have_to_and_nothing_else() -> Result<()> {
    let _turn = turn();
    let cluster = prepare()?;
    // The server gives new nodes taints of its own.
    let nodes = api(&cluster.client, &Kind::Node.resource(), None);
    let bare = Patch::Merge(json!({ "spec": { "taints": null } }));
    cluster.run(nodes.patch("a", &PatchParams::default(), &bare))?;
    let mut rows = agent_rows();
    rows.extend(engine_rows());
    rows.extend(controller_rows());
    cluster.check(&rows)?;
    check_token(&cluster)
}

/// A token as kubelet gets it for an agent's pod: the server itself knows from it which node that is.
fn check_token(cluster: &TestCluster) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "agent" },
        "spec": {
            "nodeName": "a", "serviceAccountName": "lockstep-node", "automountServiceAccountToken": false,
            "containers": [{ "name": "agent", "image": "registry.example/agent:1" }],
        },
    });
    cluster.make(&Kind::Pod.resource(), Kind::Pod.namespace(), &pod)?;
    let request: TokenRequest = serde_json::from_value(json!({
        "metadata": {},
        "spec": { "audiences": [], "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "agent" } },
    }))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let given = cluster.run(accounts.create_token_request("lockstep-node", &PostParams::default(), &request))?;
    let token = given.status.context("a token")?.token;
    let client = cluster.run(cluster.server.client_of(token))?;
    let progress = |name| Ask::UpdateStatus(name, json!({ "status": { "phase": "Ready", "dirtyBytes": 1 } }));
    let own = cluster.judge(&granted(Agent("a"), Kind::Replica, progress("v.a")), &client)?;
    ensure!(own.is_ok(), "by its own token: {own:?}");
    let other = refused(Agent("a"), Kind::Replica, progress("v.b"), "this belongs to another node than a");
    let other = cluster.judge(&other, &client)?;
    ensure!(other.is_ok(), "by another node's token: {other:?}");
    Ok(())
}
