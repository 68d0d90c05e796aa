//! What an API server asks and is told: `AdmissionReview` of `admission.k8s.io/v1`
//! (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>).
//!
//! Pure: text in, an [`Answer`] out. What is asked about and is no pod that is being created is allowed as
//! it is. What cannot be read as a review has no answer but an error: nobody knows which uid to echo.
//!
//! Refusals carry code 422, since the pod itself is at fault, and 403 where nothing is known about its
//! namespace. Either makes the API server refuse the pod with our words, and whoever makes pods try again.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_proto::names::{INJECT_DISABLED, INJECT_LABEL};

use crate::decide::{Namespace, Skip};
use crate::events::{News, Owner};
use crate::inject::{Outcome, Verdict, inject};
use crate::json;
use crate::metrics::Fate;
use crate::settings::Settings;

/// The version that is spoken.
pub const API_VERSION: &str = "admission.k8s.io/v1";
/// The kind that is spoken.
pub const KIND: &str = "AdmissionReview";
/// Bytes of a warning that API servers pass on whole.
pub const MAX_WARNING: usize = 256;
/// Warnings to one pod: API servers cut all together at 4,096 bytes.
pub const MAX_WARNINGS: usize = 16;
/// Bytes of a refusal's words.
pub const MAX_MESSAGE: usize = 2_048;

const INVALID: (u16, &str) = (422, "Invalid");
const FORBIDDEN: (u16, &str) = (403, "Forbidden");

/// What an API server asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Which question it is.
    pub uid: String,
    /// The pod's namespace, which the pod itself need not say.
    pub namespace: String,
    /// The pod's name; one that ends in a dash is to be completed by the API server.
    pub name: String,
    /// Whether nothing is to come of it.
    pub dry_run: bool,
    /// Why the object is not ours to change, in one word; `None` for a pod that is being created.
    pub left_alone: Option<&'static str>,
    /// The pod.
    pub pod: Value,
}

/// Why something is no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is not JSON, or not of the shape.
    #[error("the request cannot be read as an {KIND} of {API_VERSION}: {0}")]
    Unreadable(String),
    /// It is something else.
    #[error(
        "the request is {kind:?} of {api_version:?}; this webhook speaks {KIND} of {API_VERSION} only: let \
         admissionReviewVersions of its configuration be [v1]"
    )]
    Other {
        /// What it says that its version is.
        api_version: String,
        /// What it says that its kind is.
        kind: String,
    },
}

/// What an API server is told, and what else comes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The review with the answer, JSON.
    pub review: Value,
    /// What became of the pod, in a word.
    pub fate: Fate,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why, for people; empty where there is nothing to say.
    pub note: String,
    /// What the pod's owner is told.
    pub news: Option<News>,
    /// Whether nobody should have asked, by what is known of the namespace: that may be out of date.
    pub is_doubtful: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    request: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    uid: String,
    kind: GroupVersionKind,
    sub_resource: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    operation: String,
    object: Option<Value>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
struct GroupVersionKind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    kind: String,
}

impl Request {
    /// Reads what was posted.
    pub fn read(body: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |error: serde_json::Error| Malformed::Unreadable(error.to_string());
        let review: Review = serde_json::from_slice(body).map_err(unreadable)?;
        if review.api_version != API_VERSION || review.kind != KIND {
            return Err(Malformed::Other {
                api_version: shortened(review.api_version, MAX_WARNING),
                kind: shortened(review.kind, MAX_WARNING),
            });
        }
        let asked = Asked::deserialize(review.request).map_err(unreadable)?;
        let kind = &asked.kind;
        let is_pod = (&*kind.group, &*kind.version, &*kind.kind) == ("", "v1", "Pod");
        let is_whole = asked.sub_resource.as_deref().is_none_or(str::is_empty);
        let pod = asked.object.unwrap_or_default();
        let left_alone = if !is_pod || !is_whole {
            Some("not_a_pod")
        } else if asked.operation != "CREATE" || !pod.is_object() {
            Some("not_created")
        } else {
            None
        };
        let said = |place| json::text(&pod, place).filter(|text| !text.is_empty());
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let name = given(asked.name)
            .or_else(|| said("/metadata/name").map(str::to_owned))
            .or_else(|| said("/metadata/generateName").map(str::to_owned));
        let namespace =
            given(asked.namespace).or_else(|| said("/metadata/namespace").map(str::to_owned));
        Ok(Self {
            uid: asked.uid,
            namespace: namespace.unwrap_or_default(),
            name: name.unwrap_or_default(),
            dry_run: asked.dry_run.unwrap_or_default(),
            left_alone,
            pod,
        })
    }

