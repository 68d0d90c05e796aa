//! Filters of a rule or of a backend.

use weft_proto::names::headers;

use super::super::filters::{HeaderEdits, Mirror, PathEdit, Redirect, Rewrite};
use super::super::raw::{RawEdits, RawFilter, RawHeader, RawMirror, RawPathEdit, RawRedirect};
use super::super::{RouteKind, RouteRule};
use super::{REDIRECTS, Reader, is_path};

impl Reader {
    pub(super) fn filter(
        &mut self,
        place: &str,
        filter: RawFilter,
        namespace: &str,
        rule: &mut RouteRule,
    ) {
        let mut missing = false;
        match (&*filter.kind, self.kind) {
            ("RequestHeaderModifier", _) => match filter.request_header_modifier {
                Some(edits) if rule.filters.request_headers.is_empty() => {
                    rule.filters.request_headers = self.edits(place, edits);
                }
                given => missing = self.twice_or_missing(place, given.is_some()),
            },
            ("ResponseHeaderModifier", _) => match filter.response_header_modifier {
                Some(edits) if rule.filters.response_headers.is_empty() => {
                    rule.filters.response_headers = self.edits(place, edits);
                }
                given => missing = self.twice_or_missing(place, given.is_some()),
            },
            ("RequestRedirect", RouteKind::Http) => match filter.request_redirect {
                Some(redirect) if rule.filters.redirect.is_none() => {
                    rule.filters.redirect = Some(self.redirect(place, redirect));
                }
                given => missing = self.twice_or_missing(place, given.is_some()),
            },
            ("URLRewrite", RouteKind::Http) => match filter.url_rewrite {
                Some(rewrite) if rule.filters.rewrite.is_none() => {
                    rule.filters.rewrite = Some(Rewrite {
                        hostname: self.hostname(place, rewrite.hostname),
                        path: rewrite.path.and_then(|path| self.path_edit(place, path)),
                    });
                }
                given => missing = self.twice_or_missing(place, given.is_some()),
            },
            ("RequestMirror", _) => match filter.request_mirror {
                Some(mirror) if rule.filters.mirror.is_none() => {
                    rule.filters.mirror = self.mirror(place, mirror, namespace);
                }
                Some(_) => rule
                    .unsupported
                    .push(format!("{place}: a second RequestMirror")),
                None => missing = true,
            },
            (kind, _) => rule.unsupported.push(format!("{place}: filter {kind}")),
        }
        if missing {
            self.refuse(place, "what belongs to its type is missing");
        }
    }

    /// Whether the content of a filter is missing; else the filter is there twice, which is refused.
    fn twice_or_missing(&mut self, place: &str, given: bool) -> bool {
        if given {
            self.refuse(place, "a rule has at most one filter of this type");
        }
        !given
    }

    pub(super) fn edits(&mut self, place: &str, edits: RawEdits) -> HeaderEdits {
        let mut read = |headers: Vec<RawHeader>| {
            let headers = headers.into_iter();
            headers
                .map(|header| {
                    self.editable(place, &header.name);
                    self.header_value(place, &header.value);
                    (header.name.to_ascii_lowercase(), header.value)
                })
                .collect()
        };
        let (set, add) = (read(edits.set), read(edits.add));
        let remove = edits.remove.into_iter();
        HeaderEdits {
            set,
            add,
            remove: remove
                .map(|name| {
                    self.editable(place, &name);
                    name.to_ascii_lowercase()
                })
                .collect(),
        }
    }

    fn redirect(&mut self, place: &str, redirect: RawRedirect) -> Redirect {
        let place = format!("{place}.requestRedirect");
        if let Some(scheme) = &redirect.scheme
            && !matches!(&**scheme, "http" | "https")
        {
            self.refuse(&format!("{place}.scheme"), "neither http nor https");
        }
        if redirect.port == Some(0) {
            self.refuse(&format!("{place}.port"), "not from 1 to 65535");
        }
        let status = redirect.status_code.unwrap_or(302);
        if !REDIRECTS.contains(&status) {
            let why = "not one of 301, 302, 303, 307 and 308";
            self.refuse(&format!("{place}.statusCode"), why);
        }
        Redirect {
            scheme: redirect.scheme,
            hostname: self.hostname(&place, redirect.hostname),
            path: redirect.path.and_then(|path| self.path_edit(&place, path)),
            port: redirect.port,
            status,
        }
    }

    fn path_edit(&mut self, place: &str, path: RawPathEdit) -> Option<PathEdit> {
        let place = format!("{place}.path");
        let edit = match (
            &*path.kind,
            path.replace_full_path,
            path.replace_prefix_match,
        ) {
            ("ReplaceFullPath", Some(full), None) => PathEdit::Full(full),
            ("ReplacePrefixMatch", None, Some(prefix)) => PathEdit::Prefix(prefix),
            _ => {
                self.refuse(&place, "its type and what is given do not fit");
                return None;
            }
        };
        let (PathEdit::Full(text) | PathEdit::Prefix(text)) = &edit;
        if !is_path(text) {
            self.refuse(&place, "not a path");
        }
        Some(edit)
    }

    fn hostname(&mut self, place: &str, hostname: Option<String>) -> Option<String> {
        let hostname = hostname.filter(|name| !name.is_empty())?;
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if hostname.len() > 253 || !hostname.bytes().all(letters) {
            self.refuse(&format!("{place}.hostname"), "not a host name");
        }
        Some(hostname)
    }

    fn mirror(&mut self, place: &str, mirror: RawMirror, namespace: &str) -> Option<Mirror> {
        let place = format!("{place}.requestMirror");
        let reference = self.reference(&place, mirror.backend_ref, namespace);
        let (share, out_of) = match (mirror.percent, mirror.fraction) {
            (Some(_), Some(_)) => {
                self.refuse(&place, "percent and fraction exclude each other");
                return None;
            }
            (percent, None) => (percent.unwrap_or(100), 100),
            (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        };
        if out_of == 0 || share > out_of {
            self.refuse(&place, "a share that is not from 0 to 1");
            return None;
        }
        Some(Mirror {
            reference,
            share,
            out_of,
        })
    }

    fn editable(&mut self, place: &str, name: &str) {
        self.header_name(place, name);
        let name = name.to_ascii_lowercase();
        let ours = name.starts_with(headers::PREFIX);
        if ours || headers::UNTOUCHABLE.contains(&&*name) {
            let why = format!("{name} is not for filters to change");
            self.refuse(place, &why);
        }
    }
}
