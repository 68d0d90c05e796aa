//! Decisions about requests and endpoints, without any I/O.
//!
//! Everything here is a plain function or a state machine that is told the time and lent its
//! randomness, so that a test can play a day in a millisecond. What is shared between workers is
//! made of atomics where a request passes (a closed breaker, the budget's deposits, EWMA, requests
//! in flight); a lock is taken only where a breaker changes its state or a request is tried again.
//!
//! * [`balance`]: which endpoint a try goes to.
//! * [`layout`]: a backend's endpoints, arranged by zone and by hash.
//! * [`ring`]: which endpoint a key belongs to.
//! * [`slow_start`]: how much of its weight a newcomer has.
//! * [`group`]: a backend's endpoints, their health and the cap on ejections.
//! * [`health`]: one endpoint's latency and load, and the permit of a try.
//! * [`breaker`]: closed, open, half-open; one breaker as a plain state machine.
//! * [`tripwire`]: counts failures while a breaker is closed.
//! * [`retry`]: whether a failed try is repeated.
//! * [`attempt`]: how a try ended, and what a breaker makes of it.
//! * [`budget`]: how much retrying may add to a backend's load.
//! * [`backoff`]: how long to wait before a retry.
//! * [`deadline`]: time left, and the headers that carry it.
//! * [`limiter`]: whether a request is within its rate.
//! * [`limits`]: how many requests and connections a backend gets at once, and who waits.
//! * [`cookie`]: cookies, by which users are known.
//! * [`split`]: which backend a request goes to.
//! * [`fallback`]: whether a fallback stands in for what a request came to.
//! * [`fault`]: whether a request meets a failure that policy asks for.
//! * [`route`]: which route a request takes.

pub mod attempt;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod cookie;
pub mod deadline;
pub mod fallback;
pub mod fault;
pub mod group;
pub mod health;
pub mod layout;
pub mod limiter;
pub mod limits;
pub mod retry;
pub mod ring;
pub mod route;
pub mod slow_start;
pub mod split;
pub mod tripwire;

#[cfg(test)]
mod tests;
