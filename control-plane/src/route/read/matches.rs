//! Which requests a rule is for.

use std::collections::HashSet;

use serde_json::Value;

use super::super::raw::{
    RawGrpcMatch, RawGrpcMethod, RawHttpMatch, RawNamed, RawPath, RawPathType, RawType,
};
use super::super::{RouteMatch, RoutePath, RouteQuery};
use super::Reader;
use crate::policy::{HeaderMatch, HeaderMatchType};

impl Reader {
    pub(super) fn http_match(&mut self, place: &str, written: &Value) -> Option<RouteMatch> {
        let raw: RawHttpMatch = self.typed(place, written)?;
        let path = match raw.path {
            None => RoutePath::default(),
            Some(path) => self.path(&format!("{place}.path"), path),
        };
        let query = self.once(&format!("{place}.queryParams"), raw.query_params, false);
        Some(RouteMatch {
            path,
            method: raw.method,
            headers: self.headers(place, raw.headers),
            query: query
                .into_iter()
                .map(|param| RouteQuery {
                    name: param.name,
                    value: param.value,
                    regex: param.kind == RawType::RegularExpression,
                })
                .collect(),
        })
    }

    fn path(&mut self, place: &str, path: RawPath) -> RoutePath {
        let value = path.value;
        if let RawPathType::RegularExpression = path.kind {
            self.pattern(place, &value);
            return RoutePath::Regex(value);
        }
        if !value.starts_with('/') {
            self.refuse(&format!("{place}.value"), "it must begin with /");
        }
        match path.kind {
            RawPathType::Exact => RoutePath::Exact(value),
            _ => RoutePath::Prefix(value),
        }
    }

    pub(super) fn grpc_match(&mut self, place: &str, written: &Value) -> Option<RouteMatch> {
        let raw: RawGrpcMatch = self.typed(place, written)?;
        let mut entry = every_grpc();
        if let Some(RawGrpcMethod {
            kind,
            service,
            method,
        }) = raw.method
        {
            let place = format!("{place}.method");
            let regex = kind == RawType::RegularExpression;
            for part in [&service, &method].into_iter().flatten() {
                if regex {
                    self.pattern(&place, part);
                } else if part.is_empty() || part.contains(['/', ' ']) {
                    self.refuse(&place, "not the name of a gRPC service or method");
                }
            }
            if service.is_none() && method.is_none() {
                self.refuse(&place, "service or method is required");
            }
            entry.path = RoutePath::Grpc {
                service,
                method,
                regex,
            };
        }
        entry.headers = self.headers(place, raw.headers);
        Some(entry)
    }

    fn headers(&mut self, place: &str, headers: Vec<RawNamed>) -> Vec<HeaderMatch> {
        let place = format!("{place}.headers");
        let headers = self.once(&place, headers, true);
        let headers = headers.into_iter();
        headers
            .map(|header| {
                self.header_name(&place, &header.name);
                self.header_value(&place, &header.value);
                HeaderMatch {
                    name: header.name,
                    kind: match header.kind {
                        RawType::Exact => HeaderMatchType::Exact,
                        RawType::RegularExpression => HeaderMatchType::RegularExpression,
                    },
                    value: Some(header.value),
                }
            })
            .collect()
    }

    /// Of several entries of one name, the first: the others have to be ignored.
    fn once(&mut self, place: &str, entries: Vec<RawNamed>, any_case: bool) -> Vec<RawNamed> {
        let mut names = HashSet::new();
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.name.is_empty() {
                self.refuse(place, "an entry without a name");
            }
            if entry.kind == RawType::RegularExpression {
                self.pattern(place, &entry.value);
            }
            let name = if any_case {
                entry.name.to_ascii_lowercase()
            } else {
                entry.name.clone()
            };
            if names.insert(name) {
                kept.push(entry);
            }
        }
        kept
    }
}

pub(super) fn every_grpc() -> RouteMatch {
    RouteMatch {
        path: RoutePath::Grpc {
            service: None,
            method: None,
            regex: false,
        },
        ..RouteMatch::default()
    }
}
