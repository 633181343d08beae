use super::{
    BlockHistory, Call, End, Moment, Operation, Value, Violation, check_block, check_by_search, check_by_zones,
};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

const INITIAL: Value = Value(0);

fn completed(call: Call, invoked: u64, end: u64) -> Operation {
    Operation { call, invoked: Moment(invoked), end: End::Completed(Moment(end)), origin: 0 }
}

fn write(value: u64, invoked: u64, end: u64) -> Operation {
    completed(Call::Write(Value(value)), invoked, end)
}

fn read(value: u64, invoked: u64, end: u64) -> Operation {
    completed(Call::Read(Value(value)), invoked, end)
}

fn unknown_write(value: u64, invoked: u64, bound: u64) -> Operation {
    Operation { call: Call::Write(Value(value)), invoked: Moment(invoked), end: End::Unknown(Moment(bound)), origin: 0 }
}

/// Both checkers must agree before either answer counts.
fn check(operations: &[Operation]) -> Result<(), Violation> {
    let history = BlockHistory { initial: INITIAL, operations: operations.to_vec() };
    let fast = check_by_zones(&history);
    assert_eq!(fast.is_ok(), check_by_search(&history).is_ok(), "{operations:?}");
    fast
}

#[test]
fn nothing_happened_is_valid() {
    assert_eq!(check(&[]), Ok(()));
}

#[test]
fn read_of_what_was_there_and_of_what_was_written_is_valid() {
    assert_eq!(check(&[read(0, 1, 2), write(7, 3, 4), read(7, 5, 6)]), Ok(()));
}

#[test]
fn reads_beside_a_write_may_see_either_side_of_it() {
    assert_eq!(check(&[write(7, 1, 10), read(0, 2, 3), read(7, 4, 5), read(7, 6, 7)]), Ok(()));
}

#[test]
fn read_of_the_old_after_a_read_of_the_new_is_refused() {
    let found = check(&[write(7, 1, 10), read(7, 2, 3), read(0, 4, 5)]);
    assert!(matches!(found, Err(Violation::EachBeforeOther(_))), "{found:?}");
}

#[test]
fn lost_acknowledged_write_is_refused() {
    assert!(check(&[write(7, 1, 2), read(0, 3, 4)]).is_err());
    assert!(check(&[write(7, 1, 2), write(8, 3, 4), read(7, 5, 6)]).is_err());
}

#[test]
fn read_of_what_nobody_wrote_is_refused() {
    assert!(matches!(check(&[write(7, 1, 2), read(9, 3, 4)]), Err(Violation::ReadUnwritten { .. })));
}

#[test]
fn read_before_its_write_was_invoked_is_refused() {
    assert!(matches!(check(&[read(7, 1, 2), write(7, 3, 4)]), Err(Violation::ReadBeforeWrite { .. })));
}

#[test]
fn write_without_answer_may_have_happened_or_not() {
    assert_eq!(check(&[unknown_write(7, 1, u64::MAX), read(0, 3, 4), read(0, 5, 6)]), Ok(()));
    assert_eq!(check(&[unknown_write(7, 1, u64::MAX), read(7, 3, 4), read(7, 5, 6)]), Ok(()));
    // It may also land late, but only once and not before it is gone again.
    assert_eq!(check(&[unknown_write(7, 1, u64::MAX), read(0, 3, 4), read(7, 5, 6)]), Ok(()));
    assert!(check(&[unknown_write(7, 1, u64::MAX), read(7, 3, 4), read(0, 5, 6)]).is_err());
}

#[test]
fn write_without_answer_does_not_land_after_its_writer_was_fenced() {
    let fenced = 4;
    assert!(check(&[unknown_write(7, 1, fenced), read(0, 5, 6), read(7, 7, 8)]).is_err());
    assert_eq!(check(&[unknown_write(7, 1, fenced), read(7, 5, 6), read(7, 7, 8)]), Ok(()));
    assert!(check(&[unknown_write(7, 1, fenced), write(8, 5, 6), read(7, 7, 8)]).is_err());
}

#[test]
fn two_overlapping_writes_keep_one_order() {
    let both = [write(7, 1, 10), write(8, 2, 9)];
    assert_eq!(check(&[both[0], both[1], read(7, 11, 12), read(7, 13, 14)]), Ok(()));
    assert_eq!(check(&[both[0], both[1], read(8, 11, 12), read(8, 13, 14)]), Ok(()));
    assert!(check(&[both[0], both[1], read(8, 11, 12), read(7, 13, 14)]).is_err());
}

