//! Whose a certificate is.

use rustls_pki_types::CertificateDer;
use weft_proxy::identity::verify::spiffe_id;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

/// An id is found only where another parser finds the same one and no other URI beside it.
pub fn target(data: &[u8]) {
    let certificate = CertificateDer::from(data);
    let id = match spiffe_id(&certificate) {
        Ok(id) => id,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    // The other parser is stricter here and there: what it cannot read it cannot say anything about.
    let Ok((rest, other)) = X509Certificate::from_der(data) else {
        return;
    };
    assert!(rest.is_empty(), "bytes behind a certificate");
    let mut uris = Vec::new();
    let mut is_read = false;
    for extension in other.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            is_read = true;
            uris.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            }));
        }
    }
    assert!(!is_read || uris == [id.as_str()], "{id} is {uris:?}");
}
