//! The FUSE file systems of engines: their requests can be failed without the engine.

use std::io;
use std::path::Path;

use lockstep_engine::front::loopdev;

/// Lets every request of every loop device fail, present and future, whose FUSE file an engine has named after `place`: the volume, below
/// the directory of the engine's state. Waits for nobody; the devices stay for as long as somebody has them open. Nothing is done where
/// there is no such device.
///
/// # Errors
/// The kernel refuses.
pub fn fail_requests(place: &Path) -> io::Result<()> {
    loopdev::fail_requests(place)
}
