//! The text of one file as objects. Knows nothing of what was there before.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use weft_proto::names;

use super::entries;
use super::lines::{Lines, Node};
use crate::index::{BrokenPolicy, ExplicitListener, MeshSettings, Name, Service, Workload};
use crate::policy::{TrafficPolicy, Violation};
use crate::route::{self, ReferenceGrant, Route, RouteKind};
use crate::source::closed::{Closed, namespace_of};
use crate::source::mesh_file::{FILE_NAME, MeshFile};

/// What tells objects apart, whatever file they are in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Settings,
    Workload(Name),
    Service(Name),
    Listener(String),
    Policy(Name),
    Route(RouteKind, Name),
    Grant(Name),
    /// A policy that closes something and does not say its own name: by its file and line.
    Nameless(String, u64),
}

/// A good object, or what is known of a bad policy.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Settings(MeshSettings),
    Workload(Workload),
    Service(Service),
    Listener(ExplicitListener),
    Policy(Arc<TrafficPolicy>),
    Broken(BrokenPolicy),
    Route(Arc<Route>),
    Grant(Arc<ReferenceGrant>),
}

/// Something that is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// From 1.
    pub(super) line: u64,
    pub(super) reason: String,
    pub(super) mend: String,
}

/// One object of a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where it begins.
    pub(super) line: u64,
    /// `None` when it does not even say who it is.
    pub(super) key: Option<Key>,
    /// For people.
    pub(super) label: String,
    pub(super) outcome: Result<Object, Bad>,
}

/// Why an entry is no object.
#[derive(Clone, Debug)]
pub(super) struct Bad {
    pub(super) problems: Vec<Problem>,
    /// What holds instead where there is no last good version.
    pub(super) instead: Option<BrokenPolicy>,
    /// Whether it means to close something and does not say what, so that nothing can be closed.
    pub(super) aimless: bool,
    /// Whether it is none of Weft's objects, so that nothing can have been known of it.
    pub(super) foreign: bool,
}

/// Everything that a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    /// Documents that could not be understood at all: what they hold is unknown.
    pub(super) unreadable: Vec<Problem>,
}

impl Contents {
    /// Whether it is known which objects the file holds: what it does not hold is gone.
    pub(super) fn is_whole(&self) -> bool {
        let named = |entry: &Entry| {
            entry.key.is_some() || entry.outcome.as_ref().is_err_and(|bad| bad.foreign)
        };
        self.unreadable.is_empty() && self.entries.iter().all(named)
    }
}

/// Reads a file by its name: `mesh.yaml`, else policies and routes.
pub(super) fn parse(file: &str, text: &str) -> Contents {
    let mut contents = Contents::default();
    let documents = parts(text);
    if file == FILE_NAME && documents.len() != 1 {
        contents.unreadable.push(Problem {
            line: documents.get(1).map_or(1, |document| document.line),
            reason: format!("{} YAML documents", documents.len()),
            mend: "write exactly one".to_owned(),
        });
        return contents;
    }
    for document in documents {
        let read = if file == FILE_NAME {
            mesh(&document, &mut contents.entries)
        } else {
            manifest(&document).map(|entry| contents.entries.push(entry))
        };
        if let Err(problem) = read {
            contents.unreadable.push(problem);
        }
    }
    contents
}

/// One YAML document of a file.
struct Document {
    /// The line of its first content, from 1.
    line: u64,
    /// Its text behind as many empty lines as it takes for the parser to count right.
    text: String,
}

impl Document {
    /// Of words, only `true` and `false` are booleans.
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        self.read_with(true)
    }

    /// `y`, `on` and their like are booleans too, as they are to kubectl: what is refused in a cluster
    /// is refused here.
    fn read_as_kubectl<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        self.read_with(false)
    }

    fn read_with<T: DeserializeOwned>(&self, strict_booleans: bool) -> Result<T, Problem> {
        let options = serde_saphyr::options! {
            strict_booleans: strict_booleans,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(&self.text, options).map_err(|error| Problem {
            line: error
                .location()
                .map_or(self.line, |location| location.line()),
            reason: error.to_string(),
            mend: String::new(),
        })
    }

    /// Violations with the lines of the fields that they are about.
    fn problems(&self, violations: Vec<Violation>) -> Vec<Problem> {
        let lines = self.read::<Node>().map(|root| Lines::of(&root));
        let lines = lines.unwrap_or_default();
        let problems = violations.into_iter();
        problems
            .map(|violation| Problem {
                line: lines.line(&violation.path).unwrap_or(self.line),
                reason: violation.to_string(),
                mend: violation.mend,
            })
            .collect()
    }
}

