//! Grant Leases: who may write a shard of a volume, and who waits for it; and each node's own Lease.
//!
//! ```text
//! spec.holderIdentity      "node/incarnation", or "" while nobody holds it
//! spec.leaseTransitions    the counter of the grant, as far as 32 bits go
//! annotations              epoch and counter of the grant, wishes, the Lease's own uid
//! ```

use k8s_openapi::api::coordination::v1::Lease;
use lockstep_core::{Class, Epoch, GrantLease, GrantNumber, Incarnation, LeaseTold, LeaseWant, NodeId, VolumeId, Wish};
use serde::{Deserialize, Serialize};

use crate::access::RequestError;
use crate::names;
use crate::object;
use crate::register::{Leases, lock};
use crate::requests::Kind;

/// More wishes than a cluster has nodes are nobody's.
const WISHES_MAX: usize = 1024;

/// A wish as it stands in the annotation. Numbers of 64 bits are text: readers of JSON may not have them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WishText {
    node: u32,
    incarnation: String,
    class: String,
}

impl Leases {
    /// Does what is wanted of a volume's grant Leases, or of a node's own, and says what came of it. Sends one request to change
    /// something, or none.
    pub async fn lease(&self, volume: VolumeId, want: &LeaseWant) -> LeaseTold {
        match want {
            LeaseWant::Read { shard } => self.read_grants(volume, *shard).await,
            LeaseWant::Make { shard } => self.make_grants(volume, *shard).await,
            LeaseWant::Write { shard, version, lease } => self.write_grants((volume, *shard), *version, lease).await,
            LeaseWant::ReadNode { node } => self.read_node(volume, *node).await,
        }
    }

    async fn read_grants(&self, volume: VolumeId, shard: u8) -> LeaseTold {
        let answer = self.access.get(Kind::Grants, &names::grants_name(volume, shard)).await;
        self.note(volume, answer.as_ref().err());
        match answer {
            Ok(lease) => self.see_grants((volume, shard), lease),
            Err(RequestError::Missing(_)) => self.missing((volume, shard)),
            Err(error) => LeaseTold::Failed { reason: error.to_string() },
        }
    }

    async fn make_grants(&self, volume: VolumeId, shard: u8) -> LeaseTold {
        let name = names::grants_name(volume, shard);
        let bare = object::bare(&name, Kind::Grants, Some(volume));
        let answer = self.access.create(Kind::Grants, &name, &bare).await;
        self.note(volume, answer.as_ref().err());
        match answer {
            Ok(lease) => self.see_grants((volume, shard), lease),
            Err(RequestError::Conflict(_)) => LeaseTold::Conflict,
            Err(error) => LeaseTold::Failed { reason: error.to_string() },
        }
    }

    async fn write_grants(&self, at: (VolumeId, u8), version: u64, wanted: &GrantLease) -> LeaseTold {
        let (volume, name) = (at.0, names::grants_name(at.0, at.1));
        let is_version = |lease: &Lease| object::version(lease) == Ok(version);
        let known = lock(&self.found_grants).get(&at).filter(|lease| is_version(lease)).cloned();
        let known = match known {
            Some(known) => Ok(known),
            // Seen by somebody else, who told the version only: the object is needed.
            None => self.access.get(Kind::Grants, &name).await,
        };
        let written = match known {
            Ok(known) if is_version(&known) => self.access.update(Kind::Grants, &name, &filled(&known, wanted)).await,
            Ok(_) => return LeaseTold::Conflict,
            Err(error) => Err(error),
        };
        self.note(volume, written.as_ref().err());
        match written {
            Ok(lease) => self.see_grants(at, lease),
            Err(RequestError::Conflict(_)) => LeaseTold::Conflict,
            Err(RequestError::Missing(_)) => self.missing(at),
            Err(error) => LeaseTold::Failed { reason: error.to_string() },
        }
    }

