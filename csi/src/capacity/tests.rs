use super::{
    BLOCK_BYTES, CapacityRange, DEFAULT_BYTES, Growth, LARGEST_BYTES, RangeError, SMALLEST_BYTES, SMALLEST_XFS_BYTES,
    SizeError, new_size,
};
use crate::capability::{Access, AccessMode, Capability, Filesystem, Mount, MountFlags};

const GIB: i64 = 1 << 30;

fn range(required: i64, limit: i64) -> CapacityRange {
    CapacityRange::parse(required, limit).expect("a range").expect("that says something")
}

fn size(required: i64, limit: i64) -> Result<u64, SizeError> {
    new_size(Some(range(required, limit)), &[])
}

fn xfs() -> Capability {
    let mount = Mount { filesystem: Filesystem::Xfs, flags: MountFlags::default() };
    Capability::new(Access::Mount(mount), AccessMode::SingleNodeWriter).expect("one node")
}

#[test]
fn two_numbers_are_parsed_into_a_range() {
    assert_eq!(CapacityRange::parse(0, 0), Ok(None));
    assert_eq!(CapacityRange::parse(-1, 0), Err(RangeError::Negative { bytes: -1 }));
    assert_eq!(CapacityRange::parse(1, -7), Err(RangeError::Negative { bytes: -7 }));
    assert_eq!(CapacityRange::parse(2, 1), Err(RangeError::Empty { required: 2, limit: 1 }));
    assert_eq!(range(5, 0).limit(), None);
    assert_eq!((range(0, 9).required(), range(0, 9).limit()), (0, Some(9)));
}

#[test]
fn sizes_are_rounded_up_to_blocks() {
    assert_eq!(size(GIB, 0), Ok(1 << 30));
    assert_eq!(size(GIB + 1, 0), Ok((1 << 30) + BLOCK_BYTES));
    assert_eq!(size(GIB + 1, GIB + 4096), Ok((1 << 30) + BLOCK_BYTES));
    assert_eq!(
        size(GIB + 1, GIB + 4095),
        Err(SizeError::AboveLimit { size: (1 << 30) + BLOCK_BYTES, limit: (1 << 30) + 4095 })
    );
}

#[test]
fn who_says_no_size_gets_the_default() {
    assert_eq!(new_size(None, &[]), Ok(DEFAULT_BYTES));
    assert_eq!(size(0, 2 * GIB), Ok(DEFAULT_BYTES));
    assert_eq!(size(0, GIB / 2), Ok(SMALLEST_BYTES), "the default does not fit: the smallest does");
}

#[test]
fn no_volume_is_smaller_than_the_smallest_or_larger_than_the_largest() {
    assert_eq!(size(1, 0), Ok(SMALLEST_BYTES));
    assert_eq!(size(1, 4096), Err(SizeError::AboveLimit { size: SMALLEST_BYTES, limit: 4096 }));
    assert_eq!(new_size(Some(range(1, 0)), &[xfs()]), Ok(SMALLEST_XFS_BYTES));
    assert!(new_size(Some(range(1, 100 << 20)), &[xfs()]).is_err());
    assert_eq!(size(1 << 50, 0), Ok(LARGEST_BYTES));
    assert_eq!(size((1 << 50) + 1, 0), Err(SizeError::TooLarge { required: LARGEST_BYTES + 1 }));
    assert_eq!(size(i64::MAX, i64::MAX), Err(SizeError::TooLarge { required: 0x7fff_ffff_ffff_ffff }));
}

#[test]
fn an_existing_volume_is_what_was_asked_for_when_its_size_is_within_the_range() {
    assert!(range(GIB, 0).accepts(2 << 30) && range(GIB, 2 * GIB).accepts(2 << 30) && range(0, GIB).accepts(1));
    assert!(!range(GIB, 0).accepts((1 << 30) - 1) && !range(GIB, 2 * GIB).accepts((2 << 30) + 1));
}

#[test]
fn a_volume_grows_to_what_is_required_and_never_shrinks() {
    assert_eq!(range(GIB, 0).growth(1 << 30), Ok(Growth::Enough));
    assert_eq!(range(GIB, 0).growth(2 << 30), Ok(Growth::Enough));
    assert_eq!(range(0, GIB).growth(1 << 20), Ok(Growth::Enough));
    assert_eq!(range(2 * GIB + 1, 0).growth(1 << 30), Ok(Growth::To((2 << 30) + BLOCK_BYTES)));
    assert_eq!(
        range(GIB, GIB).growth(2 << 30),
        Err(SizeError::AboveLimit { size: 2 << 30, limit: 1 << 30 }),
        "larger than the limit already"
    );
    assert!(range(GIB + 1, GIB + 2).growth(1 << 30).is_err(), "no multiple of a block is within");
    assert!(range(i64::MAX, 0).growth(1 << 30).is_err());
}
