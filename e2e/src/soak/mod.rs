//! `make soak`: rounds of kills and pauses of real processes under a recording load.
//!
//! A round disturbs one node, goes on elsewhere if it was the writer, heals everything, and then judges every block's
//! history. Every few rounds the volume is detached and the replicas are compared, by digest and byte by byte. Several writers of
//! one volume also lose links between them.

mod cluster;
mod limits;
mod plan;
mod round;
mod run;
mod sharing;
mod summary;

pub use cluster::{Cluster, ClusterStart, FINISH_BOUND, FrontEnd, OPERATION_BOUND, VOLUME, Writer};
pub use limits::Limits;
pub use plan::{AfterWriter, Plan, Role};
pub use run::{SoakOptions, run};
pub use sharing::{SharingOptions, SharingSummary, run_sharing};
pub use summary::Summary;
