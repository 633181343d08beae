//! Who gets what of a new volume: a pure decision over what the nodes said of themselves.

use std::collections::BTreeMap;

use crate::failure::Failure;
use crate::input;
use crate::spec::{Arbiter, NO_VOTES};

/// How many replicas a volume may have.
const REPLICAS: std::ops::RangeInclusive<u32> = 2..=3;

/// One node as it described itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What it can offer, or why it offers nothing.
    pub offer: Result<Offer, Unfit>,
}

/// A node that answers and whose engine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its engine's run.
    pub incarnation: u64,
    /// Size of its pool, or why it has none.
    pub pool_bytes: Result<u64, String>,
}

/// Why a node cannot take part now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It does not answer.
    Unreachable(String),
    /// It answers and its engine does not run.
    NotReady(String),
}

/// What the caller wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Checked already.
    pub size_bytes: u64,
    /// 0: as many as `on` names, else 2.
    pub replicas: u32,
    /// Empty: chosen.
    pub on: Vec<String>,
    /// Empty: chosen.
    pub tie_breaker: String,
    /// With a Lease nobody votes, and there is no tie-breaker.
    pub arbiter: Arbiter,
}

/// Who gets what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Nodes with a replica and their engines' runs.
    pub replicas: BTreeMap<u32, u64>,
    /// The voter without data.
    pub tie_breaker: Option<u32>,
}

/// Chooses the members: those that the caller names, else the node that was asked and then the lowest nodes whose pools are
/// large enough. The tie-breaker of two replicas is the lowest node without one.
///
/// # Errors
/// Wrong input for what no state would accept, else what of the present state is in the way.
pub fn plan_members(wish: &Wish, asked: u32, candidates: &[Candidate]) -> Result<Members, Failure> {
    let count = plan_count(wish)?;
    let find = |field: &str, name: &str| {
        candidates.iter().find(|candidate| candidate.name == name).ok_or_else(|| {
            let names: Vec<_> = candidates.iter().map(|candidate| candidate.name.as_str()).collect();
            Failure::wrong_input(field, name, format!("no node has this name; the nodes are {}", names.join(", ")))
        })
    };
    let mut replicas = BTreeMap::new();
    if wish.on.is_empty() {
        let mut order: Vec<&Candidate> = candidates.iter().collect();
        order.sort_by_key(|candidate| (candidate.id != asked, candidate.id));
        let fitting = order.iter().filter_map(|candidate| Some((candidate.id, fit(candidate, wish.size_bytes).ok()?)));
        replicas.extend(fitting.take(count));
        if replicas.len() < count {
            return Err(explain_shortage(wish, count, candidates));
        }
    } else {
        for name in &wish.on {
            let candidate = find("on", name)?;
            if replicas.insert(candidate.id, fit(candidate, wish.size_bytes)?).is_some() {
                return Err(Failure::wrong_input("on", name, "is named twice"));
            }
        }
    }
    let tie_breaker = plan_tie_breaker(wish, &replicas, candidates, find)?;
    Ok(Members { replicas, tie_breaker })
}

fn plan_count(wish: &Wish) -> Result<usize, Failure> {
    let named = u32::try_from(wish.on.len()).unwrap_or(u32::MAX);
    let count = match (wish.replicas, named) {
        (0, 0) => 2,
        (0, named) => named,
        (given, 0) => given,
        (given, named) if given == named => given,
        (given, named) => {
            let message = format!("does not match the {named} nodes that \"on\" names");
            return Err(Failure::wrong_input("replicas", given, message));
        }
    };
    if !REPLICAS.contains(&count) {
        return Err(Failure::wrong_input("replicas", count, "must be 2 or 3"));
    }
    Ok(usize::try_from(count).expect("2 or 3"))
}

/// The run of a node's engine, if a replica of that size fits there.
fn fit(candidate: &Candidate, size_bytes: u64) -> Result<u64, Failure> {
    let name = &candidate.name;
    let offer = candidate.offer.as_ref().map_err(|unfit| explain_unfit(name, unfit))?;
    match &offer.pool_bytes {
        Err(reason) => Err(Failure::state_forbids(format!("node {name} has no pool that is ready: {reason}"))),
        Ok(pool_bytes) if *pool_bytes < size_bytes => Err(too_large(size_bytes, *pool_bytes, name)),
        Ok(_) => Ok(offer.incarnation),
    }
}

