//! How Leases of Lockstep are named and marked: what people find with `kubectl get leases`.

use lockstep_core::VolumeId;

/// The namespace, unless the cluster file names another.
pub const NAMESPACE: &str = "lockstep";
/// Label: the volume that a Lease belongs to, as 32 hex digits.
pub const VOLUME_LABEL: &str = "lockstep.dev/volume";
/// Label: what a Lease is for, see [`crate::Kind`].
pub const KIND_LABEL: &str = "lockstep.dev/kind";
/// Annotation: the Lease's own uid, written after it was made. One that says another was copied, or made again.
pub const UID_ANNOTATION: &str = "lockstep.dev/uid";
/// Annotation: the whole configuration, in base64.
pub const CONFIGURATION_ANNOTATION: &str = "lockstep.dev/configuration";
/// Annotation, for people: the configuration's epoch.
pub const EPOCH_ANNOTATION: &str = "lockstep.dev/epoch";
/// Annotation, for people: the nodes that are in sync.
pub const IN_SYNC_ANNOTATION: &str = "lockstep.dev/in-sync";

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
