//! What a round does to the nodes and to the links between them, drawn from the seed before it begins.

use crate::networks::{Network, Networks};
use crate::random::Random;
use crate::soak::plan::Plan;
use anyhow::{Context, Result};

/// Which link of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// All of a node's.
    Node(usize),
    /// That between two nodes.
    Between(usize, usize),
    /// The way from one node to another; the way back stays.
    Way(usize, usize),
}

/// What is cut at once: packets vanish, nothing is reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// On one network. Whoever loses it still has the other.
    OneNetwork(Network, Link),
    /// The dedicated network at one place and the ordinary one at another: all still reach each other.
    Crossed {
        /// On the dedicated network.
        dedicated: Link,
        /// On the ordinary one.
        ordinary: Link,
    },
    /// On both: somebody is expelled.
    BothNetworks(Link),
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharingPlan {
    /// A node is disturbed.
    pub process: Option<Plan>,
    /// Links are cut.
    pub cut: Option<Cut>,
    /// So often they are cut, each time until work has gone on.
    pub cuts: u32,
    /// Links are joined before the disturbed node runs again.
    pub join_first: bool,
}

impl SharingPlan {
    /// Draws a round for so many nodes.
    pub fn draw(random: &mut Random, nodes: usize, with_links: bool) -> Self {
        if !with_links {
            return SharingPlan { process: Some(Plan::draw(random, nodes)), cut: None, cuts: 0, join_first: false };
        }
        let kind = random.below(100);
        let process = (kind < 60).then(|| Plan::draw(random, nodes));
        let victim = process.as_ref().map(|plan| plan.victim);
        let cut = (kind >= 25).then(|| Cut::draw(random, nodes, victim));
        let cuts = if random.percent(30) { 1 + u32::try_from(random.below(3)).unwrap_or(0) } else { 1 };
        SharingPlan { process, cut, cuts, join_first: random.percent(50) }
    }

    /// Who goes on meanwhile: of each of these, one.
    pub fn go_on(&self, nodes: usize) -> Vec<Vec<usize>> {
        let victim = self.process.as_ref().map(|plan| plan.victim);
        let all = (0..nodes).filter(|node| Some(*node) != victim);
        let groups: Vec<Vec<usize>> = match self.cut {
            Some(Cut::BothNetworks(Link::Node(alone))) => {
                all.filter(|node| *node != alone).map(|it| vec![it]).collect()
            }
            // One of the two is expelled; which, is theirs to find out.
            Some(Cut::BothNetworks(Link::Between(a, b) | Link::Way(a, b))) => {
                let (either, others): (Vec<usize>, Vec<usize>) = all.partition(|node| [a, b].contains(node));
                others.into_iter().map(|it| vec![it]).chain([either]).collect()
            }
            Some(Cut::OneNetwork(..) | Cut::Crossed { .. }) | None => all.map(|it| vec![it]).collect(),
        };
        groups.into_iter().filter(|group| !group.is_empty()).collect()
    }
}

impl Cut {
    /// With a disturbed node beside it, no other loses both networks: of three nodes two have to go on.
    fn draw(random: &mut Random, nodes: usize, victim: Option<usize>) -> Self {
        let network = if random.percent(50) { Network::Dedicated } else { Network::Ordinary };
        match random.below(100) {
            0..35 => Cut::OneNetwork(network, Link::draw(random, nodes, None)),
            35..50 => {
                // Two different ones of the links between three nodes, on one network each.
                let [a, b, c] = shuffled(random, nodes);
                let kind = random.percent(50);
                let link = |from, to| if kind { Link::Between(from, to) } else { Link::Way(from, to) };
                Cut::Crossed { dedicated: link(a, b), ordinary: link(b, c) }
            }
            _ => Cut::BothNetworks(Link::draw(random, nodes, victim)),
        }
    }

    fn links(&self) -> Vec<(Network, Link)> {
        match *self {
            Cut::OneNetwork(network, link) => vec![(network, link)],
            Cut::Crossed { dedicated, ordinary } => {
                vec![(Network::Dedicated, dedicated), (Network::Ordinary, ordinary)]
            }
            Cut::BothNetworks(link) => Network::ALL.map(|network| (network, link)).to_vec(),
        }
    }

    /// Cuts.
    pub fn cut(&self, networks: &Networks, nodes: &[String]) -> Result<()> {
        self.links().into_iter().try_for_each(|(network, link)| link.set(networks, nodes, network, false))
    }

    /// Joins again.
    pub fn join(&self, networks: &Networks, nodes: &[String]) -> Result<()> {
        self.links().into_iter().try_for_each(|(network, link)| link.set(networks, nodes, network, true))
    }

