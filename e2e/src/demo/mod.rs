//! `make demo`: a mirrored file system that loses its peer and its writer, with every acknowledged byte checked; then a volume
//! that two nodes write at once.

mod copy;
mod figures;
mod screen;
mod second_act;
mod story;
mod watch;

pub use figures::Figures;
pub use screen::Screen;
pub use story::{StoryStart, tell};
