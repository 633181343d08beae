//! `make demo`: a mirrored file system that loses its peer and its writer, with every acknowledged byte checked.

mod copy;
mod figures;
mod screen;
mod story;
mod watch;

pub use figures::Figures;
pub use screen::Screen;
pub use story::{StoryStart, tell};
