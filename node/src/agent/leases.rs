//! The Leases of volumes whose configuration a Lease keeps: made before the volume's first part, deleted with its last.

use lockstep_core::VolumeId;
use lockstep_leases::{CreateRegister, Leases};

use super::Agent;
use crate::failure::Failure;
use crate::first_config::first_config;
use crate::spec::{Arbiter, Spec};

impl Agent {
    /// This node's access to Leases.
    pub(super) fn leases(&self) -> Result<&Leases, Failure> {
        self.leases.as_ref().ok_or_else(|| {
            let me = &self.me.name;
            Failure::state_forbids(format!(
                "a Lease is the arbiter, and node {me} is given no kubeconfig: name one as this.kubeconfig in its \
                 cluster file, or ask a node that has one"
            ))
        })
    }

    /// Makes the register of a volume that has one.
    pub(super) async fn create_register(&self, spec: &Spec) -> Result<(), Failure> {
        if spec.arbiter != Arbiter::Lease {
            return Ok(());
        }
        let created = self.leases()?.create_register(&first_config(spec)).await;
        created.map_err(|error| match error {
            CreateRegister::Request(error) => Failure::not_reachable(error.to_string()),
            CreateRegister::Exists(_) => Failure::state_forbids(error.to_string()),
        })
    }

    /// Deletes the Leases of a volume, if it has any. Says why not.
    pub(super) async fn delete_leases(&self, spec: &Spec) -> Result<(), String> {
        if spec.arbiter != Arbiter::Lease {
            return Ok(());
        }
        let leases = self.leases().map_err(|failure| failure.message)?;
        leases.delete_all(VolumeId(spec.id)).await.map_err(|error| error.to_string())
    }
}