    /// For the line of a round.
    pub fn shown(&self, nodes: &[String]) -> String {
        match self {
            Cut::OneNetwork(network, link) => format!("cut {} {}", network.name(), link.shown(nodes)),
            Cut::Crossed { dedicated, ordinary } => {
                format!("cut dedicated {} and ordinary {}", dedicated.shown(nodes), ordinary.shown(nodes))
            }
            Cut::BothNetworks(link) => format!("cut both networks {}", link.shown(nodes)),
        }
    }
}

impl Link {
    /// One that ends at this node, if one is named.
    fn draw(random: &mut Random, nodes: usize, at: Option<usize>) -> Self {
        let [first, second, _] = shuffled(random, nodes);
        let (one, other) = match at {
            Some(at) if at != first => (at, first),
            Some(at) => (at, second),
            None => (first, second),
        };
        match random.below(4) {
            0 => Link::Node(one),
            1 => Link::Way(one, other),
            2 => Link::Way(other, one),
            _ => Link::Between(one, other),
        }
    }

    fn set(self, networks: &Networks, nodes: &[String], network: Network, joined: bool) -> Result<()> {
        let name = |node: usize| nodes.get(node).context("a link has nodes at its ends");
        let way = |from, to| match joined {
            true => networks.join_way(network, name(from)?, name(to)?),
            false => networks.cut_way(network, name(from)?, name(to)?),
        };
        match self {
            Link::Node(node) if joined => networks.join_node(network, name(node)?),
            Link::Node(node) => networks.cut_node(network, name(node)?),
            Link::Between(a, b) => way(a, b).and(way(b, a)),
            Link::Way(from, to) => way(from, to),
        }
    }

    fn shown(self, nodes: &[String]) -> String {
        let name = |node: usize| nodes.get(node).map_or("?", String::as_str);
        match self {
            Link::Node(node) => format!("of {}", name(node)),
            Link::Between(a, b) => format!("between {} and {}", name(a), name(b)),
            Link::Way(from, to) => format!("from {} to {}", name(from), name(to)),
        }
    }
}

/// Three of the nodes, in any order.
fn shuffled(random: &mut Random, nodes: usize) -> [usize; 3] {
    let mut all: Vec<usize> = (0..nodes).collect();
    let mut next = || {
        let at = usize::try_from(random.below(all.len() as u64)).unwrap_or(0);
        if at < all.len() { all.swap_remove(at) } else { 0 }
    };
    [next(), next(), next()]
}

#[cfg(test)]
mod tests {
    use super::{Cut, Link, Random, SharingPlan};
    use crate::playground::Fault;

    fn plans(seed: u64) -> Vec<SharingPlan> {
        let mut random = Random::new(seed);
        (0..500).map(|_| SharingPlan::draw(&mut random, 3, true)).collect()
    }

    #[test]
    fn every_kind_of_round_is_drawn_and_a_seed_repeats_them() {
        let all = plans(1);
        let drawn = |wanted: &dyn Fn(&SharingPlan) -> bool| assert!(all.iter().any(wanted));
        drawn(&|plan| plan.process.is_some() && plan.cut.is_none());
        drawn(&|plan| plan.process.is_none() && matches!(plan.cut, Some(Cut::Crossed { .. })));
        drawn(&|plan| plan.cuts == 3 && matches!(plan.cut, Some(Cut::BothNetworks(Link::Way(0, 2)))));
        for fault in [Fault::Kill, Fault::Pause, Fault::Stop] {
            drawn(&|plan| plan.cut.is_some() && plan.process.as_ref().is_some_and(|process| process.fault == fault));
        }
        assert_eq!(all, plans(1));
        assert_ne!(all, plans(2));
    }

    #[test]
    fn somebody_always_goes_on() {
        for plan in plans(3) {
            let groups = plan.go_on(3);
            let alone = matches!(plan.cut, Some(Cut::BothNetworks(_))) || plan.process.is_some();
            assert_eq!(groups.len(), if alone { 2 } else { 3 }, "{plan:?}");
            if let (Some(process), Some(Cut::BothNetworks(link))) = (&plan.process, &plan.cut) {
                let (Link::Node(end) | Link::Between(end, _) | Link::Way(end, _)) = *link;
                let other = if let Link::Between(_, other) | Link::Way(_, other) = *link { other } else { end };
                assert!([end, other].contains(&process.victim), "{plan:?}");
            }
        }
    }

    #[test]
    fn no_ends_of_crossed_cuts_are_apart() {
        for plan in plans(4) {
            if let Some(Cut::Crossed { dedicated, ordinary }) = plan.cut {
                assert_ne!(dedicated, ordinary);
            }
        }
    }
}
