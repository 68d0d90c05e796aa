//! Manifests as routes, or what is wrong with them.

mod filters;
mod matches;

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_proto::pattern::Pattern;

use super::filters::HeaderEdits;
use super::raw::{Manifest, RawBackend, RawParent, RawReference, RawRetry, RawRule};
use super::{
    BackendRef, ParentRef, Route, RouteBackend, RouteKind, RouteMatch, RoutePath, RouteRetry,
    RouteRule, is_core,
};
use crate::policy::{Metadata, Violation};

// The bounds of the API's own schema.
const MAX_PARENTS: usize = 32;
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_FILTERS: usize = 16;
const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_ATTEMPTS: u32 = 10;
/// Statuses that a redirect may have.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

impl Route {
    /// Reads a manifest of this kind.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(kind: RouteKind, manifest: &Value) -> Result<Self, Vec<Violation>> {
        let mut reader = Reader {
            kind,
            violations: Vec::new(),
        };
        let route = reader.route(manifest);
        match route {
            Some(route) if reader.violations.is_empty() => Ok(route),
            _ => Err(reader.violations),
        }
    }

    /// The Services that a manifest names as parents, as far as they can be read.
    pub fn read_parents(manifest: &Value) -> Vec<ParentRef> {
        let namespace = manifest.pointer("/metadata/namespace");
        let namespace = namespace.and_then(Value::as_str);
        let namespace = namespace.unwrap_or(crate::policy::DEFAULT_NAMESPACE);
        let parents = manifest.pointer("/spec/parentRefs");
        let parents = parents.and_then(Value::as_array);
        let parents = parents.into_iter().flatten();
        parents
            .filter_map(|written| {
                let raw = RawParent::deserialize(written).ok()?;
                parent(written, raw, namespace)
            })
            .collect()
    }
}

/// Gathers everything that is wrong.
struct Reader {
    kind: RouteKind,
    violations: Vec<Violation>,
}

impl Reader {
    fn route(&mut self, manifest: &Value) -> Option<Route> {
        let Manifest { metadata, spec } = self.typed("", manifest)?;
        let generation = metadata.get("generation").and_then(Value::as_i64);
        let metadata: Metadata = self.typed("metadata", &metadata)?;
        self.at_most("spec.parentRefs", spec.parent_refs.len(), MAX_PARENTS);
        let mut parents = Vec::new();
        for (at, written) in spec.parent_refs.iter().enumerate() {
            let raw = self.typed(&format!("spec.parentRefs[{at}]"), written);
            parents.extend(raw.and_then(|raw| parent(written, raw, &metadata.namespace)));
        }
        let mut rules = Vec::new();
        match (&spec.rules, self.kind) {
            (None, RouteKind::Http) => rules.push(RouteRule {
                matches: vec![RouteMatch::default()],
                ..RouteRule::default()
            }),
            (None, RouteKind::Grpc) => {}
            (Some(written), _) => {
                self.at_most("spec.rules", written.len(), MAX_RULES);
                let mut names = HashSet::new();
                for (at, rule) in written.iter().enumerate() {
                    let place = format!("spec.rules[{at}]");
                    let Some(rule) = self.rule(&place, rule, &metadata.namespace) else {
                        continue;
                    };
                    if let Some(name) = &rule.name
                        && !names.insert(name.clone())
                    {
                        self.refuse(&format!("{place}.name"), "another rule has this name");
                    }
                    rules.push(rule);
                }
            }
        }
        Some(Route {
            kind: self.kind,
            namespace: metadata.namespace,
            name: metadata.name,
            creation_timestamp: metadata.creation_timestamp,
            generation,
            parents,
            rules,
        })
    }

    fn rule(&mut self, place: &str, written: &Value, namespace: &str) -> Option<RouteRule> {
        let raw: RawRule = self.typed(place, written)?;
        self.at_most(&format!("{place}.matches"), raw.matches.len(), MAX_MATCHES);
        self.at_most(&format!("{place}.filters"), raw.filters.len(), MAX_FILTERS);
        let refs = format!("{place}.backendRefs");
        self.at_most(&refs, raw.backend_refs.len(), MAX_BACKENDS);

        let mut rule = RouteRule {
            name: raw.name,
            request_timeout: raw.timeouts.request,
            backend_timeout: raw.timeouts.backend_request,
            ..RouteRule::default()
        };
        for (at, entry) in raw.matches.iter().enumerate() {
            let place = format!("{place}.matches[{at}]");
            let entry = match self.kind {
                RouteKind::Http => self.http_match(&place, entry),
                RouteKind::Grpc => self.grpc_match(&place, entry),
            };
            rule.matches.extend(entry);
        }
        if raw.matches.is_empty() {
            rule.matches.push(match self.kind {
                RouteKind::Http => RouteMatch::default(),
                RouteKind::Grpc => matches::every_grpc(),
            });
        }
        for (at, filter) in raw.filters.into_iter().enumerate() {
            let place = format!("{place}.filters[{at}]");
            self.filter(&place, filter, namespace, &mut rule);
        }
        for (at, backend) in raw.backend_refs.into_iter().enumerate() {
            let place = format!("{refs}[{at}]");
            let backend = self.backend(&place, backend, namespace);
            rule.backends.push(backend);
        }
        if let Some(retry) = raw.retry {
            rule.retry = Some(self.retry(&format!("{place}.retry"), retry));
        }
        if raw.session_persistence.is_some() {
            rule.ignored.push(format!("{place}.sessionPersistence"));
        }
        self.together(place, &rule);
        Some(rule)
    }

