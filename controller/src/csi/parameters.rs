//! Parameters of StorageClasses and VolumeAttributesClasses: parsed once; what is wrong is named with what it can be.

use std::collections::BTreeMap;

use lockstep_api::{Access, Ack, Arbiter, FrontEnd, Fuse, MirrorVolumeSpec, OnQuorumLoss, Policing, WritePriority};
use lockstep_csi::capability::{self, Capability};
use lockstep_csi::controller_port::Parameters;

/// A parameter that no volume can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// There is no such parameter.
    #[error("unknown parameter {name:?}: the parameters are {}", known.join(", "))]
    Unknown {
        /// As it was given.
        name: String,
        /// What there is.
        known: &'static [&'static str],
    },
    /// It cannot have this value.
    #[error("parameter {name} is {value:?}: it can be {choices}")]
    Value {
        /// Which.
        name: &'static str,
        /// As it was given.
        value: String,
        /// What it can be.
        choices: &'static str,
    },
    /// It is planned, and not in this release.
    #[error("parameter {name} is {value:?}, which is not built in this release: it can be {choices}")]
    NotBuilt {
        /// Which.
        name: &'static str,
        /// As it was given.
        value: String,
        /// What it can be.
        choices: &'static str,
    },
    /// Two do not go together.
    #[error("{reason}")]
    Together {
        /// Which, and why.
        reason: &'static str,
    },
}

/// Parameters of a StorageClass.
pub const CLASS: [&str; 9] =
    ["replicas", "arbiter", "policing", "ack", "onQuorumLoss", "poolSelector", "remoteAccess", "frontEnd", "fuse"];

/// Parameters of a VolumeAttributesClass.
pub const ATTRIBUTES: [&str; 4] = ["replicas", "ack", "resyncRate", "writePriority"];

/// What a VolumeAttributesClass changes; what it does not name stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// 2 or 3.
    pub replicas: Option<u8>,
    /// When a peer acknowledges.
    pub ack: Option<Ack>,
    /// Bytes a second; 0: no limit.
    pub resync_rate: Option<i64>,
    /// Who goes first.
    pub write_priority: Option<WritePriority>,
}

impl Attributes {
    /// Parses them, all or none.
    ///
    /// # Errors
    /// The first that is unknown or has a value that it cannot have.
    pub fn parse(parameters: &Parameters) -> Result<Self, ParameterError> {
        let mut attributes = Self::default();
        for (name, value) in parameters {
            match name.as_str() {
                "replicas" => attributes.replicas = Some(parse_replicas(value)?),
                "ack" => attributes.ack = Some(choose("ack", value, &ACK, ACK_CHOICES)?),
                "resyncRate" => attributes.resync_rate = Some(parse_rate(value)?),
                "writePriority" => {
                    attributes.write_priority = Some(choose("writePriority", value, &PRIORITY, PRIORITY_CHOICES)?);
                }
                _ => return Err(ParameterError::Unknown { name: name.clone(), known: &ATTRIBUTES }),
            }
        }
        Ok(attributes)
    }

    /// Puts them in the place of what a volume has.
    pub fn put(&self, spec: &mut MirrorVolumeSpec) {
        spec.replicas = self.replicas.unwrap_or(spec.replicas);
        spec.ack = self.ack.unwrap_or(spec.ack);
        spec.resync_rate = self.resync_rate.unwrap_or(spec.resync_rate);
        spec.write_priority = self.write_priority.unwrap_or(spec.write_priority);
    }
}

const ACK: [(&str, Ack); 2] = [("disk", Ack::Disk), ("durable", Ack::Durable)];
const ACK_CHOICES: &str = "disk or durable";
const PRIORITY: [(&str, WritePriority); 3] =
    [("low", WritePriority::Low), ("normal", WritePriority::Normal), ("high", WritePriority::High)];
const PRIORITY_CHOICES: &str = "low, normal or high";

