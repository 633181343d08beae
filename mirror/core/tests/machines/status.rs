//! What the status says of a peer that is gone.

use lockstep_core::{Incarnation, NodeId};

use super::cluster::{A, B, C, Cluster};

fn reached(cluster: &Cluster, from: NodeId) -> Vec<NodeId> {
    let peers = cluster.replica(from).status().peers;
    peers.into_iter().filter(|peer| peer.reachable).map(|peer| peer.node).collect()
}

#[test]
fn peer_that_is_silent_is_not_called_reachable_once_it_is_suspected() {
    let mut cluster = Cluster::start(3, &[A]);
    cluster.run(500);
    assert_eq!(reached(&cluster, A), [B, C]);
    // Nothing closes a connection.
    cluster.lose(|from, to, _| from == C || to == C);
    cluster.run(1_100);
    for node in [A, B] {
        assert!(!reached(&cluster, node).contains(&C), "{node} calls C reachable");
        cluster.run(100);
    }
    cluster.lose_nothing();
    cluster.run(10_000);
    assert_eq!(reached(&cluster, A), [B, C]);
}

#[test]
fn peer_whose_process_has_ended_is_not_called_reachable_while_its_connection_lives_on() {
    let mut cluster = Cluster::start(3, &[A]);
    cluster.run(500);
    cluster.exited(A, C, Incarnation(1));
    assert_eq!(reached(&cluster, A), [B]);
}
