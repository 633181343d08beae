use super::*;

fn part(volume: &str, node: &str, role: &str, status: Value) -> MirrorReplica {
    let definition = json!({
        "id": "0", "generation": "0", "sizeBytes": 4096, "access": "SingleWriter", "arbiter": "Peers", "policingShards": 0,
        "ack": "Disk", "onQuorumLoss": "Suspend", "replicas": [],
    });
    serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorReplica", "metadata": { "name": format!("{volume}.{node}") },
        "spec": { "volume": volume, "nodeName": node, "role": role, "definition": definition }, "status": status,
    }))
    .expect("a part")
}

fn replica(volume: &str, node: &str, disk: &str) -> MirrorReplica {
    part(volume, node, "Replica", json!({ "phase": "Ready", "disk": disk }))
}

fn volume(name: &str, placed: &[&str]) -> MirrorVolume {
    let place = |node: &&str| json!({ "node": node, "nodeId": 1, "incarnation": 1, "role": "Replica" });
    let placement: Vec<Value> = placed.iter().map(place).collect();
    serde_json::from_value(json!({
        "apiVersion": "lockstep.storage/v1alpha1", "kind": "MirrorVolume", "metadata": { "name": name },
        "spec": { "sizeBytes": 4096, "replicas": 2 }, "status": { "placement": placement },
    }))
    .expect("a volume")
}

fn said(replicas: &[MirrorReplica]) -> String {
    line(&plan_progress("a", true, &[volume("v", &[]), volume("w", &[])], replicas))
}

#[test]
fn progress_names_what_is_done_about_each_replica() {
    let pair = [replica("v", "b", "UpToDate"), replica("v", "a", "UpToDate")];
    let with = |more: MirrorReplica| [&pair[..], &[more]].concat();
    assert_eq!(said(&pair), "node a: 1 left: v (no other node yet)");
    assert_eq!(said(&with(part("v", "c", "Replica", Value::Null))), "node a: 1 left: v (to c)");
    let resync =
        json!({ "disk": "Inconsistent", "resync": { "bytesDone": 37, "bytesTotal": 99, "bytesPerSecond": 1 } });
    assert_eq!(said(&with(part("v", "c", "Replica", resync))), "node a: 1 left: v (to c, 37 %)");
    assert_eq!(said(&with(replica("v", "c", "UpToDate"))), "node a: 1 left: v (in sync elsewhere)");
    assert_eq!(said(&with(replica("v", "c", "Failed"))), "node a: 1 left: v (no other node yet)");
    let two = said(&with(replica("w", "a", "UpToDate")));
    assert_eq!(two, "node a: 2 left: v (no other node yet), w (no other node yet)");
}

#[test]
fn of_many_replicas_some_are_named() {
    let many: Vec<MirrorReplica> = (0..12).map(|at| replica(&format!("v{at:02}"), "a", "UpToDate")).collect();
    let said = said(&many);
    assert!(
        said.starts_with("node a: 12 left: v00 ") && said.ends_with("v04 (no other node yet), and 7 more"),
        "{said}"
    );
}

#[test]
fn a_vote_is_not_in_the_pool_once_its_data_are_gone() {
    let vote = |status| part("v", "a", "TieBreaker", status);
    let replicas = [vote(json!({ "phase": "Ready", "disk": "Diskless" })), part("w", "a", "Attachment", Value::Null)];
    assert_eq!(said(&replicas), "node a: no replica is left; 1 votes stay, which are not in the pool");
    assert_eq!(plan_refusal("a", &[], &replicas), None);
    for still in [
        json!({ "phase": "Ready", "disk": "UpToDate" }),
        json!({ "phase": "Ready", "disk": "Diskless", "message": "it was removed from the volume, and can be deleted" }),
    ] {
        let replicas = [vote(still)];
        assert_eq!(said(&replicas), "node a: 1 left: v (in sync elsewhere)");
        assert!(plan_refusal("a", &[], &replicas).is_some());
    }
}

#[test]
fn storage_is_not_replaced_under_replicas_nor_under_those_that_are_only_placed() {
    let replicas = [replica("v", "a", "Failed"), replica("x", "b", "UpToDate")];
    let refused =
        plan_refusal("a", &[volume("w", &["a", "b"]), volume("x", &["b"])], &replicas).expect("it is refused");
    assert!(refused.contains("holds replicas of v, w: empty it first (kubectl lockstep pool drain a)"), "{refused}");
}

#[test]
fn storage_is_an_absolute_path_and_replaces_the_other_kind() {
    assert!(parse_storage(Some("data"), None).is_err());
    let storage = parse_storage(None, Some("/dev/x")).expect("a device");
    assert_eq!(change(&storage), json!({ "evict": false, "storage": { "directory": null, "device": "/dev/x" } }));
    let shown = show_replaced(&Replaced { node: "a".to_owned(), storage, before: None });
    assert!(
        shown.contains("pools: {nodes: {a: {device: /dev/x}}}") && !shown.contains("extraPoolDirectories"),
        "{shown}"
    );
}
