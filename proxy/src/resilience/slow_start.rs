//! How much of its weight an endpoint has that has just come.
//!
//! A share rises in a straight line from [`FLOOR`] to the whole, from the moment in which discovery
//! told of the endpoint. It holds wherever endpoints are drawn or take turns; a key that is hashed
//! belongs to whom it belongs to from the first moment, since it would move twice otherwise.

use std::time::{Duration, Instant};

/// What a newcomer begins with: enough to warm up by, and little enough to be survived cold.
pub const FLOOR: f32 = 0.1;

/// The share at `now` of an endpoint that came at `arrived`, where it takes `over` to be whole.
pub fn share(arrived: Instant, now: Instant, over: Duration) -> f32 {
    let age = now.saturating_duration_since(arrived);
    if age >= over {
        return 1.0;
    }
    FLOOR + (1.0 - FLOOR) * (age.as_secs_f32() / over.as_secs_f32())
}
