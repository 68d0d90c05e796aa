//! What goes wrong, as the `Status` that clients of Kubernetes expect.

use serde_json::{Value, json};

use super::kinds::{self, Resource};

/// A refusal: its code, and the `Status`.
#[derive(Clone, Debug)]
pub(super) struct Failure(pub(super) u16, pub(super) Value);

impl Failure {
    pub(super) fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            405 => "MethodNotAllowed",
            409 => "Conflict",
            410 => "Expired",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message.into(), "reason": reason, "details": {}, "code": code,
        });
        Self(code, status)
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// `resource` as `pods` or `leases.coordination.k8s.io`.
    pub(super) fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, format!("{resource} {name:?} not found"))
    }

    /// There is nothing of the kind at all.
    pub(super) fn no_such_path() -> Self {
        Self::new(404, "the server could not find the requested resource")
    }

    pub(super) fn no_such_method() -> Self {
        Self::new(
            405,
            "the server does not allow this method on the requested resource",
        )
    }

    pub(super) fn exists(resource: &str, name: &str) -> Self {
        let mut failure = Self::new(409, format!("{resource} {name:?} already exists"));
        failure.1["reason"] = "AlreadyExists".into();
        failure
    }

    pub(super) fn conflict(resource: &str, name: &str, why: &str) -> Self {
        Self::new(
            409,
            format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"),
        )
    }

    /// Every field that is wrong, with the reason.
    pub(super) fn invalid(resource: &Resource, name: &str, wrong: &[(String, String)]) -> Self {
        let (kind, group) = (&resource.kind, &resource.group);
        let said = wrong.iter();
        let said = said.map(|(path, why)| format!("{path}: Invalid value: {why}"));
        let said = said.collect::<Vec<_>>().join(", ");
        let causes = wrong
            .iter()
            .map(|(path, why)| json!({"message": why, "field": path}));
        let causes: Vec<_> = causes.collect();
        let said = format!("{} {name:?} is invalid: {said}", kinds::id(group, kind));
        let mut failure = Self::new(422, said);
        failure.1["details"] =
            json!({"name": name, "group": group, "kind": kind, "causes": causes});
        failure
    }
}
