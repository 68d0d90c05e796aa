//! What a namespace and a pod say about their sidecars: `config.weft.dev/*`.
//!
//! The pod's word goes over its namespace's, which goes over the settings. All that is wrong is told
//! at once. A key that is none of [`KEYS`] changes nothing and is a warning, so that a manifest of a
//! newer version works with an older one.

use std::fmt::Write as _;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use weft_proto::header_label;
use weft_proto::names::CONFIG_ANNOTATION_PREFIX;

use crate::settings::{Resources, Settings};
use crate::values::{self, Image, MAX_DRAIN, Quantity};
use crate::{Refusal, json};

/// The longest pre-stop sleep that can be asked for.
const MAX_SLEEP: Duration = Duration::from_secs(3_600);
/// Letters of a bad value that are shown.
const MAX_SHOWN: usize = 80;

/// What holds for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Image of both containers.
    pub image: Image,
    /// What the sidecar asks for and may use.
    pub resources: Resources,
    /// How much the sidecar logs.
    pub log_level: String,
    /// A further label of the sidecar's request metrics, as its variable has it.
    pub metrics_header_label: Option<String>,
    /// How many values of that label have series of their own.
    pub metrics_header_values: Option<usize>,
    /// Whether the sidecar adds clients' addresses to `x-forwarded-for`.
    pub appends_forwarded_for: bool,
    /// Ports of the application that are reached directly.
    pub skip_inbound_ports: Vec<u16>,
    /// Ports to which the application connects directly.
    pub skip_outbound_ports: Vec<u16>,
    /// Where the application connects to directly: the settings' and its own.
    pub skip_subnets: Vec<IpNet>,
    /// The longest time from SIGTERM to the sidecar's end; `None` to follow the grace period.
    pub drain_timeout: Option<Duration>,
    /// How long the application's end is held up, in whole seconds.
    pub pre_stop_sleep: Option<Duration>,
}

/// One annotation.
#[derive(Debug)]
pub struct Key {
    /// Its name behind the prefix.
    pub name: &'static str,
    /// What it takes.
    pub takes: &'static str,
    /// What it is for, and what holds without it.
    pub meaning: &'static str,
    /// Puts a value in its place; `None` where it is not understood.
    set: fn(&mut Config, &str) -> Option<()>,
}

const QUANTITY: &str = "an amount such as `100m`, `1.5` or `64Mi`";
const PORTS: &str = "ports from 1 to 65535, separated by commas, at most 64";

