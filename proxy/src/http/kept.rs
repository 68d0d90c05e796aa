//! A request's head, kept for the case that it must be sent once more.
//!
//! The library takes heads away and gives those back that it never touched, but not one that a server
//! leaves out by GOAWAY, or whose connection broke. Nearly every head is kept for nothing, so it is kept
//! as cheaply as can be: its fields side by side, without the index that a map of them needs. That
//! halves what a clone costs; the map is built anew where it is needed.

use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

/// What a request without its body is made of.
#[derive(Debug)]
pub(crate) struct KeptHead {
    method: Method,
    uri: Uri,
    version: Version,
    /// In the map's order; those of one name stand together.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
}

impl KeptHead {
    /// Keeps `head`, which may go.
    pub(crate) fn of(head: &Parts) -> Self {
        let headers = head.headers.iter();
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            extensions: head.extensions.clone(),
        }
    }

    /// The same request again, with this body.
    pub(crate) fn request<B>(&self, body: B) -> Request<B> {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = headers;
        *request.extensions_mut() = self.extensions.clone();
        request
    }
}

#[cfg(test)]
mod tests;
