//! GetCapacity: of the pools as they were seen last.

use std::collections::BTreeMap;

use lockstep_api::{Arbiter, names};
use lockstep_csi::controller_port::{Capacity, CapacityError, CapacityQuery};

use super::Port;
use super::parameters::parse_class;
use crate::plan::Pool;
use crate::plan::capacity::plan_room;

impl Port {
    pub(super) fn room(&self, query: &CapacityQuery) -> Result<Capacity, CapacityError> {
        let spec =
            parse_class(&query.parameters).map_err(|error| CapacityError::WrongInput { reason: error.to_string() })?;
        let consumer = query.topology.as_ref().and_then(|it| it.segments.get(names::TOPOLOGY_NODE));
        let pools = self.cluster.plan_pools(&BTreeMap::new());
        let matching: Vec<&Pool> = pools.iter().filter(|pool| pool.matches(&spec.pool_selector)).collect();
        let engines = pools.iter().filter(|pool| pool.engine).count();
        let can_vote = spec.arbiter != Some(Arbiter::Peers) || engines >= 3;
        let has_own = consumer.is_none_or(|node| matching.iter().any(|pool| pool.storage && pool.node == *node));
        if !can_vote || (!spec.remote_access && !has_own) {
            return Ok(Capacity { available_bytes: 0, largest_volume_bytes: 0 });
        }
        let replicas = usize::from(spec.replicas);
        let room = plan_room(&matching, replicas, consumer.map(String::as_str), self.config.overcommit).rounded();
        Ok(Capacity { available_bytes: room.total, largest_volume_bytes: room.largest })
    }
}
