//! Which traffic is asked for, and what sidecars answered.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize as _, Serialize};
use serde_json::json;
use weft_proxy::telemetry::traffic::Summary;

use super::{Side, View};
use crate::order::{Told, Workload};
use crate::proxy_status::ask::{AskError, Server};

/// Which traffic, and whom to ask about it.
#[derive(Clone, Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    server: Server,
    /// Only services of this namespace, or workloads where these are shown.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only requests to this service, as `NAMESPACE/NAME` or `NAMESPACE/NAME:PORT`.
    #[arg(long, value_name = "SERVICE")]
    pub(super) to: Option<ServiceName>,
    /// Only requests from this service account, as `NAMESPACE/NAME`.
    #[arg(long, value_name = "NS/ACCOUNT")]
    pub(super) from: Option<Workload>,
    /// Only what this workload's own sidecar counted, as `NAMESPACE/NAME`.
    #[arg(long, value_name = "NS/NAME")]
    workload: Option<Workload>,
    /// Only what one side counted.
    #[arg(long, value_enum)]
    pub(super) side: Option<Side>,
}

/// A service, with its port or all of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceName(String);

/// What sidecars answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    pub(super) told: Told,
    /// Of those whose answer was understood.
    pub(super) sidecars: Vec<Sidecar>,
}

/// What one sidecar counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Sidecar {
    /// Whose, as `NAMESPACE/NAME`.
    pub(super) workload: String,
    pub(super) summary: Summary,
}

/// A sidecar that told nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Failed {
    pub(super) workload: String,
    pub(super) error: String,
}

impl Which {
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Has sidecars tell what passed in a window, or since their start.
    pub(super) fn ask(&self, view: View, window: Option<Duration>) -> Result<Answers, AskError> {
        let is_workloads = view == View::Workloads;
        let command = json!({
            "kind": "traffic",
            "direction": self.side.map(Side::direction),
            "ofNamespace": self.namespace.as_deref().filter(|_| !is_workloads).unwrap_or_default(),
            "service": self.to.as_ref().map_or("", |it| &*it.0),
            "windowSeconds": window.map(|window| window.as_secs()),
        });
        let namespace = self.namespace.as_deref().filter(|_| is_workloads);
        let told = Told::ask(&self.server, namespace, self.workload.as_ref(), &command)?;
        Ok(Answers::of(told))
    }
}

impl Answers {
    /// Reads every answer. One that is not understood is a failure of that sidecar.
    pub(super) fn of(mut told: Told) -> Self {
        let mut sidecars = Vec::with_capacity(told.answers.len());
        for answer in &mut told.answers {
            if answer.error.is_some() {
                continue;
            }
            match Summary::deserialize(&answer.payload) {
                Ok(summary) => sidecars.push(Sidecar {
                    workload: format!("{}/{}", answer.namespace, answer.name),
                    summary,
                }),
                Err(error) => {
                    let why = format!("the answer is not of a sidecar that we know: {error}");
                    answer.error = Some(why);
                }
            }
            // It may be long, and has been read.
            answer.payload = serde_json::Value::Null;
        }
        Self { told, sidecars }
    }

    /// Whether everybody told.
    pub(super) fn is_whole(&self) -> bool {
        self.told.is_whole()
    }

    /// Sidecars that told nothing.
    pub(super) fn failed(&self) -> Vec<Failed> {
        let answers = self.told.answers.iter();
        let failed = answers.filter_map(|answer| {
            Some(Failed {
                workload: format!("{}/{}", answer.namespace, answer.name),
                error: answer.error.clone()?,
            })
        });
        failed.collect()
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a service such as NAMESPACE/NAME or NAMESPACE/NAME:PORT".to_owned();
        let name = match text.rsplit_once(':') {
            None => text,
            Some((name, port)) => match port.parse() {
                Ok(1_u16..) => name,
                _ => return Err(wrong()),
            },
        };
        name.parse::<Workload>().map_err(|_| wrong())?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
