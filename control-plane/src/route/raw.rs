//! The objects as manifests carry them. Nothing is judged here but types.

use serde::Deserialize;
use serde_json::Value;

use super::GROUP;
use crate::policy::{Method, PolicyDuration};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) metadata: Value,
    #[serde(default)]
    pub(super) spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) parent_refs: Vec<Value>,
    pub(super) rules: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawParent {
    #[serde(default = "gateway_group")]
    pub(super) group: String,
    #[serde(default = "gateway_kind")]
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
    pub(super) section_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct RawRule {
    pub(super) name: Option<String>,
    pub(super) matches: Vec<Value>,
    pub(super) filters: Vec<RawFilter>,
    pub(super) backend_refs: Vec<RawBackend>,
    pub(super) timeouts: RawTimeouts,
    pub(super) retry: Option<RawRetry>,
    pub(super) session_persistence: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawTimeouts {
    pub(super) request: Option<PolicyDuration>,
    pub(super) backend_request: Option<PolicyDuration>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawRetry {
    pub(super) codes: Vec<u16>,
    pub(super) attempts: Option<u32>,
    pub(super) backoff: Option<PolicyDuration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawBackend {
    #[serde(flatten)]
    pub(super) reference: RawReference,
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) filters: Vec<RawFilter>,
}

#[derive(Deserialize)]
pub(super) struct RawReference {
    #[serde(default)]
    pub(super) group: String,
    #[serde(default = "service_kind")]
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawFilter {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) request_header_modifier: Option<RawEdits>,
    pub(super) response_header_modifier: Option<RawEdits>,
    pub(super) request_redirect: Option<RawRedirect>,
    pub(super) url_rewrite: Option<RawRewrite>,
    pub(super) request_mirror: Option<RawMirror>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawEdits {
    pub(super) set: Vec<RawHeader>,
    pub(super) add: Vec<RawHeader>,
    pub(super) remove: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct RawHeader {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawRedirect {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) path: Option<RawPathEdit>,
    pub(super) port: Option<u16>,
    pub(super) status_code: Option<u16>,
}

#[derive(Deserialize)]
pub(super) struct RawRewrite {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<RawPathEdit>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawPathEdit {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawMirror {
    pub(super) backend_ref: RawReference,
    pub(super) percent: Option<u32>,
    pub(super) fraction: Option<RawFraction>,
}

#[derive(Deserialize)]
pub(super) struct RawFraction {
    pub(super) numerator: u32,
    pub(super) denominator: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawHttpMatch {
    pub(super) path: Option<RawPath>,
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<RawNamed>,
    pub(super) query_params: Vec<RawNamed>,
}

#[derive(Deserialize)]
pub(super) struct RawPath {
    #[serde(default, rename = "type")]
    pub(super) kind: RawPathType,
    #[serde(default = "root")]
    pub(super) value: String,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) enum RawPathType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) enum RawType {
    #[default]
    Exact,
    RegularExpression,
}

/// A header or a query parameter.
#[derive(Deserialize)]
pub(super) struct RawNamed {
    #[serde(default, rename = "type")]
    pub(super) kind: RawType,
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawGrpcMatch {
    pub(super) method: Option<RawGrpcMethod>,
    pub(super) headers: Vec<RawNamed>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawGrpcMethod {
    #[serde(rename = "type")]
    pub(super) kind: RawType,
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
}

fn gateway_group() -> String {
    GROUP.to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

fn service_kind() -> String {
    "Service".to_owned()
}

fn root() -> String {
    "/".to_owned()
}
