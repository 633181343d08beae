//! The code for each way in which an operation of the Node service fails: one table for each RPC.
//!
//! After UNAVAILABLE, DEADLINE_EXCEEDED, ABORTED, CANCELLED and RESOURCE_EXHAUSTED kubelet takes the volume for perhaps staged or published,
//! and takes that back before it forgets. After any other code it forgets at once. So those stand where something is running or may
//! be, and RESOURCE_EXHAUSTED only where the specification wants it.

use tonic::Code;

use crate::node_port::{
    DescribeError, ExpandError, HealthError, PublishError, StageError, UnpublishError, UnstageError, UsageError,
};
use crate::publications::Refusal;

pub(super) const fn of_describe(error: &DescribeError) -> Code {
    match error {
        DescribeError::Starting { .. } => Code::Unavailable,
        DescribeError::Host { .. } => Code::Internal,
    }
}

pub(super) const fn of_stage(error: &StageError) -> Code {
    match error {
        StageError::UnknownVolume => Code::NotFound,
        StageError::OtherCapability { .. } => Code::AlreadyExists,
        StageError::Unsupported { .. } | StageError::HeldElsewhere { .. } | StageError::Forbidden { .. } => {
            Code::FailedPrecondition
        }
        StageError::TooMany { .. } => Code::ResourceExhausted,
        StageError::StillWorking { .. } => Code::DeadlineExceeded,
        StageError::NotReachable { .. } => Code::Unavailable,
        StageError::Host { .. } => Code::Internal,
    }
}

pub(super) const fn of_unstage(error: &UnstageError) -> Code {
    match error {
        UnstageError::Published { .. } => Code::FailedPrecondition,
        UnstageError::StillWorking { .. } => Code::DeadlineExceeded,
        UnstageError::NotReachable { .. } => Code::Unavailable,
        UnstageError::Host { .. } => Code::Internal,
    }
}

pub(super) const fn of_publish(error: &PublishError) -> Code {
    match error {
        PublishError::UnknownVolume => Code::NotFound,
        PublishError::Refused(Refusal::OtherThere { .. }) => Code::AlreadyExists,
        PublishError::Refused(Refusal::OnlyOnePath { .. })
        | PublishError::NotStaged { .. }
        | PublishError::Unsupported { .. } => Code::FailedPrecondition,
        PublishError::StillWorking { .. } => Code::DeadlineExceeded,
        PublishError::NotReachable { .. } => Code::Unavailable,
        PublishError::Host { .. } => Code::Internal,
    }
}

pub(super) const fn of_unpublish(error: &UnpublishError) -> Code {
    match error {
        UnpublishError::StillWorking { .. } => Code::DeadlineExceeded,
        UnpublishError::Host { .. } => Code::Internal,
    }
}

pub(super) const fn of_usage(error: &UsageError) -> Code {
    match error {
        UsageError::UnknownVolume | UsageError::NotThere { .. } => Code::NotFound,
        UsageError::DeviceFails { .. } | UsageError::Host { .. } => Code::Internal,
    }
}

pub(super) const fn of_expand(error: &ExpandError) -> Code {
    match error {
        ExpandError::UnknownVolume | ExpandError::NotThere { .. } => Code::NotFound,
        ExpandError::OutOfRange { .. } => Code::OutOfRange,
        ExpandError::StillWorking { .. } => Code::DeadlineExceeded,
        ExpandError::Host { .. } => Code::Internal,
    }
}

/// NodeGetVolumeHealth and NodeGetStorageHealth.
pub(super) const fn of_health(error: &HealthError) -> Code {
    match error {
        HealthError::UnknownVolume => Code::NotFound,
        HealthError::Host { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{of_publish, of_stage};
    use crate::capability::AccessMode;
    use crate::node_port::{Cause, PublishError, StageError};
    use crate::path::AbsolutePath;
    use crate::publications::Refusal;

    /// What kubelet takes for "perhaps there": it takes it back before it forgets.
    fn is_uncertain(code: Code) -> bool {
        matches!(
            code,
            Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled | Code::ResourceExhausted
        )
    }

    fn text() -> String {
        "any".to_owned()
    }

    fn source() -> Cause {
        "any".into()
    }

    #[test]
    fn kubelet_forgets_only_what_left_nothing_behind() {
        let stagings = [
            StageError::UnknownVolume,
            StageError::Unsupported { reason: text() },
            StageError::OtherCapability { difference: text() },
            StageError::HeldElsewhere { holder: text() },
            StageError::Forbidden { reason: text() },
            StageError::Host { doing: text(), source: source() },
            StageError::TooMany { limit: 1 },
            StageError::StillWorking { state: text() },
            StageError::NotReachable { whom: text(), source: source() },
        ];
        let uncertain: Vec<bool> = stagings.iter().map(|error| is_uncertain(of_stage(error))).collect();
        assert_eq!(uncertain, [false, false, false, false, false, false, true, true, true]);
        let path = || AbsolutePath::parse("/any").expect("a path");
        let publications = [
            PublishError::UnknownVolume,
            PublishError::NotStaged { staging_path: path() },
            PublishError::Unsupported { reason: text() },
            PublishError::Refused(Refusal::OtherThere { target_path: path(), difference: "any" }),
            PublishError::Refused(Refusal::OnlyOnePath {
                target_path: path(),
                mode: AccessMode::SingleNodeSingleWriter,
            }),
            PublishError::Host { doing: text(), source: source() },
            PublishError::StillWorking { state: text() },
            PublishError::NotReachable { whom: text(), source: source() },
        ];
        let uncertain: Vec<bool> = publications.iter().map(|error| is_uncertain(of_publish(error))).collect();
        assert_eq!(uncertain, [false, false, false, false, false, false, true, true]);
    }
}
