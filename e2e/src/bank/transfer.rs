//! What a transaction does: all of it follows from the seed and its number.

use crate::random::Random;

/// Accounts between which money moves.
pub const ACCOUNTS: i64 = 64;
/// What each has at first. The sum never changes.
pub const BALANCE_FIRST: i64 = 10_000;
const AMOUNT_MAX: i64 = 100;
const PAYLOAD_BYTES_MIN: i64 = 64;
const PAYLOAD_BYTES_SPAN: i64 = 3000;

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its number, from 1.
    pub id: i64,
    /// Loses the amount.
    pub source: i64,
    /// Gets the amount.
    pub target: i64,
    /// How much.
    pub amount: i64,
    /// Bytes to be found again.
    pub payload: Vec<u8>,
}

impl Transfer {
    /// The transfer with this number.
    pub fn of(seed: u64, id: i64) -> Self {
        let mut random = Random::new(seed ^ id.unsigned_abs().wrapping_mul(0x9e37_79b9));
        let mut below = |bound: i64| i64::try_from(random.below(bound.unsigned_abs())).unwrap_or(0);
        let source = below(ACCOUNTS);
        let target = (source + 1 + below(ACCOUNTS - 1)) % ACCOUNTS;
        let amount = 1 + below(AMOUNT_MAX);
        let length = PAYLOAD_BYTES_MIN + below(PAYLOAD_BYTES_SPAN);
        let payload = (0..length).map(|_| u8::try_from(below(256)).unwrap_or(0)).collect();
        Transfer { id, source, target, amount, payload }
    }
}