/// The documents of a file, without those that hold nothing. In each, every line and column is that of the
/// file.
pub fn documents(text: &str) -> impl Iterator<Item = String> {
    parts(text).into_iter().map(|document| document.text)
}

/// Splits at document markers, which are markers wherever they begin a line (YAML 1.2.2, 9.1.2), and
/// leaves out documents without content.
fn parts(text: &str) -> Vec<Document> {
    let is_marker = |line: &str, marker: &str| {
        line.strip_prefix(marker)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let mut documents = Vec::new();
    let mut current = Document {
        line: 0,
        text: String::new(),
    };
    for (before, line) in text.lines().enumerate() {
        let starts = is_marker(line, "---");
        if starts || is_marker(line, "...") {
            let padding = "\n".repeat(before + usize::from(!starts));
            let next = Document {
                line: 0,
                text: padding,
            };
            documents.push(std::mem::replace(&mut current, next));
            if !starts {
                continue;
            }
        }
        let content = line
            .strip_prefix("---")
            .filter(|_| starts)
            .unwrap_or(line)
            .trim();
        let means_something =
            !content.is_empty() && !content.starts_with('#') && !line.starts_with('%');
        if means_something && current.line == 0 {
            current.line = before as u64 + 1;
        }
        current.text.push_str(line);
        current.text.push('\n');
    }
    documents.push(current);
    documents.retain(|document| document.line != 0);
    documents
}

/// `mesh.yaml` with its entries not looked at yet, so that each is refused alone.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Outline {
    trust_domain: Option<Value>,
    networks: Option<Value>,
    server_first_ports: Option<Value>,
    defaults: Option<Value>,
    workloads: Option<Vec<Spanned<Value>>>,
    services: Option<Vec<Spanned<Value>>>,
    explicit_listeners: Option<Vec<Spanned<Value>>>,
}

