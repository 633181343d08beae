//! `uninstall-check`: asked by `helm uninstall` before it deletes anything. It looks, and changes nothing.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use kube::api::{Api, ListParams};
use kube::core::ClusterResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::plan::uninstall::{Left, plan_refusal};
use crate::program::connect;
use crate::reconcile::apply::{ApplyError, send};

/// For an answer, with all attempts: a pod's network may not be there in its first seconds. Less than the Job's deadline.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Between two attempts.
const AGAIN_EVERY: Duration = Duration::from_secs(2);

/// Say whether Lockstep may be uninstalled.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Kubeconfig file; none: the cluster that this runs in.
    #[arg(long, env = "LOCKSTEP_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

impl Check {
    /// Why it may not, for people.
    ///
    /// # Errors
    /// What is left cannot be known. Then nobody may conclude that nothing is.
    pub(crate) async fn run(self) -> Result<Option<String>> {
        let client = connect(self.kubeconfig.as_deref()).await?;
        let left = Left {
            volumes: list(&client).await.context("list volumes")?,
            parts: list(&client).await.context("list parts of volumes")?,
            persistent: list(&client).await.context("list persistent volumes")?,
        };
        Ok(plan_refusal(&left))
    }
}

/// All objects of a kind; none where the kind is not known.
async fn list<K>(client: &Client) -> Result<Vec<K>, ApplyError>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        match send(Api::<K>::all(client.clone()).list(&ListParams::default())).await {
            Ok(found) => return Ok(found.items),
            Err(ApplyError::Missing) => return Ok(Vec::new()),
            Err(error) if is_passing(&error) && Instant::now() < deadline => {
                tracing::info!(%error, "asked_again");
                tokio::time::sleep(AGAIN_EVERY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether another attempt may be answered: nobody was there, or too many asked at once.
const fn is_passing(error: &ApplyError) -> bool {
    error.is_uncertain() || matches!(error, ApplyError::Refused { code: 429, .. })
}
