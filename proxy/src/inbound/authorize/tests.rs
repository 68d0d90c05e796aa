//! The decision by tables, and the readings of paths against a judge of their own.

mod judge;
mod tables;
