//! Whether a plugin can answer.

/// What Probe answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Calls are answered.
    Ready,
    /// It is starting, and will be ready by itself.
    Starting,
    /// Something that it needs is missing or broken.
    Unhealthy {
        /// What, for people.
        reason: String,
    },
}
