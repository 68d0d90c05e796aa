//! Turns the model into what one sidecar is to know: pure, (model, who asks, what) → wire message.
//!
//! Every value on the wire is resolved. `Endpoints` are always whole; whoever serves them makes
//! deltas.

use weft_proto::discovery::{HelloReply, NotFound, ResourceKey, update};

use crate::index::Model;

/// Who asks: from its certificate (namespace, service account) and its hello (workload, zone).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The namespace that the certificate proves.
    pub namespace: String,
    /// The service account that the certificate proves.
    pub service_account: String,
    /// The workload's name, which the caller must have checked against the two above.
    pub workload: String,
    /// The zone; empty when unknown.
    pub zone: String,
}

/// What `key` means for `client`. [`NotFound`] for the trust bundle, which is no part of the model.
pub fn compile(_model: &Model, _client: &Client, _key: &ResourceKey) -> update::Resource {
    update::Resource::NotFound(NotFound {})
}

/// What holds for the client's whole sidecar.
pub fn hello(model: &Model, _client: &Client) -> HelloReply {
    HelloReply {
        trust_domain: model.trust_domain().to_owned(),
        ..HelloReply::default()
    }
}
