//! What policing costs who holds a range: nothing that another node would see.

use lockstep_core::Message;

use super::cluster::{A, B, BLOCKS, C, Cluster};

const WRITES: u64 = 10_000;

#[test]
fn writes_within_what_is_held_say_nothing_about_grants() {
    for writer in [A, B] {
        let mut cluster = Cluster::start(2, &[A, B]);
        cluster.write_now(writer, 0);
        let (frames, taken) = (cluster.policing_frames(), cluster.replica(writer).grants_taken());
        let writes: Vec<_> = (0..WRITES).map(|number| cluster.write(writer, number * 7 % BLOCKS)).collect();
        cluster.run(100);
        assert!(writes.into_iter().all(|write| cluster.is_done(write)));
        assert_eq!(cluster.policing_frames(), frames, "frames of policing, of writes at {writer}");
        assert_eq!(cluster.replica(writer).grants_taken(), taken);
        let sent = cluster.sent.iter().filter(|(_, _, message)| matches!(message, Message::Write { .. })).count();
        assert_eq!(sent as u64, WRITES + 1, "each write goes to the other replica once");
        assert!(cluster.different().is_empty());
    }
}

#[test]
fn writers_in_ranges_of_their_own_stop_asking() {
    let mut cluster = Cluster::start(3, &[A, B, C]);
    let writers = [A, B, C];
    let range = |at: usize| at as u64 * BLOCKS / 3;
    // What each uses goes to it with the first rounds, while the others still write.
    let round = |cluster: &mut Cluster, rounds: u64| {
        for number in 0..rounds {
            let block = |at: usize| range(at) + number * 11 % (BLOCKS / 3);
            let writes: Vec<_> = (0..3).map(|at| cluster.write(writers[at], block(at))).collect();
            cluster.run(10);
            assert!(writes.into_iter().all(|write| cluster.is_done(write)));
        }
    };
    round(&mut cluster, 60);
    let frames = cluster.policing_frames();
    round(&mut cluster, 60);
    assert_eq!(cluster.policing_frames(), frames);
    assert!(cluster.different().is_empty());
}
