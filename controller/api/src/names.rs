//! Names that must be the same everywhere: driver, labels, annotations, finalizers, taints, topology keys.

/// The CSI driver.
pub const DRIVER: &str = "csi.lockstep.storage";

/// Topology key that every node with the driver has, with the value `true`: volumes with remote access are bound to it.
pub const TOPOLOGY_DRIVER: &str = "topology.csi.lockstep.storage/driver";

/// Topology key whose value is the node's name: volumes without remote access are bound to their replicas' nodes.
pub const TOPOLOGY_NODE: &str = "topology.csi.lockstep.storage/node";

/// Label of a [`crate::MirrorReplica`]: the volume's name.
pub const LABEL_VOLUME: &str = "lockstep.storage/volume";

/// Label of a node's guard pod, and of the PodDisruptionBudget that may forbid its eviction: see [`guard_label`].
pub const LABEL_GUARD: &str = "lockstep.storage/guard";

/// Annotation of a guard's PodDisruptionBudget: why the node may not be drained now; empty: it may.
pub const ANNOTATION_DRAIN: &str = "lockstep.storage/drain";

/// Annotation of a guard pod: digest of what it was made from.
pub const ANNOTATION_TEMPLATE: &str = "lockstep.storage/template";

/// Annotation of a pod that is not to be deleted when its node is fenced: any value but `true` and absence mean the default.
pub const ANNOTATION_KEEP_ON_FENCE: &str = "lockstep.storage/keep-on-fence";

/// Annotation of a node Lease: the incarnation of the node's engine in decimal, or [`ENGINE_DOWN`].
pub const ANNOTATION_ENGINE: &str = "lockstep.storage/engine";

/// What [`ANNOTATION_ENGINE`] says while the engine does not answer its agent.
pub const ENGINE_DOWN: &str = "down";

/// Held by a [`crate::MirrorVolume`] until nothing of it is left on any node.
pub const FINALIZER_VOLUME: &str = "lockstep.storage/volume";

/// Held by a [`crate::MirrorReplica`] until its node has deleted its part, also when that node is away.
pub const FINALIZER_REPLICA: &str = "lockstep.storage/replica";

/// Held by a [`crate::MirrorPool`] while replicas are in it.
pub const FINALIZER_POOL: &str = "lockstep.storage/pool";

/// Taint (NoSchedule) of a node whose storage is fenced: nothing that uses our volumes is scheduled there until it is back.
pub const TAINT_FENCED: &str = "lockstep.storage/fenced";

/// Field managers of server-side apply.
pub const MANAGER_CONTROLLER: &str = "lockstep-controller";
/// See [`MANAGER_CONTROLLER`].
pub const MANAGER_NODE: &str = "lockstep-node";

/// Longest name of an object of Kubernetes.
const NAME_BYTES_MAX: usize = 253;

/// The name of the [`crate::MirrorReplica`] of `volume` on `node`: both in plain where they fit.
#[must_use]
pub fn replica_name(volume: &str, node: &str) -> String {
    plain_or_digest(&format!("{volume}."), node, NAME_BYTES_MAX)
}

/// Longest value of a label.
const LABEL_BYTES_MAX: usize = 63;

/// The name of a node's guard pod, and of its PodDisruptionBudget.
#[must_use]
pub fn guard_name(node: &str) -> String {
    plain_or_digest("lockstep-guard-", node, NAME_BYTES_MAX)
}

/// The value of [`LABEL_GUARD`]: the node's name where it fits.
#[must_use]
pub fn guard_label(node: &str) -> String {
    plain_or_digest("", node, LABEL_BYTES_MAX)
}

/// `prefix` and the node's name, or a digest of that where both do not fit.
fn plain_or_digest(prefix: &str, node: &str, bytes_max: usize) -> String {
    let plain = format!("{prefix}{node}");
    if plain.len() <= bytes_max {
        return plain;
    }
    format!("{prefix}{:016x}", fnv1a(node.as_bytes()))
}

/// FNV-1a of 64 bits: stable for ever, which the standard library's hasher is not.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_replicas_fit_and_differ() {
        assert_eq!(replica_name("pvc-1", "worker.example"), "pvc-1.worker.example");
        let (a, b) = ("n".repeat(252), "m".repeat(252));
        assert!(replica_name("pvc-1", &a).len() <= NAME_BYTES_MAX);
        assert_ne!(replica_name("pvc-1", &a), replica_name("pvc-1", &b));
    }

    #[test]
    fn names_of_guards_fit_and_differ() {
        assert_eq!(guard_name("worker.example"), "lockstep-guard-worker.example");
        assert_eq!(guard_label("worker.example"), "worker.example");
        let (a, b) = ("n".repeat(252), "m".repeat(252));
        assert!(guard_name(&a).len() <= NAME_BYTES_MAX && guard_label(&a).len() <= LABEL_BYTES_MAX);
        assert!(guard_name(&a) != guard_name(&b) && guard_label(&a) != guard_label(&b));
    }
}
