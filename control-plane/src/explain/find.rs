//! Services and workloads by the names that people type.

use crate::index::{Model, Name, Service, ServicePort, Workload};
use crate::policy::DEFAULT_NAMESPACE;

/// Names that are offered in the place of one that is not there.
const MAX_NEAR: usize = 3;
/// Names further away than so many letters are not offered.
const MAX_DISTANCE: usize = 3;

/// Nothing is called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No such object.
    #[error("there is no {kind} {name}{}", near_words(.near))]
    Missing {
        /// `service` or `workload`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// Names that it may have meant.
        near: Vec<String>,
    },
    /// Several namespaces have it.
    #[error("{kind} {name} is in several namespaces: {}; say which one with -n", .namespaces.join(", "))]
    Ambiguous {
        /// `service` or `workload`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// Who has it.
        namespaces: Vec<String>,
    },
    /// The service has no such port.
    #[error("service {service} has no port {port}; it has {}", if .ports.is_empty() { "none".to_owned() } else { .ports.join(", ") })]
    NoPort {
        /// The service.
        service: String,
        /// What was asked for.
        port: String,
        /// Its ports, by number and name.
        ports: Vec<String>,
    },
}

/// The service and its ports: all of them, or the one that `port` is the number or the name of.
/// Without a namespace it is the default one's, else that of the only namespace that has it.
pub fn find_service<'a>(
    model: &'a Model,
    namespace: Option<&str>,
    name: &str,
    port: Option<&str>,
) -> Result<(&'a Service, Vec<&'a ServicePort>), FindError> {
    let names: Vec<_> = model.services().map(|service| &service.name).collect();
    let found = resolve("service", &names, namespace, name)?;
    let service = model
        .service(&found.namespace, &found.name)
        .expect("its name is one of the model's");
    let Some(wanted) = port else {
        return Ok((service, service.ports.iter().collect()));
    };
    let is_wanted = |port: &&ServicePort| port.name == wanted || port.port.to_string() == wanted;
    match service.ports.iter().find(is_wanted) {
        Some(port) => Ok((service, vec![port])),
        None => Err(FindError::NoPort {
            service: service.name.to_string(),
            port: wanted.to_owned(),
            ports: service.ports.iter().map(named).collect(),
        }),
    }
}

/// The workload, by the same rules.
pub fn find_workload<'a>(
    model: &'a Model,
    namespace: Option<&str>,
    name: &str,
) -> Result<&'a Workload, FindError> {
    let names: Vec<_> = model.workloads().map(|workload| &workload.name).collect();
    let found = resolve("workload", &names, namespace, name)?;
    let workload = model.workload(&found.namespace, &found.name);
    Ok(workload.expect("its name is one of the model's"))
}

fn resolve<'a>(
    kind: &'static str,
    names: &[&'a Name],
    namespace: Option<&str>,
    name: &str,
) -> Result<&'a Name, FindError> {
    let wanted = |of: &str| {
        let mut names = names.iter();
        names.find(|known| known.namespace == of && known.name == name)
    };
    let asked = match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    if let Some(found) = wanted(namespace.unwrap_or(DEFAULT_NAMESPACE)) {
        return Ok(found);
    }
    let same: Vec<_> = names.iter().filter(|known| known.name == name).collect();
    match same[..] {
        [only] if namespace.is_none() => Ok(only),
        [_, _, ..] if namespace.is_none() => Err(FindError::Ambiguous {
            kind,
            name: asked,
            namespaces: same.iter().map(|known| known.namespace.clone()).collect(),
        }),
        _ => Err(FindError::Missing {
            kind,
            name: asked,
            near: near(names, name),
        }),
    }
}

/// The nearest names first.
fn near(names: &[&Name], name: &str) -> Vec<String> {
    let mut near: Vec<_> = names
        .iter()
        .map(|known| (distance(&known.name, name), known))
        .filter(|(distance, known)| *distance <= MAX_DISTANCE || known.name.contains(name))
        .collect();
    near.sort();
    near.truncate(MAX_NEAR);
    near.into_iter()
        .map(|(_, known)| known.to_string())
        .collect()
}

/// How many letters have to be put in, taken out or changed.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, known) in other.iter().enumerate() {
            let changed = diagonal + usize::from(*known != letter);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

fn near_words(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; did you mean {}?", near.join(" or ")),
    }
}

fn named(port: &ServicePort) -> String {
    match &*port.name {
        "" => port.port.to_string(),
        name => format!("{} ({name})", port.port),
    }
}
