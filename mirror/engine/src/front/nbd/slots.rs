//! Requests in flight, of all connections: who asked, for what, and where its data lies.

use std::io;

use super::slab::{Block, Slab};
use super::transmission::RawRequest;
use crate::front::request::{FrontBuffer, FrontOp, FrontRequest, Tag};

/// One request between its first byte and the last byte of its reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub connection: u16,
    pub request: RawRequest,
    pub op: FrontOp,
    block: Option<Block>,
    pub data: FrontBuffer,
    /// The engine has it.
    pub is_open: bool,
    /// The reply's data lies in memory of the engine.
    pub is_elsewhere: bool,
}

/// A fixed number of slots, with memory for their data.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    slab: Slab,
    released: Vec<Tag>,
}

impl Slots {
    pub(super) fn new(count: u16, memory_bytes: usize) -> io::Result<Slots> {
        Ok(Slots {
            slots: vec![None; usize::from(count)],
            free: (0..u32::from(count)).rev().collect(),
            slab: Slab::new(memory_bytes)?,
            released: Vec::new(),
        })
    }

    /// Takes a slot, with room for the data of a read or a write. `None` if there is none for now.
    pub(super) fn take(&mut self, connection: u16, request: RawRequest, op: FrontOp) -> Option<u32> {
        let number = *self.free.last()?;
        let carries_data = matches!(op, FrontOp::Read | FrontOp::Write { .. });
        let block = match carries_data {
            true => Some(self.slab.allocate(request.len as usize)?),
            false => None,
        };
        let data = block.map_or(FrontBuffer::EMPTY, |block| FrontBuffer::new(self.slab.address(block), request.len));
        self.free.pop();
        let slot = Slot { connection, request, op, block, data, is_open: false, is_elsewhere: false };
        self.slots[number as usize] = Some(slot);
        Some(number)
    }

    pub(super) fn get(&mut self, number: u32) -> &mut Slot {
        self.slots[number as usize].as_mut().expect("a slot in use")
    }

    /// The request of a slot goes to the engine.
    pub(super) fn open(&mut self, number: u32) -> FrontRequest {
        let slot = self.get(number);
        slot.is_open = true;
        FrontRequest {
            tag: Tag(number),
            op: slot.op,
            offset_bytes: slot.request.offset,
            len_bytes: u64::from(slot.request.len),
            resent: false,
            data: slot.data,
        }
    }

    pub(super) fn release(&mut self, number: u32) {
        let slot = self.slots[number as usize].take().expect("a slot in use");
        assert!(!slot.is_open, "the engine still has request {number}");
        if let Some(block) = slot.block {
            self.slab.release(block);
        }
        if slot.is_elsewhere {
            self.released.push(Tag(number));
        }
        self.free.push(number);
    }

    pub(super) fn take_released(&mut self) -> Option<Tag> {
        self.released.pop()
    }

    pub(super) fn leak(&mut self) {
        self.slab.leak();
    }
}