/// Every annotation that there is.
pub const KEYS: [Key; 14] = [
    Key {
        name: "proxy-cpu-request",
        takes: QUANTITY,
        meaning: "CPU that is always there for the sidecar; `100m`",
        set: |config, text| {
            config.resources.cpu_request = Some(Quantity::parse(text)?);
            Some(())
        },
    },
    Key {
        name: "proxy-cpu-limit",
        takes: QUANTITY,
        meaning: "CPU beyond which it is slowed down; no limit, and one worker thread. With one it has as many as whole CPUs, rounded up",
        set: |config, text| {
            config.resources.cpu_limit = Some(Quantity::parse(text)?);
            Some(())
        },
    },
    Key {
        name: "proxy-memory-request",
        takes: QUANTITY,
        meaning: "memory that is always there for the sidecar; `32Mi`",
        set: |config, text| {
            config.resources.memory_request = Some(Quantity::parse(text)?);
            Some(())
        },
    },
    Key {
        name: "proxy-memory-limit",
        takes: QUANTITY,
        meaning: "memory beyond which it is killed; `256Mi`",
        set: |config, text| {
            config.resources.memory_limit = Some(Quantity::parse(text)?);
            Some(())
        },
    },
    Key {
        name: "skip-inbound-ports",
        takes: PORTS,
        meaning: "ports of the application that clients reach directly: without mutual TLS, policy and metrics; none",
        set: |config, text| {
            config.skip_inbound_ports = values::list(text, values::port)?;
            Some(())
        },
    },
    Key {
        name: "skip-outbound-ports",
        takes: PORTS,
        meaning: "ports to which the application connects directly, wherever they are; none",
        set: |config, text| {
            config.skip_outbound_ports = values::list(text, values::port)?;
            Some(())
        },
    },
    Key {
        name: "skip-subnets",
        takes: "addresses and subnets such as `10.0.0.0/8`, separated by commas, at most 64",
        meaning: "where the application connects to directly; none",
        set: |config, text| {
            for subnet in values::list(text, values::subnet)? {
                if !config.skip_subnets.contains(&subnet) {
                    config.skip_subnets.push(subnet);
                }
            }
            (config.skip_subnets.len() <= values::MAX_ENTRIES).then_some(())
        },
    },
    Key {
        name: "log-level",
        takes: "`error`, `warn`, `info`, `debug` or `trace`",
        meaning: "how much the sidecar logs; `info`",
        set: |config, text| {
            values::log_level(text)?.clone_into(&mut config.log_level);
            Some(())
        },
    },
    Key {
        name: "metrics-header-label",
        takes: "`LABEL=HEADER`, as `tenant=x-tenant-id`: a label that metrics do not have, a header without secrets",
        meaning: "a further [label](metrics.md#a-label-from-a-header) of `weft_requests_total`; none",
        set: |config, text| {
            header_label::parse(text)?;
            config.metrics_header_label = Some(text.to_owned());
            Some(())
        },
    },
    Key {
        name: "metrics-header-values",
        takes: "a number from 1 to 500",
        meaning: "how many values of that label have series of their own, the first that come; `50`",
        set: |config, text| {
            config.metrics_header_values = Some(header_label::parse_values(text)?);
            Some(())
        },
    },
    Key {
        name: "forwarded-for",
        takes: "`append` or `keep`",
        meaning: "whether the sidecar adds the client's address to `x-forwarded-for` of requests to the application; `keep`",
        set: |config, text| {
            config.appends_forwarded_for = values::one_of(text, &["append", "keep"])? == "append";
            Some(())
        },
    },
    Key {
        name: "proxy-image",
        takes: "an image's name, with tag or digest or both",
        meaning: "image of the sidecar and its init container; that of the mesh",
        set: |config, text| {
            config.image = Image::parse(text)?;
            Some(())
        },
    },
    Key {
        name: "drain-timeout",
        takes: "a time up to `1h`, as `500ms`, `30s` or `2m`",
        meaning: "the longest time that the sidecar takes to end; a little less than the pod's `terminationGracePeriodSeconds`",
        set: |config, text| {
            config.drain_timeout = Some(values::time(text).filter(|time| *time <= MAX_DRAIN)?);
            Some(())
        },
    },
    Key {
        name: "pre-stop-sleep",
        takes: "a time of whole seconds up to `1h`, as `5s`",
        meaning: "holds up the end of the application's containers, for those that close their listener at once: a `preStop` sleep (Kubernetes 1.30) for every one that has no `preStop`; none",
        set: |config, text| {
            let fits =
                |time: &Duration| time.subsec_nanos() == 0 && !time.is_zero() && *time <= MAX_SLEEP;
            config.pre_stop_sleep = Some(values::time(text).filter(fits)?);
            Some(())
        },
    },
];

/// What holds for `pod` in a namespace with `annotations`, and warnings; or all that is wrong.
pub fn read<'a>(
    settings: &Settings,
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
    pod: &'a Value,
) -> Result<(Config, Vec<String>), Vec<Refusal>> {
    let mut config = Config {
        image: settings.image.clone(),
        resources: settings.resources.clone(),
        log_level: settings.log_level.clone(),
        metrics_header_label: None,
        metrics_header_values: None,
        appends_forwarded_for: false,
        skip_inbound_ports: Vec::new(),
        skip_outbound_ports: Vec::new(),
        skip_subnets: settings.skip_subnets.clone(),
        drain_timeout: None,
        pre_stop_sleep: None,
    };
    let mut wrong = Vec::new();
    let mut warnings = Vec::new();
    let of_pod: Vec<_> = ours(json::texts(pod, "/metadata/annotations")).collect();
    let is_replaced = |key: &str| of_pod.iter().any(|(other, _)| *other == key);
    let of_namespace = ours(annotations).filter(|(key, _)| !is_replaced(key));
    let all = of_namespace
        .map(|(key, value)| (key, value, "namespace"))
        .chain(of_pod.iter().map(|(key, value)| (*key, *value, "pod")));
    for (name, value, whose) in all {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            warnings.push(format!(
                "annotation {CONFIG_ANNOTATION_PREFIX}{name} of the {whose} is not known and \
                 changes nothing; known are {}",
                KEYS.map(|key| key.name).join(", ")
            ));
            continue;
        };
        if (key.set)(&mut config, value.trim()).is_none() {
            let shown: String = value.chars().take(MAX_SHOWN).collect();
            wrong.push(Refusal::new(
                format!("annotation {CONFIG_ANNOTATION_PREFIX}{name} of the {whose} is {shown:?}"),
                format!("give {}", key.takes.replace('`', "")),
            ));
        }
    }
    wrong.extend(unbalanced(&config.resources));
    if wrong.is_empty() {
        Ok((config, warnings))
    } else {
        Err(wrong)
    }
}

