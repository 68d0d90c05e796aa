//! The bookkeeping of streams under random histories, and the services end to end.

mod access;
mod changes;
mod counts;
mod end_to_end;
mod harness;
mod memo;
mod orders;
mod refusals;
mod replicas;
mod resumption;
mod session;
mod streams;
