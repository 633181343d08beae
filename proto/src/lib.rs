//! Generated protocol buffers of Lockstep and nothing else.
