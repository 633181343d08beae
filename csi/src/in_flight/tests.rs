use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::{Busy, Lane, RunError};

struct Bed {
    lane: Lane<&'static str, u32, u32>,
    other: Lane<&'static str, (), ()>,
    gate: Arc<Notify>,
    begun: Arc<Notify>,
    runs: Arc<AtomicUsize>,
}

impl Bed {
    fn new() -> Self {
        let busy = Busy::new();
        Self {
            lane: Lane::new(&busy),
            other: Lane::new(&busy),
            gate: Arc::default(),
            begun: Arc::default(),
            runs: Arc::default(),
        }
    }

    /// Work that says that it runs, waits for the gate and answers.
    fn work(&self, answer: u32) -> impl Future<Output = u32> + Send + use<> {
        let (gate, begun, runs) = (self.gate.clone(), self.begun.clone(), self.runs.clone());
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            begun.notify_one();
            gate.notified().await;
            answer
        }
    }

    /// A caller that began work on `key` and left while it ran.
    async fn begin_and_leave(&self, key: &'static str, request: u32, answer: u32) {
        let call = self.lane.run(key, request, self.work(answer));
        tokio::select! {
            biased;
            _ = call => panic!("the gate is closed"),
            () = self.begun.notified() => {}
        }
    }
}

#[tokio::test]
async fn a_second_call_is_refused_while_the_first_waits_and_other_volumes_are_free() {
    let bed = Bed::new();
    let first = bed.lane.run("a", 1, bed.work(7));
    let others = async {
        bed.begun.notified().await;
        assert_eq!(bed.lane.run("a", 1, async { 8 }).await, Err(RunError::Busy), "also the same call");
        assert_eq!(bed.lane.run("a", 2, async { 8 }).await, Err(RunError::Busy));
        assert_eq!(bed.other.run("a", (), async {}).await, Err(RunError::Busy), "also another kind of call");
        assert_eq!(bed.lane.run("b", 1, async { 9 }).await, Ok(9));
        bed.gate.notify_one();
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first, Ok(7));
    assert_eq!(bed.other.run("a", (), async {}).await, Ok(()), "the volume is idle when the result is there");
    assert_eq!(bed.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn work_goes_on_without_its_caller_and_the_same_call_gets_the_result() {
    let bed = Bed::new();
    bed.begin_and_leave("a", 1, 7).await;
    assert_eq!(bed.lane.run("a", 2, async { 8 }).await, Err(RunError::Busy), "another call has to wait");
    assert_eq!(bed.other.run("a", (), async {}).await, Err(RunError::Busy));
    let again = bed.lane.run("a", 1, async { panic!("it is running already") });
    let (again, ()) = tokio::join!(again, async { bed.gate.notify_one() });
    assert_eq!(again, Ok(7));
    assert_eq!(bed.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nothing_is_remembered_when_the_work_is_done() {
    let bed = Bed::new();
    assert_eq!(bed.lane.run("a", 1, async { 7 }).await, Ok(7));
    assert_eq!(bed.lane.run("a", 1, async { 8 }).await, Ok(8));
}

#[tokio::test]
async fn work_that_nobody_waits_for_ends_too() {
    let bed = Bed::new();
    bed.begin_and_leave("a", 1, 7).await;
    bed.gate.notify_one();
    // Whether it has ended is seen by another kind of call, which does not join.
    while bed.other.run("a", (), async {}).await == Err(RunError::Busy) {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.lane.run("a", 1, async { 8 }).await, Ok(8));
}

#[tokio::test]
async fn work_that_panics_leaves_its_place() {
    let bed = Bed::new();
    assert_eq!(bed.lane.run("a", 1, async { panic!("on purpose") }).await, Err(RunError::BrokeOff));
    assert_eq!(bed.lane.run("a", 1, async { 8 }).await, Ok(8));
}

#[tokio::test]
async fn work_that_never_ends_keeps_its_place_and_each_patient_caller_takes_over() {
    let bed = Bed::new();
    bed.begin_and_leave("a", 1, 7).await;
    for _ in 0..3 {
        let call = bed.lane.run("a", 1, pending());
        tokio::select! {
            biased;
            result = call => panic!("nothing was done: {result:?}"),
            () = std::future::ready(()) => {}
        }
    }
    let call = bed.lane.run("a", 1, pending());
    let (last, ()) = tokio::join!(call, async { bed.gate.notify_one() });
    assert_eq!(last, Ok(7));
}
