//! A table of things under way, by small numbers that go into `user_data`.

/// Values by slot. Freed slots are used again, last freed first; nothing is allocated below the high-water mark.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts a value in and says where.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = Some(value);
            return slot;
        }
        self.entries.push(Some(value));
        u32::try_from(self.entries.len() - 1).expect("fewer things are under way than 2^32")
    }

    /// A slot for a value that has to know its number; [`Slots::fill`] or [`Slots::cancel`] follows.
    pub(crate) fn reserve(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).expect("fewer things are under way than 2^32")
        })
    }

    /// Puts the value into its reserved slot.
    pub(crate) fn fill(&mut self, slot: u32, value: T) {
        self.entries[slot as usize] = Some(value);
    }

    /// Gives a reserved slot back.
    pub(crate) fn cancel(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Takes the value out.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let value = self.entries.get_mut(slot as usize)?.take();
        if value.is_some() {
            self.free.push(slot);
        }
        value
    }

    /// The value in a slot.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// All values with their slots.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.entries.iter_mut().zip(0..).filter_map(|(entry, slot)| Some((slot, entry.as_mut()?)))
    }

    /// Slots in use now, for loops that change the table.
    pub(crate) fn used(&self) -> Vec<u32> {
        self.entries.iter().zip(0..).filter_map(|(entry, slot)| entry.is_some().then_some(slot)).collect()
    }
}
