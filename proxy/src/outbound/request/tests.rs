use super::*;
use crate::testing::future_size;

/// One box for all layers, made for each request: what it has room for is moved, allocated and pushed out
/// of caches.
#[test]
fn a_requests_future_stays_small() {
    let bytes = future_size(Requests::request);
    assert!(bytes <= 5 * 1024, "{bytes} bytes");
}
