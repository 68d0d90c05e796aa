//! What goes wrong, as the `Status` that clients of Kubernetes expect.

use serde_json::{Map, Value, json};

/// A refusal.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

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
        Self {
            code,
            reason,
            message: message.into(),
            details: json!({}),
        }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// `resource` as `pods` or `leases.coordination.k8s.io`.
    pub(super) fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, format!("{resource} {name:?} not found")).about(resource, name)
    }

    /// There is nothing of the kind at all.
    pub(super) fn no_such_path() -> Self {
        Self::new(404, "the server could not find the requested resource")
    }

    pub(super) fn no_such_method() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, message)
    }

    pub(super) fn exists(resource: &str, name: &str) -> Self {
        let mut failure = Self::new(409, format!("{resource} {name:?} already exists"));
        failure.reason = "AlreadyExists";
        failure.about(resource, name)
    }

    pub(super) fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::new(409, message).about(resource, name)
    }

    /// The version that somebody wrote against is an old one.
    pub(super) fn outdated(resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(resource, name, why)
    }

    /// Every field that is wrong, with the reason.
    pub(super) fn invalid(kind: &str, group: &str, name: &str, wrong: &[(String, String)]) -> Self {
        let dotted = if group.is_empty() { "" } else { "." };
        let said: Vec<_> = wrong
            .iter()
            .map(|(path, why)| match path.as_str() {
                "" => why.clone(),
                path => format!("{path}: Invalid value: {why}"),
            })
            .collect();
        let said = match said.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{kind}{dotted}{group} {name:?} is invalid: {said}");
        let causes = wrong.iter().map(|(path, why)| {
            json!({"reason": "FieldValueInvalid", "message": format!("Invalid value: {why}"), "field": path})
        });
        let mut failure = Self::new(422, message);
        failure.details = json!({
            "name": name, "group": group, "kind": kind, "causes": causes.collect::<Vec<_>>(),
        });
        failure
    }

    fn about(mut self, resource: &str, name: &str) -> Self {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let mut details = Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", plural)] {
            if !value.is_empty() {
                details.insert(key.to_owned(), value.into());
            }
        }
        self.details = details.into();
        self
    }

    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        })
    }
}
