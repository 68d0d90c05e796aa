//! Restarts of everything, one after the other, under a constant open-loop load: no failed request.
//!
//! The load is HTTP/1 and gRPC at once, GETs and POSTs, at a sixth of what the machine was just seen
//! to do (`WEFT_SOAK=1`: 1,000 requests per second for a minute); bursts come on top where
//! applications close connections that rest. When requests are due is fixed before the first one, no
//! request is sent twice, and each must have been seen by exactly one server, once, with its body.
//! What replaces a closed connection is counted and printed.

mod servers;
mod sidecars;
mod traffic;

use crate::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("rolling::servers_that_close_after_1s", |cx| {
        servers::are_replaced(cx, 1)
    });
    suite.add("rolling::servers_that_close_after_2s", |cx| {
        servers::are_replaced(cx, 2)
    });
    suite.add("rolling::servers_that_close_after_5s", |cx| {
        servers::are_replaced(cx, 5)
    });
    suite.add("rolling::sidecars_of_servers", sidecars::of_servers);
    suite.add("rolling::sidecar_of_the_client", sidecars::of_the_client);
    suite.add("rolling::control_plane", sidecars::control_plane);
}