fn explain_unfit(name: &str, unfit: &Unfit) -> Failure {
    match unfit {
        Unfit::Unreachable(reason) => Failure::not_reachable(format!("node {name} cannot be reached: {reason}")),
        Unfit::NotReady(reason) => Failure::not_reachable(format!("the engine of node {name} is not ready: {reason}")),
    }
}

fn too_large(size_bytes: u64, pool_bytes: u64, name: &str) -> Failure {
    let message = format!("is larger than the pool of node {name} has: at most {} fit", input::show_bytes(pool_bytes));
    Failure::wrong_input("size", input::show_exact(size_bytes), message)
}

/// The most useful of the reasons why too few nodes fit: too large for all, then somebody away, then the state of a pool.
fn explain_shortage(wish: &Wish, count: usize, candidates: &[Candidate]) -> Failure {
    if candidates.len() < count {
        return Failure::wrong_input("replicas", count, format!("the cluster has {} nodes", candidates.len()));
    }
    let mut sizes: Vec<(u64, &str)> = candidates
        .iter()
        .filter_map(|candidate| {
            Some((*candidate.offer.as_ref().ok()?.pool_bytes.as_ref().ok()?, candidate.name.as_str()))
        })
        .collect();
    sizes.sort_by(|a, b| b.cmp(a));
    if let Some((bytes, name)) = sizes.get(count - 1) {
        return too_large(wish.size_bytes, *bytes, name);
    }
    let reasons: Vec<Failure> =
        candidates.iter().filter_map(|candidate| fit(candidate, wish.size_bytes).err()).collect();
    let text: Vec<String> = reasons.iter().map(|failure| failure.message.clone()).collect();
    let message = format!("{count} replicas need {count} nodes with a pool: {}", text.join("; "));
    match reasons.iter().any(|failure| failure.kind == crate::failure::Kind::NotReachable) {
        true => Failure::not_reachable(message),
        false => Failure::state_forbids(message),
    }
}

