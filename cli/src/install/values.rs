//! What `--set` gives, and what it may be.
//!
//! Values go into YAML as they are, quoted or not as the chart has them: what would be read there as
//! anything but text is refused.

use std::fmt;

use serde_json::Value;
use weft_injector::settings::SYSTEM_NAMESPACES;
use weft_injector::values::{Image, is_label};
use weft_proto::names::{self, CONTROL_PLANE_IMAGE, CONTROL_PLANE_SERVICE_ACCOUNT, PROXY_IMAGE};
use weft_proto::spiffe::SpiffeId;

/// Where applications are that say nothing else: no place for a mesh that goes with its namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Namespace,
    Image,
    TrustDomain,
}

/// One `--set`: good by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: Key,
    value: String,
}

/// What a rendering is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Values {
    /// Where everything is that has a namespace.
    pub(super) namespace: String,
    /// What both images are under, as `registry.example:5000/mesh`; nothing where empty.
    pub(super) registry: String,
    /// The mesh's trust domain.
    pub(super) trust_domain: String,
}

/// A key was set twice.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--set {0} is there twice: say which one is meant")]
pub(super) struct SetTwice(Key);

impl Setting {
    /// Reads `KEY=VALUE`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let key = match key {
            "namespace" => Key::Namespace,
            "image" => Key::Image,
            "trustDomain" => Key::TrustDomain,
            _ => {
                return Err(
                    "only namespace, image and trustDomain can be set here; for every other value \
                     use helm with charts/weft"
                        .to_owned(),
                );
            }
        };
        if !text.contains('=') {
            return Err(format!("a value is missing: {key}=VALUE"));
        }
        match key {
            Key::Namespace => check_namespace(value)?,
            Key::Image => check_registry(value)?,
            Key::TrustDomain => check_trust_domain(value)?,
        }
        let value = value.to_owned();
        Ok(Self { key, value })
    }

    /// The same, of what no name of an object depends on but the namespace.
    pub(super) fn parse_namespace(text: &str) -> Result<Self, String> {
        let setting = Self::parse(text)?;
        if setting.key != Key::Namespace {
            return Err("nothing but namespace says what is deleted".to_owned());
        }
        Ok(setting)
    }
}

impl Values {
    /// What is set, and defaults for the rest.
    pub(super) fn new(settings: &[Setting]) -> Result<Self, SetTwice> {
        let mut values = Self::default();
        let mut set = Vec::new();
        for Setting { key, value } in settings {
            if set.contains(key) {
                return Err(SetTwice(*key));
            }
            set.push(*key);
            value.clone_into(match key {
                Key::Namespace => &mut values.namespace,
                Key::Image => &mut values.registry,
                Key::TrustDomain => &mut values.trust_domain,
            });
        }
        Ok(values)
    }
}

impl Default for Values {
    fn default() -> Self {
        Self {
            namespace: names::CONTROL_PLANE_NAMESPACE.to_owned(),
            registry: String::new(),
            trust_domain: names::DEFAULT_TRUST_DOMAIN.to_owned(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Image => "image",
            Self::TrustDomain => "trustDomain",
        })
    }
}

fn check_namespace(text: &str) -> Result<(), String> {
    if !is_label(text) {
        return Err(
            "a namespace is 1 to 63 of a to z, 0 to 9 and -, and neither begins nor ends with -"
                .to_owned(),
        );
    }
    if text == DEFAULT_NAMESPACE || SYSTEM_NAMESPACES.contains(&text) {
        return Err("the mesh needs a namespace of its own".to_owned());
    }
    check_is_text(text)
}

fn check_registry(text: &str) -> Result<(), String> {
    let images = [CONTROL_PLANE_IMAGE, PROXY_IMAGE].map(|image| format!("{text}/{image}"));
    let is_prefix = images.iter().all(|image| Image::parse(image).is_some());
    if !text.is_empty() && !is_prefix {
        return Err(format!(
            "what both images are under, as registry.example:5000/mesh of \
             registry.example:5000/mesh/{CONTROL_PLANE_IMAGE}: without tag and digest"
        ));
    }
    Ok(())
}

fn check_trust_domain(text: &str) -> Result<(), String> {
    let id = SpiffeId::new(
        text,
        names::CONTROL_PLANE_NAMESPACE,
        CONTROL_PLANE_SERVICE_ACCOUNT,
    );
    if id.is_err() {
        return Err("a trust domain is 1 to 255 of a to z, 0 to 9, ., - and _".to_owned());
    }
    check_is_text(text)
}

/// Whether YAML, as kubectl reads it, has plain text here and no number, boolean or nothing.
fn check_is_text(text: &str) -> Result<(), String> {
    let options = serde_saphyr::options! {
        strict_booleans: false,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let read = serde_saphyr::from_str_with_options::<Value>(text, options);
    let is_text = matches!(read, Ok(Value::String(read)) if read == text);
    // kubectl knows numbers and booleans that this reader takes for text.
    let is_other = ["0x", "0o", "0b"].iter().any(|it| text.starts_with(it));
    if !is_text || is_other || ["y", "n", "yes", "no", "on", "off"].contains(&text) {
        return Err("YAML may read it as something else than text".to_owned());
    }
    Ok(())
}
