//! What requests are refused for.

use std::fmt;

use http::StatusCode;

use crate::bounds::HeadExcess;
use crate::outcome::{Failure, Outcome};

/// Why a request is refused (RFC 9112 unless said otherwise).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Violation {
    /// A line that ends in LF alone (2.2 allows readers to take it; two readers may differ).
    BareLineFeed,
    /// CR without LF (2.2).
    BareCarriageReturn,
    /// NUL or another control character (RFC 9110, 5.5).
    ControlCharacter,
    /// The first line is not a method, a target and a version with one space between (3).
    RequestLine,
    /// A target that the method cannot have, or that is no URI (3.2).
    Target,
    /// Neither HTTP/1.0 nor HTTP/1.1 (2.3).
    Version,
    /// A field over several lines (5.2).
    FoldedLine,
    /// White space between a field's name and its colon (5.1).
    SpaceBeforeColon,
    /// A field without colon, or whose name is no token (5.1).
    FieldName,
    /// A content-length that is not one decimal number (6.3).
    ContentLength,
    /// More than one content-length, equal or not (6.3).
    RepeatedContentLength,
    /// A content-length beside a transfer-encoding (6.1).
    LengthAndCoding,
    /// A transfer-encoding in an HTTP/1.0 request (6.1).
    CodingInHttp10,
    /// A CONNECT with a body: to some readers it is one, to others what the tunnel begins with (RFC 9110,
    /// 9.3.6).
    BodyOfConnect,
    /// More than one transfer-encoding (7.1: chunked is applied once).
    RepeatedCoding,
    /// A transfer coding other than chunked (6.1).
    UnknownCoding,
    /// More fields than a request may have (RFC 6585, 5).
    TooManyFields,
    /// A head of more bytes than it may have (RFC 6585, 5).
    HeadTooLarge,
    /// A head that is not whole in its time (RFC 9110, 15.5.9). Time shows it, not bytes.
    HeadTimeout,
    /// A chunk that is none (7.1).
    Chunk,
    /// A chunk whose size is beyond every number (7.1).
    ChunkSize,
}

impl Violation {
    /// All that bytes show, for tests.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 20] = [
        Self::BareLineFeed,
        Self::BareCarriageReturn,
        Self::ControlCharacter,
        Self::RequestLine,
        Self::Target,
        Self::Version,
        Self::FoldedLine,
        Self::SpaceBeforeColon,
        Self::FieldName,
        Self::ContentLength,
        Self::RepeatedContentLength,
        Self::LengthAndCoding,
        Self::CodingInHttp10,
        Self::BodyOfConnect,
        Self::RepeatedCoding,
        Self::UnknownCoding,
        Self::TooManyFields,
        Self::HeadTooLarge,
        Self::Chunk,
        Self::ChunkSize,
    ];

    /// For people.
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Self::BareLineFeed => "a line ends without CR",
            Self::BareCarriageReturn => "a CR without LF",
            Self::ControlCharacter => "a control character in the head",
            Self::RequestLine => "not a request line",
            Self::Target => "not a request target",
            Self::Version => "not HTTP/1.0 or HTTP/1.1",
            Self::FoldedLine => "a header over several lines",
            Self::SpaceBeforeColon => "white space before a header's colon",
            Self::FieldName => "not a header name",
            Self::ContentLength => "not a content-length",
            Self::RepeatedContentLength => "more than one content-length",
            Self::LengthAndCoding => "content-length and transfer-encoding",
            Self::CodingInHttp10 => "transfer-encoding in HTTP/1.0",
            Self::BodyOfConnect => "a CONNECT with a body",
            Self::RepeatedCoding => "more than one transfer-encoding",
            Self::UnknownCoding => "a transfer-encoding other than chunked",
            Self::TooManyFields => HeadExcess::Fields.detail(),
            Self::HeadTooLarge => HeadExcess::Bytes.detail(),
            Self::HeadTimeout => "the head was not whole in time",
            Self::Chunk => "not a chunk",
            Self::ChunkSize => "a chunk's size is too big for a number",
        }
    }

    /// The status of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::TooManyFields | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The bound that it is over, if it is one.
    pub(crate) const fn excess(self) -> Option<HeadExcess> {
        match self {
            Self::TooManyFields => Some(HeadExcess::Fields),
            Self::HeadTooLarge => Some(HeadExcess::Bytes),
            _ => None,
        }
    }

    /// As the rest of the data path says it.
    pub(crate) fn failure(self) -> Failure {
        Failure::never(Outcome::BadRequest, self.detail()).with_status(self.status())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for Violation {}
