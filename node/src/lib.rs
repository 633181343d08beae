//! The agent on each node, the engine program and the stand-alone command line.
