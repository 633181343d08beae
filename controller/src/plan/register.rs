//! What became of the Lease that holds a volume's configuration, as far as an object can show it.
//!
//! Engines judge by what is in it. Here it is only seen that it is gone, or was made again: nobody else would tell while no engine asks.

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use lockstep_leases::names;

/// Why the register of a volume that is created is lost, if it is.
#[must_use]
pub fn plan_register_trouble(name: &str, lease: Option<&Lease>) -> Option<String> {
    let Some(lease) = lease else { return Some(format!("Lease {name} does not exist")) };
    match lease.annotations().get(names::UID_ANNOTATION) {
        Some(written) if Some(written) == lease.metadata.uid.as_ref() => None,
        Some(_) => Some(format!("Lease {name} was deleted and made again, or copied")),
        None => Some(format!("Lease {name} has no content of Lockstep's")),
    }
}
