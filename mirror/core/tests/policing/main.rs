//! Policing of a volume that several nodes write, between whole production machines.

mod bad_input;
mod cluster;
mod cost;
