//! What all Leases of Lockstep have in common: labels, a version that is a number, and a check that the object is the one
//! that was made.
//!
//! A Lease is made bare and gets its content, with its own uid in it, by a second request. So one that was deleted and made
//! again from a saved copy, or copied to another name, does not pass for the first: it would have forgotten, or never have
//! known, what was decided since.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::ObjectMeta;
use lockstep_core::VolumeId;

use crate::names;
use crate::requests::Kind;

/// A Lease without content.
pub(crate) fn bare(name: &str, kind: Kind, volume: Option<VolumeId>) -> Lease {
    let kind = (names::KIND_LABEL.to_owned(), kind.name().to_owned());
    let volume = volume.map(|volume| (names::VOLUME_LABEL.to_owned(), names::volume_label(volume)));
    let labels: BTreeMap<String, String> = [kind].into_iter().chain(volume).collect();
    Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(LeaseSpec::default()),
    }
}

/// The same Lease with these annotations, and its own uid among them. What others wrote onto it stays.
pub(crate) fn with_content(lease: &Lease, annotations: impl IntoIterator<Item = (&'static str, String)>) -> Lease {
    let mut lease = lease.clone();
    let uid = lease.metadata.uid.clone().unwrap_or_default();
    let all = lease.metadata.annotations.get_or_insert_default();
    all.insert(names::UID_ANNOTATION.to_owned(), uid);
    all.extend(annotations.into_iter().map(|(key, value)| (key.to_owned(), value)));
    // Who changed which field is of no use here, and large.
    lease.metadata.managed_fields = None;
    lease
}

/// An annotation.
pub(crate) fn annotation<'a>(lease: &'a Lease, key: &str) -> Option<&'a str> {
    lease.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The Lease's version as a number, by which a swap names it.
pub(crate) fn version(lease: &Lease) -> Result<u64, String> {
    let text = lease.metadata.resource_version.as_deref().unwrap_or_default();
    text.parse().ok().filter(|version| *version > 0).ok_or_else(|| {
        format!("its resourceVersion {text:?} is not a number: this API server cannot keep what Lockstep decides")
    })
}

/// True if the Lease was made and has no content yet.
pub(crate) fn is_bare(lease: &Lease) -> bool {
    annotation(lease, names::UID_ANNOTATION).is_none()
}

/// Why a Lease is not the one that got its content.
pub(crate) fn check_uid(lease: &Lease) -> Result<(), String> {
    let uid = lease.metadata.uid.as_deref().unwrap_or_default();
    match annotation(lease, names::UID_ANNOTATION) {
        Some(written) if written == uid => Ok(()),
        Some(written) => Err(format!(
            "it was deleted and made again, or copied: it says that its uid is {written}, and that is {uid}"
        )),
        None => Err("it has no content of Lockstep's".to_owned()),
    }
}
