//! Commands to sidecars: one replica of the control plane is asked on its admin port; it commands its
//! own sidecars and has the other replicas command theirs. Who did not do it, and why, is part of the
//! answer.

pub(crate) mod one;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::edges::seen::Replica;
use crate::proxy_status::ask::{self, AskError, Server};

/// Exit code where not everybody did it.
pub(crate) const INCOMPLETE: u8 = 1;
/// Exit code where the control plane cannot be asked.
pub(crate) const NO_ANSWER: u8 = 2;

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people, in 100 columns.
    Text,
    /// One object for machines.
    Json,
    /// The same as YAML.
    Yaml,
}

/// A workload, as `weft proxy status` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What sidecars answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    /// The replicas of the control plane, the asked one first.
    pub(crate) replicas: Vec<Replica>,
    /// Everybody who was commanded, in the order of their names.
    pub(crate) answers: Vec<Answer>,
    /// Who should have been and is not connected; the first 100.
    pub(crate) not_connected: Vec<Missing>,
}

/// What a sidecar answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The replica that it is connected to.
    pub(crate) replica: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Why it did not do it.
    pub(crate) error: Option<String>,
    /// By command.
    pub(crate) payload: Value,
}

/// A workload without a sidecar that is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Whether the mesh has such a workload.
    pub(crate) known: bool,
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err("not a workload such as NAMESPACE/NAME; weft proxy status lists them".into()),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Told {
    /// Has sidecars do it: one workload's, or a namespace's, or all.
    pub(crate) fn ask(
        server: &Server,
        namespace: Option<&str>,
        workload: Option<&Workload>,
        command: &Value,
    ) -> Result<Self, AskError> {
        let namespace = workload.map_or(namespace, |it| Some(&*it.namespace));
        let body = json!({
            "namespace": namespace.unwrap_or_default(),
            "workload": workload.map_or("", |it| &*it.name),
            "command": command,
        });
        let answer = ask::tell(server, "/command", &body.to_string())?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Those who did it.
    pub(crate) fn done(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.error.is_none())
    }

    /// Whether everybody did it whom it was for.
    pub(crate) fn is_whole(&self) -> bool {
        self.replicas.iter().all(|replica| replica.error.is_none())
            && self.answers.iter().all(|answer| answer.error.is_none())
            && self.not_connected.is_empty()
    }

    /// Who did not do it, and why; a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let replicas = self.replicas.iter().filter_map(|replica| {
            let why = replica.error.as_ref()?;
            let place = replica.place();
            Some(format!(
                "The replica at {place} did not answer, and its sidecars are not known: {why}"
            ))
        });
        let sidecars = self.answers.iter().filter_map(|answer| {
            let why = answer.error.as_ref()?;
            Some(format!("{}/{}: {why}", answer.namespace, answer.name))
        });
        let missing = self.not_connected.iter().map(|it| {
            let why = if it.known {
                "its sidecar is not connected"
            } else {
                "no such workload; weft proxy status lists them"
            };
            format!("{}/{}: {why}", it.namespace, it.name)
        });
        replicas.chain(sidecars).chain(missing).collect()
    }
}

/// For machines. `Text` is the caller's.
pub(crate) fn print<T: Serialize>(
    output: Output,
    value: &T,
    text: impl FnOnce() -> String,
) -> String {
    match output {
        Output::Text => text(),
        // Names, numbers and words: none of this can fail to be written.
        Output::Json => serde_json::to_string_pretty(value).expect("plain values") + "\n",
        Output::Yaml => serde_saphyr::to_string(value).expect("plain values"),
    }
}