/// What a StorageClass says of a volume, as a specification without size and places.
///
/// # Errors
/// The first parameter that is unknown or has a value that it cannot have.
pub fn parse_class(parameters: &Parameters) -> Result<MirrorVolumeSpec, ParameterError> {
    let mut spec = MirrorVolumeSpec {
        size_bytes: 0,
        replicas: 2,
        access: Access::default(),
        arbiter: None,
        policing: Policing::default(),
        ack: Ack::default(),
        on_quorum_loss: OnQuorumLoss::default(),
        remote_access: true,
        front_end: FrontEnd::default(),
        fuse: Fuse::default(),
        pool_selector: BTreeMap::new(),
        resync_rate: 0,
        write_priority: WritePriority::default(),
        preferred_nodes: Vec::new(),
        allowed_nodes: Vec::new(),
        claim: None,
        requested_name: None,
    };
    for (name, value) in parameters {
        parse_one(&mut spec, name, value)?;
    }
    if spec.policing == Policing::Lease {
        if spec.arbiter == Some(Arbiter::Peers) {
            let reason =
                "parameter policing is \"lease\", which needs arbiter \"lease\" or \"auto\"; arbiter is \"peers\"";
            return Err(ParameterError::Together { reason });
        }
        spec.arbiter = Some(Arbiter::Lease);
    }
    Ok(spec)
}

fn parse_one(spec: &mut MirrorVolumeSpec, name: &str, value: &str) -> Result<(), ParameterError> {
    match name {
        "replicas" => spec.replicas = parse_replicas(value)?,
        "arbiter" => {
            let arbiters = [("auto", None), ("lease", Some(Arbiter::Lease)), ("peers", Some(Arbiter::Peers))];
            spec.arbiter = choose("arbiter", value, &arbiters, "auto, lease or peers")?;
        }
        "policing" => {
            spec.policing =
                choose("policing", value, &[("peer", Policing::Peer), ("lease", Policing::Lease)], "peer or lease")?;
        }
        "ack" => spec.ack = choose("ack", value, &ACK, ACK_CHOICES)?,
        "onQuorumLoss" => {
            let choices = [("suspend", OnQuorumLoss::Suspend), ("error", OnQuorumLoss::Error)];
            spec.on_quorum_loss = choose("onQuorumLoss", value, &choices, "suspend or error")?;
        }
        "poolSelector" => spec.pool_selector = parse_selector(value)?,
        "remoteAccess" => {
            spec.remote_access = choose("remoteAccess", value, &[("true", true), ("false", false)], "true or false")?;
        }
        "frontEnd" => spec.front_end = parse_front_end(value)?,
        "fuse" => {
            let choices = [("recoverable", Fuse::Recoverable), ("io_uring", Fuse::IoUring)];
            spec.fuse = choose("fuse", value, &choices, "recoverable or io_uring")?;
        }
        _ => return Err(ParameterError::Unknown { name: name.to_owned(), known: &CLASS }),
    }
    Ok(())
}

fn choose<T: Copy>(
    name: &'static str,
    value: &str,
    from: &[(&str, T)],
    choices: &'static str,
) -> Result<T, ParameterError> {
    let found = from.iter().find(|(text, _)| *text == value).map(|(_, choice)| *choice);
    found.ok_or_else(|| ParameterError::Value { name, value: value.to_owned(), choices })
}

fn parse_replicas(value: &str) -> Result<u8, ParameterError> {
    choose("replicas", value, &[("2", 2), ("3", 3)], "2 or 3")
}

fn parse_front_end(value: &str) -> Result<FrontEnd, ParameterError> {
    let (name, choices) = ("frontEnd", "auto or loop");
    match value {
        "ublk" | "nbd" => Err(ParameterError::NotBuilt { name, value: value.to_owned(), choices }),
        _ => choose(name, value, &[("auto", FrontEnd::Auto), ("loop", FrontEnd::Loop)], choices),
    }
}

fn parse_rate(value: &str) -> Result<i64, ParameterError> {
    let rate = value.parse::<bytesize::ByteSize>().ok().and_then(|size| i64::try_from(size.as_u64()).ok());
    rate.ok_or_else(|| ParameterError::Value {
        name: "resyncRate",
        value: value.to_owned(),
        choices: "bytes a second, like 100MiB; 0 is no limit",
    })
}

/// Longest key or value of a label.
const LABEL_BYTES_MAX: usize = 317;

