//! The services over ports in memory, called by a real client over a real unix socket.
//!
//! What is wrong here is wrong in the adapter: the ports do what their documentation says, and no host is behind them.

mod bed;
mod cluster;
mod controller_port;
mod gate;
mod identity;
mod node_port;
mod ports;
mod running;
mod secrets;

use bed::Bed;

macro_rules! tests {
    ($($module:ident::$case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> anyhow::Result<()> {
                let bed = Bed::start()?;
                lockstep_csi_conformance::$module::$case(&bed.target()).await
            }
        )*
    };
}

lockstep_csi_conformance::for_each_case!(tests);
