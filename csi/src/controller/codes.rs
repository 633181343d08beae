//! The code for each way in which an operation of the Controller service fails: one table for each RPC.
//!
//! Callers take UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED and CANCELLED for "perhaps still running": a claim then stays with the node that
//! was chosen for it. They stand only where something is running, or where nobody knows. RESOURCE_EXHAUSTED lets the scheduler try
//! another node. INVALID_ARGUMENT, OUT_OF_RANGE and NOT_FOUND let the resizer stop trying.

use tonic::Code;

use crate::controller_port::{
    CapacityError, CreateError, DeleteError, ExpandError, ListError, LookUpError, ModifyError,
};

pub(super) const fn of_create(error: &CreateError) -> Code {
    match error {
        CreateError::WrongInput { .. } => Code::InvalidArgument,
        CreateError::Exists { .. } => Code::AlreadyExists,
        CreateError::OutOfRange { .. } => Code::OutOfRange,
        CreateError::NoRoom { .. } => Code::ResourceExhausted,
        CreateError::StillWorking { .. } => Code::DeadlineExceeded,
        CreateError::Uncertain { .. } => Code::Unavailable,
        CreateError::Failed { .. } => Code::Internal,
    }
}

pub(super) const fn of_delete(error: &DeleteError) -> Code {
    match error {
        DeleteError::InUse { .. } => Code::FailedPrecondition,
        DeleteError::StillWorking { .. } => Code::DeadlineExceeded,
        DeleteError::Uncertain { .. } => Code::Unavailable,
        DeleteError::Failed { .. } => Code::Internal,
    }
}

pub(super) const fn of_expand(error: &ExpandError) -> Code {
    match error {
        ExpandError::UnknownVolume => Code::NotFound,
        ExpandError::OutOfRange { .. } => Code::OutOfRange,
        ExpandError::NoRoom { .. } => Code::ResourceExhausted,
        ExpandError::Forbidden { .. } => Code::FailedPrecondition,
        ExpandError::StillWorking { .. } => Code::DeadlineExceeded,
        ExpandError::Uncertain { .. } => Code::Unavailable,
        ExpandError::Failed { .. } => Code::Internal,
    }
}

pub(super) const fn of_modify(error: &ModifyError) -> Code {
    match error {
        ModifyError::UnknownVolume => Code::NotFound,
        ModifyError::WrongInput { .. } => Code::InvalidArgument,
        ModifyError::Forbidden { .. } => Code::FailedPrecondition,
        ModifyError::NoRoom { .. } => Code::ResourceExhausted,
        ModifyError::Uncertain { .. } => Code::Unavailable,
        ModifyError::Failed { .. } => Code::Internal,
    }
}

pub(super) const fn of_capacity(error: &CapacityError) -> Code {
    match error {
        CapacityError::WrongInput { .. } => Code::InvalidArgument,
        CapacityError::Failed { .. } => Code::Internal,
    }
}

/// ControllerGetVolume, ValidateVolumeCapabilities and ControllerGetVolumeHealth.
pub(super) const fn of_look_up(error: &LookUpError) -> Code {
    match error {
        LookUpError::UnknownVolume => Code::NotFound,
        LookUpError::Failed { .. } => Code::Internal,
    }
}

/// ListVolumes and ControllerListVolumeHealth.
pub(super) const fn of_list(error: &ListError) -> Code {
    match error {
        ListError::Failed { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{of_create, of_delete, of_expand, of_modify};
    use crate::controller_port::{CreateError, DeleteError, ExpandError, ModifyError};
    use crate::volume::VolumeId;

    /// What callers take for "perhaps still running".
    fn parks(code: Code) -> bool {
        matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled)
    }

    fn text() -> String {
        "any".to_owned()
    }

    fn source() -> crate::controller_port::Cause {
        "any".into()
    }

    #[test]
    fn a_claim_is_parked_only_where_something_may_be_running() {
        let id = || VolumeId::parse("any").expect("an id");
        let creations = [
            CreateError::WrongInput { reason: text() },
            CreateError::Exists { id: id(), difference: text() },
            CreateError::OutOfRange { reason: text() },
            CreateError::NoRoom { reason: text() },
            CreateError::Failed { source: source() },
            CreateError::StillWorking { id: id(), state: text() },
            CreateError::Uncertain { source: source() },
        ];
        let parked: Vec<bool> = creations.iter().map(|error| parks(of_create(error))).collect();
        assert_eq!(parked, [false, false, false, false, false, true, true]);
        let deletions = [
            DeleteError::InUse { nodes: vec![] },
            DeleteError::Failed { source: source() },
            DeleteError::StillWorking { state: text() },
            DeleteError::Uncertain { source: source() },
        ];
        let parked: Vec<bool> = deletions.iter().map(|error| parks(of_delete(error))).collect();
        assert_eq!(parked, [false, false, true, true]);
    }

    #[test]
    fn the_resizer_stops_trying_what_can_never_be() {
        let infeasible = |code| matches!(code, Code::InvalidArgument | Code::OutOfRange | Code::NotFound);
        let expansions = [
            ExpandError::UnknownVolume,
            ExpandError::OutOfRange { reason: text() },
            ExpandError::NoRoom { reason: text() },
            ExpandError::Forbidden { reason: text() },
            ExpandError::StillWorking { state: text() },
            ExpandError::Uncertain { source: source() },
            ExpandError::Failed { source: source() },
        ];
        let stopped: Vec<bool> = expansions.iter().map(|error| infeasible(of_expand(error))).collect();
        assert_eq!(stopped, [true, true, false, false, false, false, false]);
        let changes = [
            ModifyError::UnknownVolume,
            ModifyError::WrongInput { reason: text() },
            ModifyError::Forbidden { reason: text() },
            ModifyError::NoRoom { reason: text() },
            ModifyError::Uncertain { source: source() },
            ModifyError::Failed { source: source() },
        ];
        let stopped: Vec<bool> = changes.iter().map(|error| infeasible(of_modify(error))).collect();
        assert_eq!(stopped, [true, true, false, false, false, false]);
    }
}
