//! Headers that a sidecar has an opinion about.
use http::{HeaderMap, HeaderValue, Request};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use crate::outcome::Failure;

/// The client sent its request in absolute form; it is sent on in that form.
#[derive(Clone, Copy, Debug)]
pub struct AbsoluteForm;

/// Removes what concerns one connection only. With `upgrading`, `Connection: upgrade` and `Upgrade` stay.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, upgrading: bool) { todo!() }
/// Removes `x-weft-*`.
pub fn strip_ours(headers: &mut HeaderMap) { todo!() }
/// The request's id, made where it is missing.
pub fn ensure_request_id(headers: &mut HeaderMap) -> HeaderValue { todo!() }
/// The protocol that an HTTP/1.1 request asks to change to.
pub fn upgrade_wanted<B>(request: &Request<B>) -> bool { todo!() }
/// The authority that the request names: from its target, else from `Host`. None for HTTP/1.0 without.
pub fn authority(head: &Parts) -> Result<Option<Authority>, Failure> { todo!() }
/// Makes the head fit an HTTP/1 connection.
pub fn prepare_h1<B>(request: &mut Request<B>) { todo!() }
/// Makes the head fit an HTTP/2 connection.
pub fn prepare_h2<B>(request: &mut Request<B>, scheme: &Scheme) -> Result<(), Failure> { todo!() }
/// Whether this is gRPC, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool { todo!() }
/// The value of a cookie.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> { todo!() }
/// Whether the exchange streams, as far as the request tells.
pub fn request_streams<B>(request: &Request<B>) -> bool { todo!() }
/// Whether the exchange streams, as far as the response tells.
pub fn response_streams(status: http::StatusCode, headers: &HeaderMap) -> bool { todo!() }
