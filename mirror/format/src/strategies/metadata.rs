//! Metadata and its updates.

use lockstep_core::{BootId, DirtyMap, Meta, MetaUpdate, RegionIndex, VoterId, VoterState};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::{accepted, ballot, block_set, chunk, chunk_number, config, epoch, incarnation, left_mark, node};

fn voter_state() -> impl Strategy<Value = VoterState> {
    (any::<u64>(), ballot(), accepted()).prop_map(|(id, promised, accepted)| VoterState {
        id: VoterId(id),
        promised,
        accepted,
    })
}

fn region() -> impl Strategy<Value = RegionIndex> {
    any::<u64>().prop_map(RegionIndex)
}

/// Any update.
pub fn meta_update() -> impl Strategy<Value = MetaUpdate> {
    prop_oneof![
        (incarnation(), any::<u64>())
            .prop_map(|(incarnation, boot)| MetaUpdate::Started { incarnation, boot: BootId(boot) }),
        config().prop_map(|config| MetaUpdate::Config(Box::new(config))),
        left_mark().prop_map(|(node, incarnation)| MetaUpdate::Left(node, incarnation)),
        left_mark().prop_map(|(node, incarnation)| MetaUpdate::LeftEnded(node, incarnation)),
        voter_state().prop_map(MetaUpdate::Voter),
        vec(region(), 0..20).prop_map(MetaUpdate::IntentSet),
        vec(region(), 0..20).prop_map(MetaUpdate::IntentClear),
        (node(), epoch()).prop_map(|(peer, since)| MetaUpdate::DirtyBegin { peer, since }),
        (node(), chunk_number(), chunk(), chunk()).prop_map(|(peer, chunk, copy, compare)| MetaUpdate::DirtyChunk {
            peer,
            chunk,
            copy,
            compare
        }),
        node().prop_map(MetaUpdate::DirtyEnd),
        "[a-zA-Z0-9 äöü]{0,60}".prop_map(MetaUpdate::Failed),
        Just(MetaUpdate::Emptied),
        Just(MetaUpdate::Removed),
    ]
}

/// Any metadata.
pub fn meta() -> impl Strategy<Value = Meta> {
    let dirty =
        (epoch(), block_set(), block_set()).prop_map(|(since, copy, compare)| DirtyMap { since, copy, compare });
    let head = (node(), any::<bool>(), config(), incarnation(), any::<u64>());
    let tail = (
        btree_set(left_mark(), 0..3),
        option::of(voter_state()),
        btree_set(region(), 0..30),
        btree_map(node(), dirty, 0..3),
        (option::of("[a-z ]{0,40}"), any::<bool>()),
    );
    (head, tail).prop_map(
        |((node, has_data, config, incarnation, boot), (left, voter, intent, dirty, (failed, removed)))| Meta {
            node,
            has_data,
            config,
            incarnation,
            boot: BootId(boot),
            left,
            voter,
            intent,
            dirty,
            failed,
            removed,
        },
    )
}
