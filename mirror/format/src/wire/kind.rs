//! Numbers of the messages.

use lockstep_core::Message;

macro_rules! kinds {
    ($($name:ident = $number:literal),+ $(,)?) => {
        /// Which message a frame carries. Numbers are never used again for something else.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Kind {
            $($name = $number),+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$name),+];

            /// The kind with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Kind> {
                match number {
                    $($number => Some(Kind::$name),)+
                    _ => None,
                }
            }

            /// The kind of this message.
            #[must_use]
            pub const fn of(message: &Message) -> Kind {
                match message {
                    $(Message::$name { .. } => Kind::$name),+
                }
            }

            /// The name, as metrics and logs show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => stringify!($name)),+
                }
            }
        }
    };
}

kinds! {
    Heartbeat = 0x01,
    HeartbeatAnswer = 0x02,
    Hello = 0x03,
    ExitReport = 0x04,

    Prepare = 0x10,
    Promise = 0x11,
    Accept = 0x12,
    Accepted = 0x13,
    NoVote = 0x14,
    VoterAdmit = 0x15,
    VoterAdmitted = 0x16,

    Install = 0x20,
    Installed = 0x21,

    Write = 0x30,
    WriteAck = 0x31,
    WriteRefused = 0x32,
    Commit = 0x33,
    CommitWanted = 0x34,
    Flush = 0x35,
    FlushAck = 0x36,

    GrantAsk = 0x38,
    Granted = 0x39,
    Recall = 0x3a,
    Released = 0x3b,

    Read = 0x40,
    ReadReply = 0x41,
    ReadRefused = 0x42,
    DigestAsk = 0x43,
    Digests = 0x44,

    RollForward = 0x50,
    RollForwardAck = 0x51,
    ReconcileDone = 0x52,

    MapAsk = 0x60,
    MapPart = 0x61,
    Pull = 0x62,
    Pulled = 0x63,
    PulledDurable = 0x64,

    LeaveAsk = 0x70,
    LeaveAnswer = 0x71,
    Goodbye = 0x72,
    GoodbyeSeen = 0x73,
    AttachWanted = 0x74,
}
