//! How large volumes are, and how they grow.

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::access_mode::Mode;
use tonic::Code;

use crate::Target;
use crate::expect::{done, refused};
use crate::request::{self, SIZE_BYTES, block, ext4, range};

/// The unit of sizes, in bytes.
const BLOCK_BYTES: i64 = 4096;

/// What is required is rounded up and never down, within the limit; without a range there is a default.
pub async fn t05_sizes_are_within_what_is_asked(target: &Target) -> Result<()> {
    let of = |capacity_range| proto::CreateVolumeRequest {
        capacity_range,
        ..request::create(target, &target.unique("t05"), ext4())
    };
    let possible = [
        (None, None),
        (range(0, 0), None),
        (range(SIZE_BYTES, 0), Some(SIZE_BYTES)),
        (range(SIZE_BYTES, SIZE_BYTES), Some(SIZE_BYTES)),
        (range(SIZE_BYTES + 1, 0), Some(SIZE_BYTES + BLOCK_BYTES)),
        (range(SIZE_BYTES + 1, SIZE_BYTES + BLOCK_BYTES), Some(SIZE_BYTES + BLOCK_BYTES)),
    ];
    for (asked, expected) in possible {
        let made = target.make_by(of(asked)).await?;
        ensure!(
            made.capacity_bytes % BLOCK_BYTES == 0,
            "{asked:?}: {} bytes are not whole blocks",
            made.capacity_bytes
        );
        ensure!(expected.is_none_or(|size| size == made.capacity_bytes), "{asked:?}: {} bytes", made.capacity_bytes);
        target.delete(&made).await?;
    }
    let impossible = [
        range(SIZE_BYTES + 1, SIZE_BYTES + BLOCK_BYTES - 1),
        range(1, BLOCK_BYTES),
        range(i64::MAX, 0),
        range(i64::MAX - 1, i64::MAX),
    ];
    for asked in impossible {
        let answer = target.controller().create_volume(of(asked)).await;
        refused(&format!("{asked:?}"), Code::OutOfRange, answer)?;
    }
    for asked in [range(-1, 0), range(0, -1), range(2 * SIZE_BYTES, SIZE_BYTES)] {
        let answer = target.controller().create_volume(of(asked)).await;
        refused(&format!("{asked:?}"), Code::InvalidArgument, answer)?;
    }
    Ok(())
}

/// The largest volume that is said to be possible is not larger than the room, nor smaller than the smallest.
pub async fn t05_what_is_possible_is_said(target: &Target) -> Result<()> {
    // As the provisioner sends them: with what is meant for itself.
    let mut parameters = target.parameters.clone();
    parameters.insert("csi.storage.k8s.io/fstype".to_owned(), "xfs".to_owned());
    let query = proto::GetCapacityRequest { parameters, ..Default::default() };
    let found = done("capacity", target.controller().get_capacity(query).await)?;
    let largest = found.maximum_volume_size.context("the largest volume is said")?;
    let smallest = found.minimum_volume_size.context("the smallest volume is said")?;
    ensure!(0 < smallest && smallest <= largest, "{smallest} to {largest} bytes");
    ensure!(largest <= found.available_capacity && largest < target.no_room_bytes, "{largest} bytes in {found:?}");
    let query = proto::GetCapacityRequest {
        parameters: [("nobodysKey".to_owned(), "any".to_owned())].into(),
        ..Default::default()
    };
    refused("capacity", Code::InvalidArgument, target.controller().get_capacity(query).await)?;
    Ok(())
}

/// A volume that is large enough stays as it is; a file system has to grow on the node afterwards, a block device not.
pub async fn t21_volumes_grow_and_never_shrink(target: &Target) -> Result<()> {
    for (capability, on_node) in [(ext4(), true), (block(Mode::SingleNodeWriter), false)] {
        let made = target.make("t21", &capability).await?;
        let size = made.capacity_bytes;
        for (asked, expected) in [
            (range(size, 0), size),
            (range(size / 2, 0), size),
            (range(size + 1, 0), size + BLOCK_BYTES),
            (range(size + BLOCK_BYTES, 0), size + BLOCK_BYTES),
            (range(2 * size, 2 * size), 2 * size),
            (range(2 * size, 0), 2 * size),
        ] {
            let answer = target.controller().controller_expand_volume(request::expand(&made, asked)).await;
            let grown = done("expand", answer)?;
            ensure!(grown.capacity_bytes == expected, "{asked:?}: {} bytes", grown.capacity_bytes);
            ensure!(grown.node_expansion_required == on_node, "{asked:?}: {}", grown.node_expansion_required);
        }
        for (asked, code) in [
            (range(0, size), Code::OutOfRange),
            (range(2 * size + 1, 2 * size + 2), Code::OutOfRange),
            (range(i64::MAX, 0), Code::OutOfRange),
            (range(target.no_room_bytes, 0), Code::ResourceExhausted),
            (None, Code::InvalidArgument),
        ] {
            let answer = target.controller().controller_expand_volume(request::expand(&made, asked)).await;
            refused(&format!("{asked:?}"), code, answer)?;
        }
        let unknown = crate::steps::Made { id: target.unique("t21"), ..made.clone() };
        let answer = target.controller().controller_expand_volume(request::expand(&unknown, range(size, 0))).await;
        refused("an unknown volume", Code::NotFound, answer)?;
        target.delete(&made).await?;
    }
    Ok(())
}

/// At the staging path and at the target path, again and again; never smaller, and only where the volume is.
pub async fn t22_a_staged_file_system_grows(target: &Target) -> Result<()> {
    for capability in [ext4(), block(Mode::SingleNodeWriter)] {
        let made = target.make("t22", &capability).await?;
        let size = 2 * made.capacity_bytes;
        target.stage(&made).await?;
        target.publish(&made, "pod").await?;
        let (staging, published) = (made.staging_path(target), made.target_path(target, "pod"));
        let answer = target.controller().controller_expand_volume(request::expand(&made, range(size, 0))).await;
        done("expand", answer)?;
        for path in [&staging, &published, &staging] {
            let answer = target.node().node_expand_volume(request::node_expand(&made, path, size)).await;
            let grown = done(&request::text(path), answer)?;
            ensure!(grown.capacity_bytes == size, "{} bytes instead of {size}", grown.capacity_bytes);
        }
        let shrunk = proto::NodeExpandVolumeRequest {
            capacity_range: range(0, made.capacity_bytes),
            ..request::node_expand(&made, &published, size)
        };
        refused("smaller", Code::OutOfRange, target.node().node_expand_volume(shrunk).await)?;
        let elsewhere = target.path("nothing-is-here");
        let answer = target.node().node_expand_volume(request::node_expand(&made, &elsewhere, size)).await;
        refused("elsewhere", Code::NotFound, answer)?;
        let unknown = crate::steps::Made { id: target.unique("t22"), ..made.clone() };
        let answer = target.node().node_expand_volume(request::node_expand(&unknown, &published, size)).await;
        refused("an unknown volume", Code::NotFound, answer)?;
        target.unpublish(&made, "pod").await?;
        target.finish(&made).await?;
    }
    Ok(())
}
