//! Which nodes a new volume is made of: a pure decision over the pools.
//!
//! The first replica goes to the first preferred node that has room (the first consumer's), each further one to another zone if there
//! is one, there to the pool that is promised least. With two replicas and peers as the arbiter, a third node breaks ties.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use lockstep_api::{Arbiter, Placement, Policing, ReplicaRole};

use super::Pool;
use super::pools::same_numbers;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Bytes of each replica.
    pub size: u64,
    /// 2 or 3.
    pub replicas: usize,
    /// None: peers where three engines can vote, else a Lease.
    pub arbiter: Option<Arbiter>,
    /// Leases that police need a Lease as the arbiter.
    pub policing: Policing,
    /// Pools must have these labels.
    pub selector: BTreeMap<String, String>,
    /// Best first.
    pub preferred: Vec<String>,
    /// The only ones that may hold replicas; empty: any.
    pub allowed: Vec<String>,
}

/// Who gets what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Replicas in the order in which they were chosen, then the tie-breaker.
    pub placement: Vec<Placement>,
    /// Who keeps the configuration.
    pub arbiter: Arbiter,
}

/// Why the pools cannot hold it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoRoom {
    /// What is missing, and where.
    pub reason: String,
}

/// Chooses the members of a new volume.
///
/// # Errors
/// Too few pools fit; the reason names each and why not.
pub fn plan_members(want: &Want, pools: &[Pool], overcommit: f64) -> Result<Members, NoRoom> {
    let refusals: Vec<(&Pool, Option<String>)> =
        pools.iter().map(|pool| (pool, refusal(pool, want, pools, overcommit))).collect();
    let fitting: Vec<&Pool> = refusals.iter().filter(|(_, why)| why.is_none()).map(|(pool, _)| *pool).collect();
    if fitting.len() < want.replicas {
        return Err(shortage(want, &refusals));
    }
    let chosen = choose(want, &fitting);
    let (tie_breaker, arbiter) = plan_arbiter(want, &chosen, pools)?;
    let placement = chosen
        .iter()
        .map(|pool| pool.place(ReplicaRole::Replica))
        .chain(tie_breaker.map(|pool| pool.place(ReplicaRole::TieBreaker)))
        .collect();
    Ok(Members { placement, arbiter })
}

/// Chooses one after the other, each with those before it in view.
fn choose<'a>(want: &Want, fitting: &[&'a Pool]) -> Vec<&'a Pool> {
    let mut chosen: Vec<&Pool> = Vec::new();
    while chosen.len() < want.replicas {
        let zones: BTreeSet<&String> = chosen.iter().filter_map(|pool| pool.zone.as_ref()).collect();
        let rank = |pool: &Pool| {
            let preferred = want.preferred.iter().position(|node| *node == pool.node).unwrap_or(usize::MAX);
            let same_zone = pool.zone.as_ref().is_some_and(|zone| zones.contains(zone));
            (preferred, same_zone, pool.fill(), Reverse(pool.free), pool.node.clone())
        };
        let next = fitting.iter().filter(|pool| !chosen.iter().any(|it| it.node == pool.node)).min_by_key(|p| rank(p));
        chosen.push(next.expect("there are at least as many that fit as are wanted"));
    }
    chosen
}

/// Why a replica cannot be placed here.
fn refusal(pool: &Pool, want: &Want, pools: &[Pool], overcommit: f64) -> Option<String> {
    let available = pool.available(overcommit);
    let why = match pool {
        _ if !pool.matches(&want.selector) => "does not have the labels of poolSelector".to_owned(),
        _ if !want.allowed.is_empty() && !want.allowed.contains(&pool.node) => {
            "is not in the topology asked for".to_owned()
        }
        _ if !pool.engine => "its engine does not answer".to_owned(),
        _ if !pool.storage => "has no pool that is ready".to_owned(),
        _ if pool.cordoned || pool.evict => "its pool is cordoned".to_owned(),
        _ if same_numbers(pools).contains(&pool.node_id) => "its number is another node's too".to_owned(),
        _ if available < want.size => format!("has room for {} only", show(available)),
        _ => return None,
    };
    Some(why)
}

fn shortage(want: &Want, refusals: &[(&Pool, Option<String>)]) -> NoRoom {
    let why: Vec<String> =
        refusals.iter().filter_map(|(pool, why)| Some(format!("{}: {}", pool.node, why.as_ref()?))).collect();
    let fitting = refusals.len() - why.len();
    let because = if why.is_empty() { "there are no more".to_owned() } else { why.join("; ") };
    let (wanted, size) = (want.replicas, show(want.size));
    NoRoom { reason: format!("{wanted} nodes with {size} each are needed, and {fitting} have it ({because})") }
}

fn show(bytes: u64) -> bytesize::Display {
    bytesize::ByteSize::b(bytes).display().iec()
}

/// Who keeps the configuration, and who breaks ties.
fn plan_arbiter<'a>(want: &Want, chosen: &[&Pool], pools: &'a [Pool]) -> Result<(Option<&'a Pool>, Arbiter), NoRoom> {
    if want.policing == Policing::Lease || want.arbiter == Some(Arbiter::Lease) {
        return Ok((None, Arbiter::Lease));
    }
    if chosen.len() >= 3 {
        return Ok((None, Arbiter::Peers));
    }
    match (plan_tie_breaker(chosen, pools), want.arbiter) {
        (Some(pool), _) => Ok((Some(pool), Arbiter::Peers)),
        (None, None) => Ok((None, Arbiter::Lease)),
        (None, Some(_)) => Err(NoRoom {
            reason: "arbiter peers needs a third node whose engine answers; arbiter lease or auto does not".to_owned(),
        }),
    }
}

/// A node without a replica whose engine answers: in a zone of its own if there is one, then the one that votes least.
#[must_use]
pub fn plan_tie_breaker<'a>(replicas: &[&Pool], pools: &'a [Pool]) -> Option<&'a Pool> {
    let double = same_numbers(pools);
    let zones: BTreeSet<&String> = replicas.iter().filter_map(|pool| pool.zone.as_ref()).collect();
    pools
        .iter()
        .filter(|pool| pool.engine && !double.contains(&pool.node_id))
        .filter(|pool| !replicas.iter().any(|replica| replica.node == pool.node))
        .min_by_key(|pool| {
            let same_zone = pool.zone.as_ref().is_some_and(|zone| zones.contains(zone));
            (pool.cordoned || pool.evict, same_zone, pool.votes, pool.node.clone())
        })
}

#[cfg(test)]
#[path = "pairing_tests.rs"]
mod tests;