fn mesh(document: &Document, entries: &mut Vec<Entry>) -> Result<(), Problem> {
    let outline: Outline = document.read()?;
    let mut settings = Map::new();
    for (name, value) in [
        ("trustDomain", outline.trust_domain),
        ("networks", outline.networks),
        ("serverFirstPorts", outline.server_first_ports),
        ("defaults", outline.defaults),
    ] {
        if let Some(value) = value {
            settings.insert(name.to_owned(), value);
        }
    }
    entries.push(Entry {
        line: document.line,
        key: Some(Key::Settings),
        label: "Mesh".to_owned(),
        outcome: typed(Value::Object(settings), document.line, |file: MeshFile| {
            entries::settings(file).map(Object::Settings)
        }),
    });
    for Spanned {
        value, referenced, ..
    } in outline.workloads.into_iter().flatten()
    {
        let (name, line) = (name_of(&value), referenced.line());
        entries.push(Entry {
            line,
            label: label("Workload", name.as_ref()),
            key: name.map(Key::Workload),
            outcome: typed(value, line, |entry| {
                entries::workload(entry).map(Object::Workload)
            }),
        });
    }
    for Spanned {
        value, referenced, ..
    } in outline.services.into_iter().flatten()
    {
        let (name, line) = (name_of(&value), referenced.line());
        entries.push(Entry {
            line,
            label: label("Service", name.as_ref()),
            key: name.map(Key::Service),
            outcome: typed(value, line, |entry| {
                entries::service(entry).map(Object::Service)
            }),
        });
    }
    for Spanned {
        value, referenced, ..
    } in outline.explicit_listeners.into_iter().flatten()
    {
        let line = referenced.line();
        let part = |name| value.get(name).and_then(Value::as_str).unwrap_or("?");
        let name = format!("{} {}", part("workload"), part("listen"));
        entries.push(Entry {
            line,
            label: format!("ExplicitListener {name}"),
            key: Some(Key::Listener(name)),
            outcome: typed(value, line, |entry| {
                entries::listener(&entry).map(Object::Listener)
            }),
        });
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(
    value: Value,
    line: u64,
    check: impl FnOnce(T) -> Result<Object, String>,
) -> Result<Object, Bad> {
    serde_json::from_value(value)
        .map_err(|error| error.to_string())
        .and_then(check)
        .map_err(|reason| Bad {
            problems: vec![Problem {
                line,
                reason,
                mend: String::new(),
            }],
            instead: None,
            aimless: false,
            foreign: false,
        })
}

fn manifest(document: &Document) -> Result<Entry, Problem> {
    let value: Value = document.read_as_kubectl()?;
    let line = document.line;
    let problem = |reason: String, mend: &str| Problem {
        line,
        reason,
        mend: mend.to_owned(),
    };
    let Some(kind) = value.get("kind").and_then(Value::as_str) else {
        return Err(problem("this document has no kind".to_owned(), ""));
    };
    let name = value.get("metadata").and_then(name_of);
    let closed = Closed::of(&value);
    let bad = |problems| Bad {
        problems,
        aimless: closed.is_aimless(),
        instead: closed.clone().into_policy(name.as_ref()),
        foreign: false,
    };
    if let Some(entry) = gateway(document, &value, kind, name.as_ref()) {
        return Ok(entry);
    }
    if kind != names::TRAFFIC_POLICY_KIND {
        let problems = vec![problem(
            format!("kind {kind} is not read from files"),
            "keep only TrafficPolicy, HTTPRoute, GRPCRoute and ReferenceGrant documents beside mesh.yaml",
        )];
        // With our API group it is a policy whose kind is misspelt: its author still means it.
        let ours = is_ours(&value);
        return Ok(Entry {
            line,
            label: label(kind, name.as_ref()),
            outcome: Err(if ours {
                bad(problems)
            } else {
                Bad {
                    problems,
                    instead: None,
                    aimless: false,
                    foreign: true,
                }
            }),
            key: name.clone().filter(|_| ours).map(Key::Policy),
        });
    }
    let outcome = TrafficPolicy::read(value.clone())
        .map(|policy| Object::Policy(Arc::new(policy)))
        .map_err(|violations| document.problems(violations));
    Ok(Entry {
        line,
        label: label(kind, name.as_ref()),
        outcome: outcome.map_err(bad),
        key: name.clone().map(Key::Policy),
    })
}

/// A document of the Gateway API's that is about the mesh.
fn gateway(document: &Document, value: &Value, kind: &str, name: Option<&Name>) -> Option<Entry> {
    if !is_of(value, route::GROUP) {
        return None;
    }
    let (key, read) = match RouteKind::of(kind) {
        Some(route) => {
            let read = Route::read(route, value).map(|it| Object::Route(Arc::new(it)));
            (name.cloned().map(|name| Key::Route(route, name)), read)
        }
        None if kind == ReferenceGrant::KIND => {
            let read = ReferenceGrant::read(value).map(|it| Object::Grant(Arc::new(it)));
            (name.cloned().map(Key::Grant), read)
        }
        None => return None,
    };
    Some(Entry {
        line: document.line,
        label: label(kind, name),
        outcome: read.map_err(|violations| Bad {
            problems: document.problems(violations),
            instead: None,
            aimless: false,
            foreign: false,
        }),
        key,
    })
}

fn is_ours(value: &Value) -> bool {
    is_of(value, names::API_GROUP)
}

fn is_of(value: &Value, group: &str) -> bool {
    let version = value.get("apiVersion").and_then(Value::as_str);
    let found = version.and_then(|version| version.split_once('/'));
    found.is_some_and(|(found, _)| found == group)
}

fn name_of(value: &Value) -> Option<Name> {
    let name = value.get("name")?.as_str()?;
    Some(Name::new(namespace_of(value)?, name))
}

fn label(kind: &str, name: Option<&Name>) -> String {
    match name {
        Some(name) => format!("{kind} {name}"),
        None => format!("{kind} without a name"),
    }
}
