//! What is asked: a service, a workload, sample requests.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};

/// What gRPC requests say about their body.
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// What cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error(
        "{0:?} names no service: write service/NAME, service/NAME:PORT or service/NAMESPACE/NAME"
    )]
    Subject(String),
    #[error("{0:?} names no workload: write NAME or NAMESPACE/NAME")]
    Workload(String),
    #[error("{0:?} is no request: write 'METHOD /path', as 'GET /cart?id=1'")]
    Request(String),
    #[error("{0:?} is no header: write 'name: value'")]
    Header(String),
    #[error("{name:?} is in namespace {named}, and -n says {asked}")]
    Namespace {
        name: String,
        named: String,
        asked: String,
    },
}

/// A name, with its namespace and its port where they are said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) port: Option<String>,
}

impl Subject {
    /// Reads `service/[NAMESPACE/]NAME[:PORT]`.
    pub(super) fn service(text: &str, asked: Option<&str>) -> Result<Self, AskError> {
        let refused = || AskError::Subject(text.to_owned());
        let (kind, rest) = text.split_once('/').ok_or_else(refused)?;
        let is_service = ["service", "services", "svc"].contains(&kind);
        let subject = is_service.then(|| Self::read(rest)).flatten();
        subject.ok_or_else(refused)?.within(text, asked)
    }

    /// Reads `[NAMESPACE/]NAME`.
    pub(super) fn workload(text: &str, asked: Option<&str>) -> Result<Self, AskError> {
        let subject = Self::read(text).filter(|subject| subject.port.is_none());
        let refused = || AskError::Workload(text.to_owned());
        // A workload may be of another namespace than the service that -n speaks of.
        let mut subject = subject.ok_or_else(refused)?;
        if subject.namespace.is_none() {
            subject.namespace = asked.map(str::to_owned);
        }
        Ok(subject)
    }

    fn read(text: &str) -> Option<Self> {
        let (text, port) = match text.split_once(':') {
            Some((text, port)) => (text, Some(port)),
            None => (text, None),
        };
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let is_word = |word: &str| !word.is_empty() && !word.contains(['/', ':', ' ']);
        let good = is_word(name) && namespace.is_none_or(is_word) && port.is_none_or(is_word);
        good.then(|| Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            port: port.map(str::to_owned),
        })
    }

    fn within(mut self, text: &str, asked: Option<&str>) -> Result<Self, AskError> {
        match (&self.namespace, asked) {
            (Some(named), Some(asked)) if named != asked => Err(AskError::Namespace {
                name: text.to_owned(),
                named: named.clone(),
                asked: asked.to_owned(),
            }),
            (None, Some(asked)) => {
                self.namespace = Some(asked.to_owned());
                Ok(self)
            }
            _ => Ok(self),
        }
    }
}

/// A sample request, without its body. A gRPC request may leave its method out.
pub(super) fn request(text: &str, headers: &[String], grpc: bool) -> Result<Request<()>, AskError> {
    let refused = || AskError::Request(text.to_owned());
    let (method, target) = match text.trim().split_once(char::is_whitespace) {
        Some((method, target)) => (method, target.trim()),
        None if grpc => ("POST", text.trim()),
        None => return Err(refused()),
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| refused())?;
    let is_path = target.starts_with('/') || (target == "*" && method == Method::OPTIONS);
    if !is_path || target.contains(char::is_whitespace) {
        return Err(refused());
    }
    let uri: Uri = target.parse().map_err(|_| refused())?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = self::headers(headers)?;
    if grpc && !request.headers().contains_key(CONTENT_TYPE) {
        request.headers_mut().insert(CONTENT_TYPE, GRPC);
    }
    Ok(request)
}

fn headers(lines: &[String]) -> Result<HeaderMap, AskError> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let refused = || AskError::Header(line.clone());
        let (name, value) = line.split_once(':').ok_or_else(refused)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| refused())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| refused())?;
        headers.append(name, value);
    }
    Ok(headers)
}
