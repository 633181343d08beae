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
