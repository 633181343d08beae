use super::{Members, Want, plan_members};
use crate::plan::Pool;
use lockstep_api::{Arbiter, Policing, ReplicaRole};

const GIB: u64 = 1 << 30;

pub(crate) fn pool(name: &str, number: u32) -> Pool {
    Pool {
        node: name.to_owned(),
        node_id: number,
        incarnation: 100 + u64::from(number),
        labels: Default::default(),
        zone: None,
        engine: true,
        storage: true,
        cordoned: false,
        evict: false,
        capacity: 101 * GIB,
        free: 101 * GIB,
        reserved: 0,
        votes: 0,
    }
}

pub(crate) fn want() -> Want {
    Want {
        size: GIB,
        replicas: 2,
        arbiter: None,
        policing: Policing::Peer,
        selector: Default::default(),
        preferred: Vec::new(),
        allowed: Vec::new(),
    }
}
