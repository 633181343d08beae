//! Writing objects: server-side apply under one name, each request with a bound.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Error, Resource, ResourceExt};
use lockstep_api::names::MANAGER_CONTROLLER;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// For one request.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It was changed since it was read, is another, or exists already.
    #[error("it was changed by somebody else")]
    Conflict,
    /// There is no such object.
    #[error("it does not exist")]
    Missing,
    /// The server refused.
    #[error("the API server refused: {message}")]
    Refused {
        /// HTTP's number.
        code: u16,
        /// What it said.
        message: String,
    },
    /// No answer: it may have been written, or may still be.
    #[error("the API server did not answer: {message}")]
    NoAnswer {
        /// What happened instead.
        message: String,
    },
}

impl ApplyError {
    /// Whether nobody knows if it was written.
    #[must_use]
    pub const fn is_uncertain(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }
}

/// Sends one request, with the bound.
///
/// # Errors
/// See [`ApplyError`].
pub async fn send<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApplyError> {
    match tokio::time::timeout(REQUEST_WITHIN, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Error::Api(status))) => Err(match status.code {
            404 => ApplyError::Missing,
            409 => ApplyError::Conflict,
            // What the server did before it answered so is not known.
            500.. => ApplyError::NoAnswer { message: format!("{}: {}", status.code, status.message) },
            code => ApplyError::Refused { code, message: status.message.clone() },
        }),
        Ok(Err(error)) => Err(ApplyError::NoAnswer { message: super::chain(&error) }),
        Err(_) => Err(ApplyError::NoAnswer { message: format!("nothing within {REQUEST_WITHIN:?}") }),
    }
}

/// Type and name of a custom resource, as every applied object has to have them.
fn head<K: Resource<DynamicType = ()>>(name: &str) -> Value {
    json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": name } })
}

/// Applies these fields of an object of the whole cluster, making it if it is not there. `fields` has `spec`, and may have `metadata`.
///
/// # Errors
/// See [`ApplyError`].
pub async fn apply<K>(client: &Client, name: &str, fields: &Value) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut object = head::<K>(name);
    merge(&mut object, fields);
    let parameters = PatchParams::apply(MANAGER_CONTROLLER).force();
    send(Api::<K>::all(client.clone()).patch(name, &parameters, &Patch::Apply(&object))).await
}

/// Applies the whole status of `object`, over the version that was read: conflicts where it was changed since.
///
/// # Errors
/// See [`ApplyError`].
pub async fn apply_status<K>(client: &Client, object: &K, status: &impl Serialize) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = object.name_any();
    let mut new = head::<K>(&name);
    let mut status = json!(status);
    drop_nulls(&mut status);
    merge(&mut new, &json!({ "metadata": { "resourceVersion": object.resource_version() }, "status": status }));
    let parameters = PatchParams::apply(MANAGER_CONTROLLER).force();
    send(Api::<K>::all(client.clone()).patch_status(&name, &parameters, &Patch::Apply(&new))).await
}

/// Merges these fields into an object, over the version that was read.
///
/// # Errors
/// See [`ApplyError`].
pub async fn merge_over<K>(client: &Client, object: &K, fields: &Value) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut patch = json!({ "metadata": { "resourceVersion": object.resource_version() } });
    merge(&mut patch, fields);
    let parameters = PatchParams { field_manager: Some(MANAGER_CONTROLLER.to_owned()), ..PatchParams::default() };
    send(Api::<K>::all(client.clone()).patch(&object.name_any(), &parameters, &Patch::Merge(&patch))).await
}

/// Puts a finalizer onto an object, or takes it away; what others hold stays.
///
/// # Errors
/// See [`ApplyError`]. One that does not exist any more needs no finalizer taken away.
pub async fn set_finalizer<K>(client: &Client, object: &K, finalizer: &str, held: bool) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|it| it == finalizer) == held {
        return Ok(());
    }
    finalizers.retain(|it| it != finalizer);
    if held {
        finalizers.push(finalizer.to_owned());
    }
    match merge_over(client, object, &json!({ "metadata": { "finalizers": finalizers } })).await {
        Err(ApplyError::Missing) if !held => Ok(()),
        result => result.map(drop),
    }
}

/// Asks for the deletion of this very object. One that does not exist is deleted.
///
/// # Errors
/// See [`ApplyError`].
pub async fn delete<K>(client: &Client, object: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    delete_of(&Api::all(client.clone()), object).await
}

/// The same, of an object that `api` reaches: one of a namespace.
///
/// # Errors
/// See [`ApplyError`].
pub async fn delete_of<K>(api: &Api<K>, object: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let preconditions = Some(Preconditions { uid: object.uid(), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    match send(api.delete(&object.name_any(), &parameters)).await {
        Ok(_) | Err(ApplyError::Missing) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Nothing is said by leaving it out: what is applied without a field takes it away, and null is none of the values of a choice.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Objects into objects; everything else in place of what was there.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