#[test]
fn write_inside_the_reign_of_another_value_is_refused() {
    assert!(check(&[write(7, 1, 2), read(7, 3, 4), write(8, 5, 6), read(7, 7, 8)]).is_err());
}

#[test]
fn read_without_answer_says_nothing() {
    let lost =
        Operation { call: Call::Read(Value(9)), invoked: Moment(1), end: End::Unknown(Moment::NEVER), origin: 0 };
    assert_eq!(check(&[lost, write(7, 2, 3), read(7, 4, 5)]), Ok(()));
}

#[test]
fn repeated_values_go_to_the_search() {
    let zeroed_twice =
        [write(7, 1, 2), write(0, 3, 4), read(0, 5, 6), write(8, 7, 8), write(0, 9, 10), read(0, 11, 12)];
    let history = BlockHistory { initial: INITIAL, operations: zeroed_twice.to_vec() };
    assert_eq!(check_block(&history), Ok(()));
    let mut lost = history.clone();
    let odd = read(8, 13, 14);
    lost.operations.push(odd);
    assert_eq!(check_block(&lost), Err(Violation::Unexplained { operation: odd, values: vec![Value(0)] }));
}

#[test]
fn long_history_is_decided_fast() {
    let mut operations = Vec::new();
    for round in 0..50_000u64 {
        let at = 1 + round * 4;
        operations.push(write(round + 1, at, at + 3));
        operations.push(read(round + 1, at + 2, at + 6));
    }
    let history = BlockHistory { initial: INITIAL, operations };
    assert_eq!(check_block(&history), Ok(()));
}

/// A few operations over few values and few moments, so that overlaps and ties are common: most are invalid.
fn any_history() -> impl Strategy<Value = Vec<Operation>> {
    let span = (1..24u64, 0..8u64);
    let operation = (0..3u8, 0..6u64, span, any::<bool>());
    prop::collection::vec(operation, 0..9).prop_map(|drawn| {
        let mut next_value = 0;
        drawn
            .into_iter()
            .map(|(kind, value, (invoked, length), bounded)| match kind {
                0 => read(value, invoked, invoked + length),
                1 => {
                    next_value += 1;
                    write(next_value, invoked, invoked + length)
                }
                _ => {
                    next_value += 1;
                    unknown_write(next_value, invoked, if bounded { invoked + length } else { u64::MAX })
                }
            })
            .collect()
    })
}

/// A history made from points of effect, so that it is valid by construction; then perhaps one read is changed.
fn made_history() -> impl Strategy<Value = (Vec<Operation>, bool)> {
    let step = (any::<bool>(), 0..6u64, 0..6u64);
    let broken = prop_oneof![Just(None), (0..12usize, 0..6u64).prop_map(Some)];
    (prop::collection::vec(step, 1..12), broken).prop_map(|(steps, broken)| {
        let (mut value, mut operations) = (0, Vec::new());
        for (index, (is_write, before, after)) in (1u64..).zip(steps) {
            let point = 10 + index * 3;
            let (invoked, end) = (point - before, point + after);
            if is_write {
                value = index;
                operations.push(write(value, invoked, end));
            } else {
                operations.push(read(value, invoked, end));
            }
        }
        let mut changed = false;
        if let Some((at, other)) = broken
            && let Some(operation) = operations.get_mut(at)
            && matches!(operation.call, Call::Read(_))
        {
            operation.call = Call::Read(Value(other));
            changed = true;
        }
        (operations, changed)
    })
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4000))]

    #[test]
    fn both_checkers_agree_on_any_history(operations in any_history()) {
        let history = BlockHistory { initial: INITIAL, operations };
        prop_assert_eq!(check_by_zones(&history).is_ok(), check_by_search(&history).is_ok());
    }

    #[test]
    fn history_with_points_of_effect_is_valid((operations, changed) in made_history()) {
        let history = BlockHistory { initial: INITIAL, operations };
        let fast = check_by_zones(&history).is_ok();
        prop_assert_eq!(fast, check_by_search(&history).is_ok());
        proptest::prop_assert!(changed || fast);
    }
}
