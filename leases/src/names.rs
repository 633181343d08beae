//! How Leases of Lockstep are named and marked: what people find with `kubectl get leases`.

use lockstep_core::{NodeId, VolumeId};

/// The namespace, unless the cluster file names another.
pub const NAMESPACE: &str = "lockstep";
/// Label: the volume that a Lease belongs to, as 32 hex digits.
pub const VOLUME_LABEL: &str = "lockstep.storage/volume";
/// Label: what a Lease is for, see [`crate::Kind`].
pub const KIND_LABEL: &str = "lockstep.storage/kind";
/// Annotation: the Lease's own uid, written after it was made. One that says another was copied, or made again.
pub const UID_ANNOTATION: &str = "lockstep.storage/uid";
/// Annotation: the whole configuration, in base64.
pub const CONFIGURATION_ANNOTATION: &str = "lockstep.storage/configuration";
/// Annotation, for people: the configuration's epoch.
pub const EPOCH_ANNOTATION: &str = "lockstep.storage/epoch";
/// Annotation, for people: the nodes that are in sync.
pub const IN_SYNC_ANNOTATION: &str = "lockstep.storage/in-sync";
/// Annotation: all nodes of the configuration, by number and separated by commas. An admission policy, which cannot decode the
/// configuration, reads there whether a node has to do with the volume.
pub const MEMBERS_ANNOTATION: &str = "lockstep.storage/members";

/// A volume's identity as it stands in names and labels.
#[must_use]
pub fn volume_label(volume: VolumeId) -> String {
    volume.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the Lease that holds a volume's configuration.
#[must_use]
pub fn register_name(volume: VolumeId) -> String {
    format!("lockstep-{}", volume_label(volume))
}

/// Annotation of a grant Lease: the counter of the grant, which `leaseTransitions` shows as far as it can.
pub const COUNTER_ANNOTATION: &str = "lockstep.storage/counter";
/// Annotation of a grant Lease: who waits, in order of arrival, as JSON.
pub const WISHES_ANNOTATION: &str = "lockstep.storage/wishes";

/// What stands between the volume and the shard in a grant Lease's name.
const GRANTS: &str = "-grants-";

/// The name of the Lease that says who may write a shard of a volume.
#[must_use]
pub fn grants_name(volume: VolumeId, shard: u8) -> String {
    format!("{}{GRANTS}{shard}", register_name(volume))
}

/// Whose grant Lease has this name.
#[must_use]
pub fn parse_grants_name(name: &str) -> Option<(VolumeId, u8)> {
    let (register, shard) = name.split_once(GRANTS)?;
    let hex = register.strip_prefix("lockstep-")?;
    let mut volume = [0; 16];
    for (at, byte) in volume.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    let (volume, shard) = (VolumeId(volume), shard.parse().ok()?);
    // One Lease has one name.
    (name == grants_name(volume, shard)).then_some((volume, shard))
}

/// The name of a node's own Lease.
#[must_use]
pub fn node_name(node: NodeId) -> String {
    format!("lockstep-node-{node}")
}

#[cfg(test)]
mod tests {
    use super::{grants_name, parse_grants_name};
    use lockstep_core::VolumeId;

    #[test]
    fn names_are_parsed_back_and_others_are_nobodys() {
        let volume = VolumeId([0xa7; 16]);
        assert_eq!(parse_grants_name(&grants_name(volume, 15)), Some((volume, 15)));
        let good = grants_name(volume, 1);
        for bad in [&good.replace("a7", "A7"), &good.replace("-1", "-01"), &good.replace("-1", "-256"), "lockstep-é"] {
            assert_eq!(parse_grants_name(bad), None, "{bad}");
        }
    }
}
