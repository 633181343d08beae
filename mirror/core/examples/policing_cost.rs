//! What policing costs a write whose range is held: the same writes to a volume of one replica, single-writer and multi-writer,
//! through the machine alone (no disk, no network), in turns. Prints nanoseconds a write as JSON: for each round the median of many
//! short turns, because what a busy machine does in one of them is longer than what is measured.
//!
//! The difference is everything that a multi-writer volume does more for such a write, of which the check is a part.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use lockstep_core::timing::Timing;
use lockstep_core::{
    Access, AttachMode, BlockRange, BootId, BufId, Command, CommandId, Config, Effect, Epoch, Generation, Incarnation,
    Input, Meta, NodeId, Op, Replica, Request, RequestId, Settings, Setup, Time, VolumeId, VoterId,
};

const ROUNDS: usize = 9;
/// In each round.
const TURNS: usize = 101;
const WRITES: u64 = 5_000;
/// 1 GiB: 1024 extents.
const BLOCKS: u64 = 1 << 18;
/// From one write to the next.
const STEP_NANOS: u64 = 10_000;
/// The seed of the addresses; any odd number does.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

struct Volume {
    replica: Replica,
    now: Time,
    out: Vec<Effect>,
    inputs: VecDeque<Input>,
    written: u64,
}

impl Volume {
    /// One node with one replica, attached; every region has been written to.
    fn start(access: Access) -> Volume {
        let node = NodeId(1);
        let config = Config {
            volume: VolumeId([1; 16]),
            generation: Generation { id: 1, parent: 0 },
            epoch: Epoch(1),
            size_blocks: BLOCKS,
            settings: Settings { access, ..Settings::default() },
            priority: Default::default(),
            replicas: [node].into(),
            tie_breaker: None,
            voters: [(node, VoterId(1))].into(),
            in_sync: [(node, Incarnation(1))].into(),
            joining: BTreeMap::new(),
            attached: BTreeMap::new(),
            last_in_sync: BTreeMap::new(),
            added: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        let meta = Meta::created(node, true, config, Incarnation(1), BootId(1));
        let setup = Setup::new(Incarnation(1), BootId(1), meta, Timing::PRODUCTION);
        let mut volume = Volume {
            replica: Replica::new(setup, Time(1)),
            now: Time(1),
            out: Vec::new(),
            inputs: VecDeque::new(),
            written: 0,
        };
        volume.take(Input::Tick);
        let command =
            Command::Attach { mode: AttachMode::ReadWrite, take_over: false, recoverable: false, class: None };
        volume.take(Input::Command { id: CommandId(1), command });
        while !volume.replica.config().attached.contains_key(&node) {
            volume.now = volume.replica.deadline().max(volume.now);
            volume.take(Input::Tick);
        }
        (0..BLOCKS).step_by(256).for_each(|block| volume.write(block));
        volume
    }

    /// One input, and whatever follows from it: disk and metadata do what they are told at once.
    fn take(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            self.replica.step(self.now, input, &mut self.out);
            for effect in self.out.drain(..) {
                match effect {
                    Effect::Persist { token, .. } => self.inputs.push_back(Input::Persisted { token }),
                    Effect::DiskWrite { io, .. } | Effect::DiskFlush { io } => {
                        self.inputs.push_back(Input::DiskDone { io, result: Ok(()) });
                    }
                    Effect::Complete { result, .. } => {
                        result.expect("a write of a volume that is whole");
                        self.written += 1;
                    }
                    _ => {}
                }
            }
        }
    }

    fn write(&mut self, block: u64) {
        let seen = self.written;
        let id = RequestId(self.now.0);
        let range = BlockRange::new(block, block + 1);
        self.take(Input::Request(Request { id, op: Op::Write { fua: false }, range, buf: BufId(1) }));
        self.now = self.now.after(STEP_NANOS);
        // The first write waits until its node has granted itself the volume.
        while self.written == seen {
            self.now = self.replica.deadline().max(self.now);
            self.take(Input::Tick);
        }
    }

    /// Nanoseconds a write.
    fn measure(&mut self) -> f64 {
        let taken = self.replica.grants_taken();
        let from = Instant::now();
        for number in 0..WRITES {
            self.write(number.wrapping_mul(ODD) >> 40 & (BLOCKS - 1));
        }
        let nanos = from.elapsed().as_nanos() as f64 / WRITES as f64;
        assert_eq!(self.replica.grants_taken(), taken, "a held range was asked for");
        nanos
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let [mut single, mut multi] = [Access::SingleWriter, Access::MultiWriter].map(Volume::start);
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let mut turns = [Vec::new(), Vec::new(), Vec::new()];
        for turn in 0..TURNS {
            // Each is first as often as the other.
            let (alone, shared) = if turn % 2 == 0 {
                let alone = single.measure();
                (alone, multi.measure())
            } else {
                let shared = multi.measure();
                (single.measure(), shared)
            };
            turns.iter_mut().zip([alone, shared, shared - alone]).for_each(|(all, one)| all.push(one));
        }
        rounds.iter_mut().zip(turns).for_each(|(all, turns)| all.push(median(turns)));
    }
    let [single, multi, policing] = rounds;
    println!("{{\"single_writer\":{single:?},\"multi_writer\":{multi:?},\"policing\":{policing:?}}}");
}
