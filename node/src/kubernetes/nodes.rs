//! The nodes of the cluster, from the MirrorPools in which each says where it is: what the cluster file lists, what the engine is told,
//! and whom it may forget. A pure decision.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lockstep_api::MirrorPool;

use crate::cluster::{Dedicated, Node};
use crate::input;

/// What follows from the MirrorPools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodePlan {
    /// For the cluster file: this node, all others, and those that are gone and not forgotten yet.
    pub(crate) file: Vec<Node>,
    /// For the engine: all but this node.
    pub(crate) tell: Vec<Node>,
    /// Numbers of nodes that nobody is any more. The engine refuses to forget one that a volume still has as a member.
    pub(crate) forget: Vec<u32>,
    /// Nodes that say they have the number or the place of another, or of this one: a state directory was copied.
    pub(crate) doubled: Vec<String>,
}

/// Plans for node `me`, which knew `known` before.
pub(crate) fn plan_nodes(known: &[Node], me: &Node, pools: &[Arc<MirrorPool>]) -> NodePlan {
    let mut plan = NodePlan::default();
    let mut by_id = BTreeMap::from([(me.id, me.clone())]);
    for node in pools.iter().filter_map(|pool| parse(pool)).filter(|node| node.name != me.name) {
        if by_id.values().any(|other: &Node| other.id == node.id || is_same_place(other, &node)) {
            plan.doubled.push(node.name);
        } else {
            by_id.insert(node.id, node);
        }
    }
    plan.tell = by_id.values().filter(|node| node.id != me.id).cloned().collect();
    for former in known.iter().filter(|node| !by_id.contains_key(&node.id)) {
        let name_taken = by_id.values().any(|node| node.name == former.name);
        let pool_there = pools.iter().any(|pool| pool.metadata.name.as_deref() == Some(&former.name));
        if name_taken || !pool_there {
            plan.forget.push(former.id);
        }
        // Two nodes at one place would be no cluster file: who is there now counts.
        if !name_taken && !by_id.values().any(|node| is_same_place(node, former)) {
            plan.file.push(former.clone());
        }
    }
    plan.file.extend(by_id.into_values());
    plan.file.sort_by_key(|node| node.id);
    plan
}

/// Each node has two ports of its own at its address.
fn is_same_place(a: &Node, b: &Node) -> bool {
    a.address == b.address && a.port.abs_diff(b.port) < 2
}

/// Where a node says it is; `None`: it has not said so yet.
pub(crate) fn parse(pool: &MirrorPool) -> Option<Node> {
    let (name, status) = (pool.metadata.name.clone()?, pool.status.as_ref()?);
    let address: IpAddr = status.address.as_deref()?.parse().ok()?;
    let dedicated = status.dedicated_address.as_deref().and_then(|text| text.parse().ok()).map(Dedicated::Address);
    let usable = status.node_id != 0 && (1..u16::MAX).contains(&status.port);
    let usable = usable && input::check_node_name("node", &name).is_ok();
    usable.then_some(Node { id: status.node_id, name, address, dedicated, port: status.port })
}

#[cfg(test)]
mod tests {
    use super::{NodePlan, plan_nodes};
    use crate::cluster::Node;
    use lockstep_api::{MirrorPool, MirrorPoolSpec, MirrorPoolStatus};
    use std::sync::Arc;

    fn node(id: u32, name: &str, last: u8) -> Node {
        let address = std::net::Ipv4Addr::new(192, 0, 2, last).into();
        Node { id, name: name.to_owned(), address, dedicated: None, port: 7501 }
    }

    fn pool(name: &str, id: u32, last: u8) -> Arc<MirrorPool> {
        let spec = MirrorPoolSpec { node_name: name.to_owned(), storage: None, cordoned: false, evict: false };
        let mut pool = MirrorPool::new(name, spec);
        pool.status = Some(MirrorPoolStatus {
            node_id: id,
            address: Some(format!("192.0.2.{last}")),
            port: 7501,
            ..Default::default()
        });
        Arc::new(pool)
    }

    fn silent(name: &str) -> Arc<MirrorPool> {
        let mut pool = MirrorPool::clone(&pool(name, 1, 1));
        pool.status = None;
        Arc::new(pool)
    }

    #[test]
    fn nodes_that_said_where_they_are_are_listed_and_told() {
        let me = node(7, "a", 1);
        let pools = [pool("a", 7, 1), pool("b.example", 3, 2), silent("c")];
        let plan = plan_nodes(&[], &me, &pools);
        assert_eq!(plan.file, [node(3, "b.example", 2), me.clone()]);
        assert_eq!(plan.tell, [node(3, "b.example", 2)]);
        assert!(plan.forget.is_empty() && plan.doubled.is_empty());
        assert_eq!(plan_nodes(&plan.file, &me, &pools), plan, "nothing is left to do");
    }

    #[test]
    fn a_node_is_kept_while_its_pool_is_there_and_forgotten_after() {
        let me = node(7, "a", 1);
        let known = [node(3, "b", 2), me.clone()];
        let plan = plan_nodes(&known, &me, &[silent("b")]);
        assert_eq!((plan.file.as_slice(), plan.forget.is_empty()), (&known[..], true));
        let plan = plan_nodes(&known, &me, &[]);
        // Until the engine has forgotten it, it is known at its next start too.
        assert_eq!((plan.file.as_slice(), plan.forget.as_slice()), (&known[..], &[3][..]));
    }

    #[test]
    fn a_node_that_lost_its_identity_is_another_one() {
        let me = node(7, "a", 1);
        let plan = plan_nodes(&[node(3, "b", 2), me.clone()], &me, &[pool("b", 4, 2)]);
        assert_eq!(plan.file, [node(4, "b", 2), me]);
        assert_eq!(plan.tell, [node(4, "b", 2)]);
        assert_eq!(plan.forget, [3]);
    }

    #[test]
    fn a_number_and_a_place_belong_to_one_node() {
        let me = node(7, "a", 1);
        let plan = plan_nodes(&[], &me, &[pool("b", 3, 2), pool("c", 3, 4), pool("d", 7, 5), pool("e", 9, 2)]);
        assert_eq!(plan.file, [node(3, "b", 2), me]);
        assert_eq!(plan.doubled, ["c", "d", "e"]);
        assert_ne!(plan, NodePlan::default());
    }
}
