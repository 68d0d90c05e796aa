//! Settings, threads, life cycle; puts everything together.
//!
//! * [`settings`]: what the environment says.
//! * [`threads`]: the data workers and the control thread.

pub mod settings;
pub mod threads;