    /// What parts of a rule ask of each other.
    fn together(&mut self, place: &str, rule: &RouteRule) {
        if let (Some(request), Some(backend)) = (rule.request_timeout, rule.backend_timeout)
            && !request.is_zero()
            && backend > request
        {
            let place = format!("{place}.timeouts.backendRequest");
            self.refuse(&place, "it cannot be longer than request");
        }
        let filters = &rule.filters;
        if filters.redirect.is_some() && filters.rewrite.is_some() {
            let why = "a rule cannot both redirect and rewrite";
            self.refuse(&format!("{place}.filters"), why);
        }
        if filters.redirect.is_some() && !rule.backends.is_empty() {
            let why = "what is redirected is sent to no backend";
            self.refuse(&format!("{place}.backendRefs"), why);
        }
        let is_prefix = |entry: &RouteMatch| matches!(entry.path, RoutePath::Prefix(_));
        if filters.edit_prefix() && !rule.matches.iter().all(is_prefix) {
            let why = "ReplacePrefixMatch needs matches of type PathPrefix";
            self.refuse(&format!("{place}.filters"), why);
        }
    }

    fn backend(&mut self, place: &str, raw: RawBackend, namespace: &str) -> RouteBackend {
        self.at_most(&format!("{place}.filters"), raw.filters.len(), MAX_FILTERS);
        let weight = raw.weight.unwrap_or(1);
        if weight > MAX_WEIGHT {
            self.refuse(&format!("{place}.weight"), "over 1000000");
        }
        let mut backend = RouteBackend {
            reference: self.reference(place, raw.reference, namespace),
            weight,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            unsupported: None,
        };
        for (at, filter) in raw.filters.into_iter().enumerate() {
            let place = format!("{place}.filters[{at}]");
            match (
                &*filter.kind,
                filter.request_header_modifier,
                filter.response_header_modifier,
            ) {
                ("RequestHeaderModifier", Some(edits), _) => {
                    backend.request_headers = self.edits(&place, edits);
                }
                ("ResponseHeaderModifier", _, Some(edits)) => {
                    backend.response_headers = self.edits(&place, edits);
                }
                ("RequestHeaderModifier" | "ResponseHeaderModifier", _, _) => {
                    self.refuse(&place, "what belongs to its type is missing");
                }
                (kind, _, _) => {
                    backend.unsupported = Some(format!("{place}: filter {kind} of a backend"));
                }
            }
        }
        backend
    }

    fn reference(&mut self, place: &str, raw: RawReference, namespace: &str) -> BackendRef {
        let reference = BackendRef {
            group: raw.group,
            kind: raw.kind,
            namespace: raw.namespace.unwrap_or_else(|| namespace.to_owned()),
            name: raw.name,
            port: raw.port,
        };
        if reference.is_service() && reference.port.is_none_or(|port| port == 0) {
            self.refuse(&format!("{place}.port"), "a Service needs its port");
        }
        reference
    }

    fn retry(&mut self, place: &str, retry: RawRetry) -> RouteRetry {
        if !retry.codes.iter().all(|code| (400..=599).contains(code)) {
            self.refuse(&format!("{place}.codes"), "not from 400 to 599");
        }
        if retry
            .attempts
            .is_some_and(|attempts| attempts > MAX_ATTEMPTS)
        {
            self.refuse(&format!("{place}.attempts"), "over 10");
        }
        RouteRetry {
            codes: retry.codes,
            attempts: retry.attempts,
            backoff: retry.backoff.filter(|backoff| !backoff.is_zero()),
        }
    }

    fn header_name(&mut self, place: &str, name: &str) {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token) {
            self.refuse(place, "not the name of a header");
        }
    }

    fn header_value(&mut self, place: &str, value: &str) {
        let fits = |b: u8| b == b'\t' || (b >= b' ' && b != 0x7f);
        if value.len() > 4096 || !value.bytes().all(fits) {
            self.refuse(place, "not the value of a header");
        }
    }

    fn pattern(&mut self, place: &str, text: &str) {
        if let Err(why) = Pattern::new(text) {
            self.refuse(place, &why.to_string());
        }
    }

    fn at_most(&mut self, place: &str, count: usize, most: usize) {
        if count > most {
            self.refuse(place, &format!("{count} entries, where {most} may be"));
        }
    }

    fn typed<T: DeserializeOwned>(&mut self, place: &str, value: &Value) -> Option<T> {
        match T::deserialize(value) {
            Ok(typed) => Some(typed),
            Err(error) => {
                self.refuse(place, &error.to_string());
                None
            }
        }
    }

    fn refuse(&mut self, place: &str, why: &str) {
        self.violations.push(Violation {
            path: place.to_owned(),
            reason: why.to_owned(),
            mend: String::new(),
        });
    }
}

/// `None` where it is no Service.
fn parent(written: &Value, raw: RawParent, namespace: &str) -> Option<ParentRef> {
    if !is_core(&raw.group) || raw.kind != "Service" {
        return None;
    }
    Some(ParentRef {
        written: written.clone(),
        namespace: raw.namespace.unwrap_or_else(|| namespace.to_owned()),
        name: raw.name,
        port: raw.port,
        section_name: raw.section_name,
    })
}

/// Whether a text can stand in a URL's path: visible ASCII that neither ends it nor is no part of it.
fn is_path(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b);
    text.len() <= 1024 && text.bytes().all(fits) && (text.is_empty() || text.starts_with('/'))
}