/// The table of all annotations, as docs/inject.md has it.
pub fn table() -> String {
    let mut text = "| Annotation | Takes | Meaning; default |\n|---|---|---|\n".to_owned();
    for key in &KEYS {
        let _ = writeln!(
            text,
            "| `{CONFIG_ANNOTATION_PREFIX}{}` | {} | {} |",
            key.name, key.takes, key.meaning
        );
    }
    text
}

/// Those with our prefix, without it.
fn ours<'a>(
    annotations: impl Iterator<Item = (&'a str, &'a str)>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    annotations
        .filter_map(|(key, value)| Some((key.strip_prefix(CONFIG_ANNOTATION_PREFIX)?, value)))
}

/// The API server refuses a pod whose container asks for more than it may use, in words that do not
/// say whose container that is.
fn unbalanced(resources: &Resources) -> Vec<Refusal> {
    let pairs = [
        ("cpu", &resources.cpu_request, &resources.cpu_limit),
        ("memory", &resources.memory_request, &resources.memory_limit),
    ];
    let mut wrong = Vec::new();
    for (what, request, limit) in pairs {
        if let (Some(request), Some(limit)) = (request, limit)
            && !request.is_within(limit)
        {
            wrong.push(Refusal::new(
                format!("the sidecar's {what} request {request} is above its limit {limit}"),
                format!(
                    "set {CONFIG_ANNOTATION_PREFIX}proxy-{what}-request and \
                     {CONFIG_ANNOTATION_PREFIX}proxy-{what}-limit to fit"
                ),
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> Settings {
        Settings::new("weft", "cluster.local", Settings::default_image()).expect("good settings")
    }

    fn pod(annotations: &[(&str, &str)]) -> Value {
        let annotations: serde_json::Map<_, _> = annotations
            .iter()
            .map(|(key, value)| (format!("config.weft.dev/{key}"), json!(value)))
            .collect();
        json!({"metadata": {"annotations": annotations}})
    }

    #[test]
    fn the_pod_goes_over_the_namespace_and_that_over_the_settings() {
        let namespace = [
            ("config.weft.dev/log-level", "debug"),
            ("config.weft.dev/skip-outbound-ports", "5432"),
            ("other", "x"),
        ];
        let pod = pod(&[("log-level", "warn"), ("proxy-memory-limit", "1Gi")]);
        let (config, warnings) =
            read(&settings(), namespace.into_iter(), &pod).expect("good annotations");
        assert_eq!(config.log_level, "warn");
        assert_eq!(config.skip_outbound_ports, [5432]);
        assert_eq!(config.resources.memory_limit, Quantity::parse("1Gi"));
        assert_eq!(config.resources.memory_request, Quantity::parse("32Mi"));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_bad_word_of_the_namespace_does_not_matter_to_a_pod_with_its_own() {
        let namespace = [("config.weft.dev/log-level", "loud")];
        let good = pod(&[("log-level", "warn")]);
        assert!(read(&settings(), namespace.into_iter(), &good).is_ok());
        let wrong = read(&settings(), namespace.into_iter(), &pod(&[])).expect_err("a bad level");
        assert!(wrong[0].reason.contains("of the namespace is \"loud\""));
    }

    #[test]
    fn every_bad_value_is_told_with_its_mend() {
        let values = KEYS.map(|key| (key.name, "?"));
        let wrong = read(&settings(), [].into_iter(), &pod(&values)).expect_err("bad values");
        assert_eq!(wrong.len(), KEYS.len());
        for key in &KEYS {
            let name = format!("config.weft.dev/{} of the pod is \"?\"", key.name);
            let told = wrong.iter().find(|refusal| refusal.reason.contains(&name));
            assert!(
                told.is_some_and(|refusal| refusal.mend.len() > 10),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_a_warning() {
        let (config, warnings) =
            read(&settings(), [].into_iter(), &pod(&[("proxy-magic", "on")])).expect("a warning");
        let (plain, _) = read(&settings(), [].into_iter(), &pod(&[])).expect("nothing");
        assert_eq!(config, plain);
        assert!(
            warnings[0].contains("config.weft.dev/proxy-magic"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_request_above_its_limit_is_refused() {
        let pod = pod(&[("proxy-cpu-request", "2"), ("proxy-cpu-limit", "500m")]);
        let wrong = read(&settings(), [].into_iter(), &pod).expect_err("too much");
        assert!(
            wrong[0]
                .to_string()
                .contains("cpu request 2 is above its limit 500m")
        );
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let page = include_str!("../../docs/inject.md");
        assert!(
            page.contains(&table()),
            "put this into docs/inject.md:\n{}",
            table()
        );
    }
}
