//! A MirrorPool per node that takes part, as the configuration says.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use lockstep_api::{MirrorPool, PoolStorage, names};
use serde_json::json;

use super::apply::{apply, set_finalizer};
use super::{LOOK_EVERY, Leader, ReconcileError};
use crate::config::Pools;

/// Where the configuration says that a node keeps replicas. `None`: nowhere; its pods reach volumes through other nodes.
fn plan_storage(pools: &Pools, name: &str, labels: &BTreeMap<String, String>) -> Option<PoolStorage> {
    let selected = pools.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    match pools.nodes.get(name) {
        Some(storage) => storage.clone(),
        None => pools.default_storage.clone().filter(|_| selected),
    }
}

impl Leader {
    /// Makes the pools that are missing.
    pub(super) async fn reconcile_pools(&self) {
        for node in self.cluster.nodes.state() {
            self.reconcile_pool_of(&node.name_any()).await;
        }
    }

    /// Makes the pool of a node, if it should have one and has none. What is there is a person's to change: the configuration is
    /// only how it begins.
    pub(super) async fn reconcile_pool_of(&self, name: &str) {
        let Some(node) = self.cluster.node(name).filter(|node| node.metadata.deletion_timestamp.is_none()) else {
            return;
        };
        if self.cluster.pool(name).is_some() {
            return;
        }
        let storage = plan_storage(&self.config.pools, name, node.labels());
        let mut spec = json!({ "nodeName": name });
        if let Some(storage) = &storage {
            spec["storage"] = json!(storage);
        }
        let fields = json!({ "metadata": { "finalizers": [names::FINALIZER_POOL] }, "spec": spec });
        match apply::<MirrorPool>(&self.cluster.client, name, &fields).await {
            Ok(_) => tracing::info!(node = name, storage = storage.is_some(), "pool_made"),
            // The next event of the node, which come every few seconds, tries again.
            Err(error) => tracing::warn!(node = name, %error, "pool_not_made"),
        }
    }

    /// Lets go of a pool that is being deleted when nothing is placed in it any more, or its node is gone for good.
    pub(super) async fn reconcile_pool(&self, pool: &MirrorPool) -> Result<Action, ReconcileError> {
        let node = &pool.spec.node_name;
        let held = pool.finalizers().iter().any(|it| it == names::FINALIZER_POOL);
        if pool.metadata.deletion_timestamp.is_none() || !held {
            return Ok(Action::await_change());
        }
        let parts = self.cluster.replicas.state_filter(|part| part.spec.node_name == *node);
        let gone = self.cluster.node(node).is_none();
        if !parts.is_empty() && !gone {
            tracing::info!(node, parts = parts.len(), "pool_deletion_waits");
            return Ok(Action::requeue(LOOK_EVERY));
        }
        // The node will never come to delete its parts.
        for part in parts {
            set_finalizer(&self.cluster.client, &*part, names::FINALIZER_REPLICA, false)
                .await
                .map_err(|source| ReconcileError::Write { what: "take the finalizer of a lost part away", source })?;
        }
        set_finalizer(&self.cluster.client, pool, names::FINALIZER_POOL, false)
            .await
            .map_err(|source| ReconcileError::Write { what: "take the pool's finalizer away", source })?;
        Ok(Action::await_change())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_node_is_as_named_and_others_by_their_labels() {
        let directory = |path: &str| PoolStorage { directory: Some(path.to_owned()), device: None };
        let pools = Pools {
            default_storage: Some(directory("/d")),
            nodes: [("a".to_owned(), None), ("b".to_owned(), Some(directory("/b")))].into(),
            node_selector: [("storage".to_owned(), "yes".to_owned())].into(),
        };
        let labelled = [("storage".to_owned(), "yes".to_owned())].into();
        let plain = BTreeMap::new();
        assert_eq!(plan_storage(&pools, "a", &labelled), None);
        assert_eq!(plan_storage(&pools, "b", &plain), Some(directory("/b")));
        assert_eq!(plan_storage(&pools, "c", &labelled), Some(directory("/d")));
        assert_eq!(plan_storage(&pools, "c", &plain), None);
    }
}
