//! What the chart's values say to the controller: one YAML file, read once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use lockstep_api::PoolStorage;
use serde::{Deserialize, Deserializer};

/// All of the file. What it does not say has a default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Which nodes keep replicas, and where.
    pub pools: Pools,
    /// How many bytes of volumes a byte of a pool may be promised to; 1: pools never fill by volumes alone.
    pub overcommit: f64,
    /// Whether members of running volumes are changed at all.
    pub change_members: bool,
    /// How long a replica may be away before another is made elsewhere.
    #[serde(deserialize_with = "duration")]
    pub replace_after: Duration,
    /// What happens to pods whose node is lost.
    pub fail_over: FailOver,
    /// What holds up the drain of a node.
    pub drain_guard: DrainGuard,
}

/// Which nodes keep replicas, and where.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pools {
    /// On nodes that are not named below; absent: they keep none.
    #[serde(rename = "default")]
    pub default_storage: Option<PoolStorage>,
    /// By name of the node; null: that one keeps none.
    pub nodes: BTreeMap<String, Option<PoolStorage>>,
    /// Nodes that are not named above keep replicas only if they have all these labels.
    pub node_selector: BTreeMap<String, String>,
}

/// What happens to pods whose node is lost.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FailOver {
    /// Whether anything does.
    pub enabled: bool,
    /// How long a node's Lease must not have been renewed.
    #[serde(deserialize_with = "duration")]
    pub node_lease_stale_after: Duration,
    /// How long an engine may be down on a node that lives, before its pods are evicted.
    #[serde(deserialize_with = "duration")]
    pub engine_down_evict_after: Duration,
}

/// What holds up the drain of a node that must not leave now: a guard pod on every node, with a budget that may forbid its eviction.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DrainGuard {
    /// Whether anything does. If not, guards that are there are taken away.
    pub enabled: bool,
    /// The Deployment in the namespace of the installation that guards belong to: they are deleted with it.
    pub deployment: String,
    /// What a guard pod is made from; where it runs is added.
    pub pod: Option<PodSpec>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pools: Pools::default(),
            overcommit: 1.0,
            change_members: true,
            replace_after: Duration::from_secs(10 * 60),
            fail_over: FailOver::default(),
            drain_guard: DrainGuard::default(),
        }
    }
}

impl Default for DrainGuard {
    fn default() -> Self {
        Self { enabled: false, deployment: "lockstep-controller".to_owned(), pod: None }
    }
}

impl Default for FailOver {
    fn default() -> Self {
        Self {
            enabled: true,
            node_lease_stale_after: Duration::from_secs(6),
            engine_down_evict_after: Duration::from_secs(60),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {path}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no YAML, or has a key that does not exist or a value of another kind.
    #[error("understand the configuration")]
    Parse {
        /// Where and why.
        source: Box<serde_saphyr::Error>,
    },
    /// A value is out of its range.
    #[error("configuration: {field} {reason}")]
    OutOfRange {
        /// Which.
        field: String,
        /// What it can be.
        reason: &'static str,
    },
}

/// The range of [`Config::overcommit`]: below, pools could not be used; above, promises mean nothing.
const OVERCOMMIT: std::ops::RangeInclusive<f64> = 0.1..=20.0;

/// Below, an ordinary hiccup of a node or of the API server would pass for its death: nodes renew every 2 s.
const STALE_AFTER_MIN: Duration = Duration::from_secs(5);

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// Understands the file's text; an empty one is all defaults.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] and [`ConfigError::OutOfRange`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let config: Self =
            serde_saphyr::from_str(text).map_err(|source| ConfigError::Parse { source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field: &str, reason| Err(ConfigError::OutOfRange { field: field.to_owned(), reason });
        if !OVERCOMMIT.contains(&self.overcommit) {
            return wrong("overcommit", "is a number from 0.1 to 20");
        }
        if self.fail_over.node_lease_stale_after < STALE_AFTER_MIN {
            return wrong("failOver.nodeLeaseStaleAfter", "is at least 5s");
        }
        if self.drain_guard.enabled && self.drain_guard.pod.as_ref().is_none_or(|pod| pod.containers.is_empty()) {
            return wrong("drainGuard.pod", "has at least one container");
        }
        let named = self.pools.nodes.iter().filter_map(|(node, storage)| Some((node, storage.as_ref()?)));
        let default = self.pools.default_storage.iter().map(|storage| ("default", storage));
        for (place, storage) in named.map(|(node, storage)| (node.as_str(), storage)).chain(default) {
            let path = match (&storage.directory, &storage.device) {
                (Some(path), None) | (None, Some(path)) => path,
                _ => return wrong(&format!("pools: storage of {place}"), "is either a directory or a device"),
            };
            if !path.starts_with('/') || path.contains("..") {
                return wrong(&format!("pools: storage of {place}"), "is an absolute path");
            }
        }
        Ok(())
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_all_defaults() {
        assert_eq!(Config::parse("\n").expect("empty"), Config::default());
    }

    #[test]
    fn everything_can_be_said() {
        let text = "pools:\n  default: {directory: /var/lib/lockstep/pool}\n  nodes:\n    a: {device: /dev/sdb}\n    b: null\n  \
            nodeSelector: {storage: \"yes\"}\novercommit: 2.5\nreplaceAfter: 10m\nfailOver:\n  enabled: false\n  nodeLeaseStaleAfter: 8s\n\
            changeMembers: true\ndrainGuard:\n  enabled: true\n  pod:\n    terminationGracePeriodSeconds: 5\n    containers:\n    - name: guard\n      \
            image: i\n      resources: {requests: {cpu: 1m, memory: 8Mi}}\n";
        let config = Config::parse(text).expect("is understood");
        assert_eq!(config.replace_after, Duration::from_secs(600));
        assert_eq!(config.fail_over.node_lease_stale_after, Duration::from_secs(8));
        assert_eq!(config.pools.nodes["a"].as_ref().and_then(|it| it.device.as_deref()), Some("/dev/sdb"));
        assert_eq!(config.pools.nodes["b"], None);
        assert!(config.change_members);
        let guard = config.drain_guard.pod.expect("a pod");
        assert_eq!((guard.containers[0].name.as_str(), guard.termination_grace_period_seconds), ("guard", Some(5)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("poools: {}", "poools"),
            ("overcommit: 0", "overcommit"),
            ("failOver: {nodeLeaseStaleAfter: 1s}", "at least 5s"),
            ("pools: {default: {directory: pool}}", "absolute path"),
            ("pools: {nodes: {a: {directory: /a, device: /b}}}", "storage of a"),
            ("replaceAfter: soon", "expected number"),
            ("drainGuard: {enabled: true}", "drainGuard.pod has at least one container"),
            ("drainGuards: {}", "drainGuards"),
        ] {
            let error = Config::parse(text).expect_err(text);
            let chain = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(chain.contains(says), "{chain}");
        }
    }
}
