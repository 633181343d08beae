//! Whole production machines that speak with each other: policing of a volume that several nodes write, and what people see.

mod bad_input;
mod cluster;
mod cost;
mod status;