    async fn read_node(&self, volume: VolumeId, node: NodeId) -> LeaseTold {
        let answer = self.access.get(Kind::Node, &names::node_name(node)).await;
        self.note(volume, answer.as_ref().err());
        let renewed = match answer {
            Ok(lease) => object::version(&lease).map(Some),
            Err(RequestError::Missing(_)) => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        match renewed {
            Ok(renewed) => LeaseTold::Node { node, renewed },
            Err(reason) => LeaseTold::Failed { reason },
        }
    }

    /// A grant Lease was seen: an answer, or by the watch. Keeps the newest, which a write will replace.
    pub(crate) fn see_grants(&self, at: (VolumeId, u8), lease: Lease) -> LeaseTold {
        let version = match object::version(&lease) {
            Ok(version) => version,
            Err(reason) => return LeaseTold::Failed { reason: self.explain(at, &reason) },
        };
        let said = parse(&lease).map_err(|reason| self.explain(at, &reason));
        let mut found = lock(&self.found_grants);
        let newer = |known: &Lease| object::version(known).is_ok_and(|known| known >= version);
        if !found.get(&at).is_some_and(newer) {
            found.insert(at, lease);
        }
        LeaseTold::Found { shard: at.1, version, lease: said }
    }

    /// There is no such grant Lease.
    pub(crate) fn missing(&self, at: (VolumeId, u8)) -> LeaseTold {
        lock(&self.found_grants).remove(&at);
        LeaseTold::Found { shard: at.1, version: 0, lease: Err(self.explain(at, "it does not exist")) }
    }

    fn explain(&self, (volume, shard): (VolumeId, u8), reason: &str) -> String {
        format!("Lease {}: {reason}", self.access.full_name(&names::grants_name(volume, shard)))
    }
}

/// The Lease that says this.
fn filled(lease: &Lease, wanted: &GrantLease) -> Lease {
    let wishes: Vec<WishText> = wanted
        .wishes
        .iter()
        .map(|wish| WishText {
            node: wish.node.0,
            incarnation: wish.incarnation.to_string(),
            class: class_name(wish.class).to_owned(),
        })
        .collect();
    let wishes = serde_json::to_string(&wishes).expect("numbers and text are JSON");
    let mut lease = object::with_content(
        lease,
        [
            (names::EPOCH_ANNOTATION, wanted.number.epoch.to_string()),
            (names::COUNTER_ANNOTATION, wanted.number.counter.to_string()),
            (names::WISHES_ANNOTATION, wishes),
        ],
    );
    let spec = lease.spec.get_or_insert_default();
    let holder = wanted.holder.map(|(node, incarnation)| format!("{node}/{incarnation}"));
    spec.holder_identity = Some(holder.unwrap_or_default());
    spec.lease_transitions = Some(transitions(wanted.number.counter));
    lease
}

fn transitions(counter: u64) -> i32 {
    i32::try_from(counter).unwrap_or(i32::MAX)
}

/// What a Lease says, or why it says nothing.
fn parse(lease: &Lease) -> Result<GrantLease, String> {
    if object::is_bare(lease) {
        return Err("it is not opened yet".to_owned());
    }
    object::check_uid(lease)?;
    let spec = lease.spec.as_ref().ok_or("it has no spec: it was edited")?;
    let number = GrantNumber { epoch: Epoch(number(lease, names::EPOCH_ANNOTATION)?), counter: counter(lease)? };
    if spec.lease_transitions != Some(transitions(number.counter)) {
        return Err(format!("its leaseTransitions is not its {}: it was edited", names::COUNTER_ANNOTATION));
    }
    let text = spec.holder_identity.as_deref().unwrap_or_default();
    let holder = match text {
        "" => None,
        text => Some(parse_holder(text).ok_or_else(|| format!("its holderIdentity {text:?} is no node's run"))?),
    };
    let wishes = object::annotation(lease, names::WISHES_ANNOTATION).unwrap_or_default();
    let wishes: Vec<WishText> = serde_json::from_str(wishes)
        .map_err(|error| format!("its annotation {}: {error}", names::WISHES_ANNOTATION))?;
    if wishes.len() > WISHES_MAX {
        return Err(format!("its annotation {}: {} wishes", names::WISHES_ANNOTATION, wishes.len()));
    }
    let wish = |text: &WishText| {
        let incarnation = Incarnation(text.incarnation.parse().ok()?);
        Some(Wish { node: NodeId(text.node), incarnation, class: parse_class(&text.class)? })
    };
    let wishes: Option<Vec<Wish>> = wishes.iter().map(wish).collect();
    let wishes = wishes.ok_or_else(|| format!("its annotation {}: a wish is nobody's", names::WISHES_ANNOTATION))?;
    Ok(GrantLease { number, holder, wishes })
}

fn number(lease: &Lease, key: &str) -> Result<u64, String> {
    let text = object::annotation(lease, key).unwrap_or_default();
    text.parse().map_err(|_| format!("its annotation {key} is {text:?}, which is not a number"))
}

fn counter(lease: &Lease) -> Result<u64, String> {
    number(lease, names::COUNTER_ANNOTATION)
}

fn parse_holder(text: &str) -> Option<(NodeId, Incarnation)> {
    let (node, incarnation) = text.split_once('/')?;
    Some((NodeId(node.parse().ok()?), Incarnation(incarnation.parse().ok()?)))
}

const CLASSES: [(Class, &str); 5] = [
    (Class::Recovery, "recovery"),
    (Class::High, "high"),
    (Class::Normal, "normal"),
    (Class::Low, "low"),
    (Class::Resync, "resync"),
];

fn class_name(class: Class) -> &'static str {
    CLASSES.into_iter().find(|(each, _)| *each == class).map_or("normal", |(_, name)| name)
}