    /// What becomes of a pod in a namespace that says this.
    pub fn judge(&self, settings: &Settings, namespace: &Namespace) -> Answer {
        let Outcome { verdict, warnings } = inject(settings, namespace, &self.pod);
        match verdict {
            Verdict::Patched(operations) => {
                let patch =
                    serde_json::to_string(&operations).expect("operations are plain values");
                let mut answer = self.answer(json!({
                    "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch),
                }));
                answer.warn(&warnings);
                (answer.fate, answer.reason) = (Fate::Patched, "asked");
                answer
            }
            Verdict::Skipped(skip) => {
                let mut answer = self.answer(json!({"allowed": true}));
                answer.warn(&warnings);
                (answer.fate, answer.reason) = (Fate::Skipped, skip.word());
                answer.note = skip.to_string();
                answer.is_doubtful = self.is_doubtful(&skip);
                if skip.is_surprise() {
                    let note = format!("no sidecar: {skip}");
                    answer.news = self.news(false, "InjectionSkipped", &note);
                }
                answer
            }
            Verdict::Refused(wrong) => {
                let mut why = String::new();
                for refusal in &wrong {
                    let gap = if why.is_empty() { "" } else { ". " };
                    let _ = write!(why, "{gap}{refusal}");
                }
                let mut answer = self.deny(INVALID, &why);
                answer.warn(&warnings);
                (answer.fate, answer.reason) = (Fate::Refused, "invalid");
                answer.news = self.news(true, "InjectionRefused", &answer.note);
                answer
            }
        }
    }

    /// What is not ours to change stays as it is.
    pub fn leave_alone(&self, reason: &'static str) -> Answer {
        let mut answer = self.answer(json!({"allowed": true}));
        (answer.fate, answer.reason) = (Fate::Skipped, reason);
        answer
    }

    /// Nothing is known about the namespace, so that nobody can say whether the pod may run as it is.
    pub fn fail(&self, why: &str) -> Answer {
        let namespace = &self.namespace;
        let why = format!(
            "nothing is known about namespace {namespace:?}: {why}; try again, and look at the log of \
             deployment weft-injector where that does not help"
        );
        let mut answer = self.deny(FORBIDDEN, &why);
        (answer.fate, answer.reason) = (Fate::Failed, "namespace_unknown");
        answer.news = self.news(true, "InjectionFailed", &answer.note);
        answer
    }

    fn deny(&self, (code, reason): (u16, &str), why: &str) -> Answer {
        let message = shortened(format!("no sidecar can be added: {why}"), MAX_MESSAGE);
        let mut answer = self.answer(json!({
            "allowed": false,
            "status": {
                "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                "code": code, "reason": reason, "message": message,
            },
        }));
        answer.note = message;
        answer
    }

    fn answer(&self, mut response: Value) -> Answer {
        response["uid"] = json!(self.uid);
        Answer {
            review: json!({"apiVersion": API_VERSION, "kind": KIND, "response": response}),
            fate: Fate::Failed,
            reason: "",
            note: String::new(),
            news: None,
            is_doubtful: false,
        }
    }

    /// API servers ask about pods of labelled namespaces and pods that are labelled themselves.
    fn is_doubtful(&self, skip: &Skip) -> bool {
        let own = json::texts(&self.pod, "/metadata/labels").find(|(key, _)| *key == INJECT_LABEL);
        match skip {
            Skip::NotAsked => true,
            Skip::Disabled => own.is_none_or(|(_, value)| value != INJECT_DISABLED),
            _ => false,
        }
    }

    /// For whoever made the pod, which most people look at instead. Nothing comes of a dry run.
    fn news(&self, warning: bool, reason: &'static str, note: &str) -> Option<News> {
        let regarding = Owner::of(&self.pod, &self.namespace).filter(|_| !self.dry_run)?;
        let note = format!("pod {}: {note}", self.name);
        Some(News {
            regarding,
            warning,
            reason,
            note,
        })
    }
}

impl Answer {
    /// Whether the pod may be made.
    pub fn is_allowed(&self) -> bool {
        self.review["response"]["allowed"] == true
    }

    fn warn(&mut self, warnings: &[String]) {
        let said = |warning: &String| shortened(format!("weft: {warning}"), MAX_WARNING);
        let mut all: Vec<String> = warnings.iter().map(said).collect();
        if all.len() > MAX_WARNINGS {
            let beyond = all.len() - (MAX_WARNINGS - 1);
            all.truncate(MAX_WARNINGS - 1);
            all.push(format!("weft: and {beyond} more warnings"));
        }
        if !all.is_empty() {
            self.review["response"]["warnings"] = json!(all);
        }
    }
}

/// In so many bytes, without letters that no header may have.
pub(crate) fn shortened(text: String, bytes: usize) -> String {
    const DOTS: &str = "…";
    let mut text = if text.contains(char::is_control) {
        text.replace(char::is_control, " ")
    } else {
        text
    };
    if text.len() > bytes {
        let mut end = bytes - DOTS.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(DOTS);
    }
    text
}

#[cfg(test)]
mod tests;