fn plan_tie_breaker<'a>(
    wish: &Wish,
    replicas: &BTreeMap<u32, u64>,
    candidates: &'a [Candidate],
    find: impl Fn(&str, &str) -> Result<&'a Candidate, Failure>,
) -> Result<Option<u32>, Failure> {
    if wish.arbiter == Arbiter::Lease {
        return match wish.tie_breaker.is_empty() {
            true => Ok(None),
            false => Err(Failure::wrong_input("tie_breaker", &wish.tie_breaker, NO_VOTES)),
        };
    }
    if !wish.tie_breaker.is_empty() {
        let candidate = find("tie_breaker", &wish.tie_breaker)?;
        if replicas.len() != 2 {
            let message = "only a volume with 2 replicas has a tie-breaker";
            return Err(Failure::wrong_input("tie_breaker", &wish.tie_breaker, message));
        }
        if replicas.contains_key(&candidate.id) {
            return Err(Failure::wrong_input("tie_breaker", &wish.tie_breaker, "has a replica itself"));
        }
        candidate.offer.as_ref().map_err(|unfit| explain_unfit(&candidate.name, unfit))?;
        return Ok(Some(candidate.id));
    }
    if replicas.len() != 2 {
        return Ok(None);
    }
    let mut without: Vec<&Candidate> =
        candidates.iter().filter(|candidate| !replicas.contains_key(&candidate.id)).collect();
    without.sort_by_key(|candidate| candidate.id);
    match without.iter().find(|candidate| candidate.offer.is_ok()) {
        Some(candidate) => Ok(Some(candidate.id)),
        None => match without.first().map(|candidate| (&candidate.name, &candidate.offer)) {
            // Quietly creating a volume that cannot survive a loss would be a trap.
            Some((name, Err(unfit))) => Err(explain_unfit(name, unfit)),
            _ => Ok(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Offer, Unfit, Wish, plan_members};
    use crate::failure::Kind;
    use crate::spec::Arbiter;

    const GIB: u64 = 1 << 30;

    fn node(id: u32, pool_bytes: u64) -> Candidate {
        let name = char::from_u32(96 + id).expect("a letter").to_string();
        Candidate { id, name, offer: Ok(Offer { incarnation: 10 + u64::from(id), pool_bytes: Ok(pool_bytes) }) }
    }

    fn unfit(id: u32, unfit: Unfit) -> Candidate {
        Candidate { offer: Err(unfit), ..node(id, 0) }
    }

    fn wish() -> Wish {
        Wish { size_bytes: GIB, ..Wish::default() }
    }

    fn on(names: &[&str]) -> Wish {
        Wish { on: names.iter().map(|name| (*name).to_owned()).collect(), ..wish() }
    }

    fn plan(wish: &Wish, candidates: &[Candidate]) -> Result<(Vec<u32>, Option<u32>), (Kind, String)> {
        plan_members(wish, 2, candidates)
            .map(|members| (members.replicas.keys().copied().collect(), members.tie_breaker))
            .map_err(|failure| (failure.kind, failure.to_string()))
    }

    #[test]
    fn the_asked_node_comes_first_and_the_lowest_without_a_replica_breaks_ties() {
        let four = [node(1, 2 * GIB), node(2, 2 * GIB), node(3, 2 * GIB), node(4, 2 * GIB)];
        assert_eq!(plan(&wish(), &four), Ok((vec![1, 2], Some(3))));
        assert_eq!(plan(&Wish { replicas: 3, ..wish() }, &four), Ok((vec![1, 2, 3], None)));
        assert_eq!(plan(&on(&["c", "d"]), &four), Ok((vec![3, 4], Some(1))));
        assert_eq!(plan(&Wish { tie_breaker: "d".into(), ..wish() }, &four), Ok((vec![1, 2], Some(4))));
        assert_eq!(plan(&wish(), &four[..2]), Ok((vec![1, 2], None)));
        assert_eq!(plan(&Wish { arbiter: Arbiter::Lease, ..wish() }, &four), Ok((vec![1, 2], None)));
    }

    #[test]
    fn small_pools_and_absent_nodes_are_passed_over() {
        let nodes = [node(1, GIB / 2), node(2, GIB), unfit(3, Unfit::NotReady("starting".into())), node(4, GIB)];
        assert_eq!(plan(&wish(), &nodes), Ok((vec![2, 4], Some(1))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let three = [node(1, GIB), node(2, GIB), unfit(3, Unfit::Unreachable("refused".into()))];
        let cases = [
            (Wish { replicas: 1, ..wish() }, Kind::WrongInput, "replicas \"1\": must be 2 or 3"),
            (Wish { replicas: 4, ..wish() }, Kind::WrongInput, "must be 2 or 3"),
            (Wish { replicas: 3, ..on(&["a", "b"]) }, Kind::WrongInput, "does not match the 2 nodes"),
            (on(&["a", "x"]), Kind::WrongInput, "the nodes are a, b, c"),
            (on(&["a", "a"]), Kind::WrongInput, "is named twice"),
            (on(&["a", "c"]), Kind::NotReachable, "node c cannot be reached: refused"),
            (Wish { size_bytes: 2 * GIB, ..wish() }, Kind::WrongInput, "at most 1 GiB fit"),
            (Wish { size_bytes: 2 * GIB, ..on(&["a", "b"]) }, Kind::WrongInput, "the pool of node a"),
            (Wish { replicas: 3, ..wish() }, Kind::NotReachable, "3 replicas need 3 nodes"),
            (Wish { tie_breaker: "a".into(), ..wish() }, Kind::WrongInput, "has a replica itself"),
            (Wish { tie_breaker: "z".into(), ..wish() }, Kind::WrongInput, "no node has this name"),
            (wish(), Kind::NotReachable, "node c cannot be reached"),
            (
                Wish { arbiter: Arbiter::Lease, tie_breaker: "b".into(), ..wish() },
                Kind::WrongInput,
                "a Lease is the arbiter",
            ),
        ];
        for (wish, kind, text) in cases {
            let (got, message) = plan(&wish, &three).expect_err(text);
            assert_eq!(got, kind, "{message}");
            assert!(message.contains(text), "{message:?} lacks {text:?}");
        }
        let (kind, message) = plan(&Wish { replicas: 3, ..wish() }, &three[..2]).expect_err("two nodes");
        assert_eq!((kind, message.contains("the cluster has 2 nodes")), (Kind::WrongInput, true));
    }
}