fn parse_class(name: &str) -> Option<Class> {
    CLASSES.into_iter().find(|(_, each)| *each == name).map(|(class, _)| class)
}

#[cfg(test)]
mod tests {
    use super::{CLASSES, filled, parse};
    use crate::object;
    use crate::requests::Kind;
    use k8s_openapi::api::coordination::v1::Lease;
    use lockstep_core::{Epoch, GrantLease, GrantNumber, Incarnation, NodeId, Wish};

    fn bare() -> Lease {
        let mut lease = object::bare("x", Kind::Grants, None);
        lease.metadata.uid = Some("u".to_owned());
        lease
    }

    #[test]
    fn what_is_written_is_read() {
        let wishes = CLASSES.iter().map(|(class, _)| Wish {
            node: NodeId(u32::MAX),
            incarnation: Incarnation(u64::MAX),
            class: *class,
        });
        let number = GrantNumber { epoch: Epoch(u64::MAX), counter: u64::MAX - 1 };
        let full = GrantLease { number, holder: Some((NodeId(1), Incarnation(u64::MAX))), wishes: wishes.collect() };
        for said in [GrantLease::default(), full] {
            assert_eq!(parse(&filled(&bare(), &said)), Ok(said));
        }
        assert!(parse(&bare()).is_err_and(|reason| reason.contains("not opened yet")));
    }

    #[test]
    fn what_was_edited_says_nothing() {
        let good = filled(&bare(), &GrantLease { holder: Some((NodeId(1), Incarnation(5))), ..Default::default() });
        let edited = |edit: &dyn Fn(&mut Lease)| {
            let mut lease = good.clone();
            edit(&mut lease);
            parse(&lease).expect_err("it was edited")
        };
        let annotate = |key: &'static str, value: &'static str| {
            edited(&|lease| {
                lease.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            })
        };
        for (key, value) in [
            ("lockstep.storage/uid", "other"),
            ("lockstep.storage/epoch", "-1"),
            ("lockstep.storage/counter", "1"),
            ("lockstep.storage/wishes", "[{}]"),
            ("lockstep.storage/wishes", r#"[{"node":1,"incarnation":"x","class":"low"}]"#),
            ("lockstep.storage/wishes", r#"[{"node":1,"incarnation":"1","class":"lowest"}]"#),
        ] {
            annotate(key, value);
        }
        for holder in ["1", "a/1", "1/2/3", "1/"] {
            let set = |lease: &mut Lease| lease.spec.get_or_insert_default().holder_identity = Some(holder.to_owned());
            assert!(edited(&set).contains(holder), "{holder}");
        }
        edited(&|lease| lease.spec = None);
    }
}