fn parse_selector(value: &str) -> Result<BTreeMap<String, String>, ParameterError> {
    let wrong = || ParameterError::Value {
        name: "poolSelector",
        value: value.to_owned(),
        choices: "labels that pools must have, like disk=nvme,rack=2",
    };
    let fits = |text: &str| {
        text.len() <= LABEL_BYTES_MAX
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
    };
    let pairs = value.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || !fits(key) || !fits(value) {
            return Err(wrong());
        }
        Ok((key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// Who may write, of all the ways in which a volume will be used.
#[must_use]
pub fn access(capabilities: &[Capability]) -> Access {
    let many = capabilities.iter().any(|capability| {
        matches!(capability.access(), capability::Access::Block) && capability.mode().is_multi_node()
    });
    if many { Access::MultiWriter } else { Access::SingleWriter }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn everything_can_be_said() {
        let spec = parse_class(&parameters(&[
            ("replicas", "3"),
            ("arbiter", "peers"),
            ("policing", "peer"),
            ("ack", "durable"),
            ("onQuorumLoss", "error"),
            ("poolSelector", "disk=nvme, rack=2"),
            ("remoteAccess", "false"),
            ("frontEnd", "loop"),
            ("fuse", "io_uring"),
        ]))
        .expect("all are known");
        assert_eq!((spec.replicas, spec.arbiter, spec.ack), (3, Some(Arbiter::Peers), Ack::Durable));
        assert_eq!((spec.on_quorum_loss, spec.remote_access), (OnQuorumLoss::Error, false));
        assert_eq!((spec.front_end, spec.fuse), (FrontEnd::Loop, Fuse::IoUring));
        assert_eq!(spec.pool_selector["rack"], "2");
        let policed = parse_class(&parameters(&[("policing", "lease"), ("arbiter", "auto")])).expect("goes together");
        assert_eq!(policed.arbiter, Some(Arbiter::Lease));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_it_can_be() {
        let of_class: &[(&[(&str, &str)], &str)] = &[
            (&[("replicas", "4")], r#"parameter replicas is "4": it can be 2 or 3"#),
            (&[("replicas", "")], r#"parameter replicas is "": it can be 2 or 3"#),
            (&[("arbiter", "etcd")], r#"parameter arbiter is "etcd": it can be auto, lease or peers"#),
            (&[("policing", "Lease")], r#"parameter policing is "Lease": it can be peer or lease"#),
            (&[("ack", "memory")], r#"parameter ack is "memory": it can be disk or durable"#),
            (&[("remoteAccess", "yes")], r#"parameter remoteAccess is "yes": it can be true or false"#),
            (
                &[("frontEnd", "ublk")],
                r#"parameter frontEnd is "ublk", which is not built in this release: it can be auto or loop"#,
            ),
            (&[("frontEnd", "scsi")], r#"parameter frontEnd is "scsi": it can be auto or loop"#),
            (&[("fuse", "fast")], r#"parameter fuse is "fast": it can be recoverable or io_uring"#),
            (&[("onQuorumLoss", "panic")], r#"parameter onQuorumLoss is "panic": it can be suspend or error"#),
            (
                &[("poolSelector", "nvme")],
                r#"parameter poolSelector is "nvme": it can be labels that pools must have, like disk=nvme,rack=2"#,
            ),
            (
                &[("replica", "2")],
                "unknown parameter \"replica\": the parameters are replicas, arbiter, policing, ack, onQuorumLoss, poolSelector, \
                 remoteAccess, frontEnd, fuse",
            ),
            (
                &[("policing", "lease"), ("arbiter", "peers")],
                r#"parameter policing is "lease", which needs arbiter "lease" or "auto"; arbiter is "peers""#,
            ),
        ];
        for (given, says) in of_class {
            assert_eq!(parse_class(&parameters(given)).expect_err(says).to_string(), *says);
        }
        for (given, says) in [
            (
                ("arbiter", "lease"),
                r#"unknown parameter "arbiter": the parameters are replicas, ack, resyncRate, writePriority"#,
            ),
            (("writePriority", "urgent"), r#"parameter writePriority is "urgent": it can be low, normal or high"#),
            (
                ("resyncRate", "-1"),
                r#"parameter resyncRate is "-1": it can be bytes a second, like 100MiB; 0 is no limit"#,
            ),
        ] {
            assert_eq!(Attributes::parse(&parameters(&[given])).expect_err(says).to_string(), says);
        }
        let rate = Attributes::parse(&parameters(&[("resyncRate", "100MiB")])).expect("a rate");
        assert_eq!(rate.resync_rate, Some(100 << 20));
    }
}
