//! The HTTP/1 pool.
use std::sync::Arc;
use http::{Request, Response};
use super::{Connect, PoolOptions, PoolStats, SendOptions, TryError};
use crate::http::body::{RequestBody, UpstreamBody};

/// Connections of one endpoint that carry one exchange at a time. Cheap to clone.
pub struct H1Pool<C> { connect: Arc<C>, options: PoolOptions }

impl<C: Connect> H1Pool<C> {
    /// An empty pool.
    pub fn new(connect: C, options: PoolOptions) -> Self { Self { connect: Arc::new(connect), options } }
    /// Sends `request` and waits for the head of its response.
    pub async fn send(&self, request: Request<RequestBody>, options: SendOptions) -> Result<Response<UpstreamBody>, TryError> { todo!() }
    /// Counts now.
    pub fn stats(&self) -> PoolStats { todo!() }
}
#[derive(Debug)]
pub(super) struct H1Lease {}
impl H1Lease { pub(super) fn give_back(self) {} }
