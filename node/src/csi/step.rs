//! The steps of the node port, each of which changes the host and may be the last one before this process is killed.

use std::sync::Arc;

/// A step that has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Stage: it is written down that the volume is about to be attached.
    StageIntended,
    /// Stage: the volume is attached.
    StageAttached,
    /// Stage: its device has a name.
    StageNamed,
    /// Stage: it is written down which device it is.
    StageRecorded,
    /// Stage: the file system is made.
    StageMade,
    /// Stage: the file system is checked.
    StageChecked,
    /// Stage: the file system is mounted.
    StageMounted,
    /// Stage: the file system is as large as its device.
    StageGrown,
    /// Publish: it is written down what is about to be published.
    PublishRecorded,
    /// Publish: the target is made.
    PublishTargetMade,
    /// Publish: a loop device for reading only is made.
    PublishLoopMade,
    /// Publish: the volume is bound to the target.
    PublishBound,
    /// Publish: the target cannot be written through, if it must not.
    PublishProtected,
    /// Unpublish: nothing is bound to the target.
    UnpublishUnbound,
    /// Unpublish: the loop device for reading only is given up.
    UnpublishLoopReleased,
    /// Unpublish: the target is removed.
    UnpublishTargetRemoved,
    /// Unstage: the file system is not mounted.
    UnstageUnmounted,
    /// Unstage: the volume is detached.
    UnstageDetached,
    /// Unstage: its device has no name.
    UnstageUnnamed,
    /// Unstage: nothing is written down of it.
    UnstageForgotten,
}

impl Step {
    /// All of them, in the order in which they come.
    pub const ALL: [Self; 20] = [
        Self::StageIntended,
        Self::StageAttached,
        Self::StageNamed,
        Self::StageRecorded,
        Self::StageMade,
        Self::StageChecked,
        Self::StageMounted,
        Self::StageGrown,
        Self::PublishRecorded,
        Self::PublishTargetMade,
        Self::PublishLoopMade,
        Self::PublishBound,
        Self::PublishProtected,
        Self::UnpublishUnbound,
        Self::UnpublishLoopReleased,
        Self::UnpublishTargetRemoved,
        Self::UnstageUnmounted,
        Self::UnstageDetached,
        Self::UnstageUnnamed,
        Self::UnstageForgotten,
    ];
}

/// Who is told of every step: nobody, or a test that ends the process there.
#[derive(Clone, Default)]
pub struct StepWatch(Option<Arc<dyn Fn(Step) + Send + Sync>>);

impl StepWatch {
    /// Calls `watch` after each step.
    pub fn new(watch: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    pub(super) fn done(&self, step: Step) {
        if let Some(watch) = &self.0 {
            watch(step);
        }
    }
}

impl std::fmt::Debug for StepWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StepWatch").field(&self.0.is_some()).finish()
    }
}
