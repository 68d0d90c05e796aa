//! What the environment says. All that is wrong with it is told at once.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use weft_proto::logs::{LogFormat, LogLevel};
use weft_proto::names::{self, env, ports};

use crate::settings::{PullPolicy, Resources, Settings, SidecarMode};
use crate::values::{self, Image, MAX_ENTRIES, Quantity};

/// Where pods find the API server, set by kubelets in every container.
const API_SERVER_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// Letters of a bad value that are shown.
const MAX_SHOWN: usize = 80;

/// What the webhook's process runs with.
#[derive(Debug)]
pub(super) struct Environment {
    /// The mesh's namespace, and so this process's own.
    pub(super) namespace: String,
    /// What holds for all pods.
    pub(super) settings: Settings,
    /// Where API servers connect.
    pub(super) listen: SocketAddr,
    /// Where health and metrics are.
    pub(super) admin: SocketAddr,
    /// Who this replica is, in events.
    pub(super) instance: String,
    pub(super) log_level: LogLevel,
    pub(super) log_format: LogFormat,
}

/// What is wrong with one variable, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    variable: &'static str,
    value: String,
    mend: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.value.chars().take(MAX_SHOWN).collect();
        write!(f, "{} is {shown:?}; give {}", self.variable, self.mend)
    }
}

impl Environment {
    /// Reads whatever `look_up` answers.
    pub(super) fn read(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Wrong>> {
        let mut reader = Reader {
            look_up,
            wrong: Vec::new(),
        };
        let namespace = reader.or(
            env::NAMESPACE,
            |text| values::is_label(text).then(|| text.to_owned()),
            "lower-case letters, digits and dashes, at most 63",
            || names::CONTROL_PLANE_NAMESPACE.to_owned(),
        );
        let trust_domain = reader.or(
            env::TRUST_DOMAIN,
            |text| {
                let made = Settings::new("weft", text, Settings::default_image());
                made.is_ok().then(|| text.to_owned())
            },
            "a trust domain such as cluster.local",
            || names::DEFAULT_TRUST_DOMAIN.to_owned(),
        );
        let image = reader.or(
            env::PROXY_IMAGE,
            Image::parse,
            "an image's name, with tag or digest or both",
            Settings::default_image,
        );
        let mut settings = Settings::new(&namespace, &trust_domain, image)
            .expect("namespace and trust domain were checked one by one");
        settings.image_pull_policy = reader.or(
            env::PROXY_IMAGE_PULL_POLICY,
            |text| text.parse::<PullPolicy>().ok().map(Some),
            "Always, IfNotPresent or Never",
            || None,
        );
        settings.sidecar_mode = reader.or(
            env::SIDECAR_MODE,
            |text| text.parse().ok(),
            "native or legacy",
            SidecarMode::default,
        );
        settings.resources = reader.resources();
        settings.log_level = reader.or(
            env::PROXY_LOG_LEVEL,
            |text| values::log_level(text).map(str::to_owned),
            "error, warn, info, debug or trace",
            || "info".to_owned(),
        );
        settings.limits = reader.or(
            env::PROXY_ENV,
            |text| values::list(text, values::limit),
            "limits of sidecars such as WEFT_MAX_CONNECTIONS=1000, separated by commas",
            Vec::new,
        );
        settings.tracing = reader.tracing();
        settings.skip_subnets = reader.skip_subnets();
        let more = reader.or(
            env::SYSTEM_NAMESPACES,
            |text| values::list(text, |name| values::is_label(name).then(|| name.to_owned())),
            "names of namespaces, separated by commas, at most 64",
            Vec::new,
        );
        settings.system_namespaces.extend(more);
        let this = Self {
            namespace,
            settings,
            listen: reader.address(env::LISTEN_ADDR, ports::WEBHOOK),
            admin: reader.address(env::ADMIN_ADDR, ports::ADMIN),
            instance: reader.text(env::POD_NAME).unwrap_or_else(host_name),
            log_level: reader.or(
                env::LOG_LEVEL,
                |text| values::log_level(text)?.parse().ok(),
                "error, warn, info, debug or trace",
                LogLevel::default,
            ),
            log_format: reader.or(
                env::LOG_FORMAT,
                |text| text.parse().ok(),
                "json or plain",
                LogFormat::default,
            ),
        };
        if reader.wrong.is_empty() {
            Ok(this)
        } else {
            Err(reader.wrong)
        }
    }
}

/// Reads variables one by one, and keeps what is wrong.
struct Reader<L> {
    look_up: L,
    wrong: Vec<Wrong>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// What a variable says, if anything.
    fn text(&self, variable: &str) -> Option<String> {
        let text = (self.look_up)(variable)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// What a variable says; the default where it is empty or wrong.
    fn or<T>(
        &mut self,
        variable: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
        expected: &str,
        default: impl FnOnce() -> T,
    ) -> T {
        let Some(text) = self.text(variable) else {
            return default();
        };
        parse(&text).unwrap_or_else(|| {
            self.complain(variable, text, expected);
            default()
        })
    }

    fn complain(&mut self, variable: &'static str, value: String, mend: &str) {
        self.wrong.push(Wrong {
            variable,
            value,
            mend: mend.to_owned(),
        });
    }

    fn address(&mut self, variable: &'static str, port: u16) -> SocketAddr {
        let parse = |text: &str| text.parse().ok();
        self.or(
            variable,
            parse,
            "an address and a port such as [::]:15443",
            || SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        )
    }

    /// Here an empty value means none, and only a variable that is not set the default.
    fn quantity(&mut self, variable: &'static str, default: Option<Quantity>) -> Option<Quantity> {
        let Some(text) = (self.look_up)(variable) else {
            return default;
        };
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        let quantity = Quantity::parse(text);
        if quantity.is_none() {
            self.complain(
                variable,
                text.to_owned(),
                "an amount such as 100m, 1.5 or 64Mi, or nothing",
            );
        }
        quantity
    }

    fn resources(&mut self) -> Resources {
        let default = Resources::default();
        let resources = Resources {
            cpu_request: self.quantity(env::PROXY_CPU_REQUEST, default.cpu_request),
            cpu_limit: self.quantity(env::PROXY_CPU_LIMIT, default.cpu_limit),
            memory_request: self.quantity(env::PROXY_MEMORY_REQUEST, default.memory_request),
            memory_limit: self.quantity(env::PROXY_MEMORY_LIMIT, default.memory_limit),
        };
        // The API server would refuse every pod.
        for (variable, request, limit) in [
            (
                env::PROXY_CPU_REQUEST,
                &resources.cpu_request,
                &resources.cpu_limit,
            ),
            (
                env::PROXY_MEMORY_REQUEST,
                &resources.memory_request,
                &resources.memory_limit,
            ),
        ] {
            if let (Some(request), Some(limit)) = (request, limit)
                && !request.is_within(limit)
            {
                let mend = format!("no more than the limit, which is {limit}");
                self.complain(variable, request.to_string(), &mend);
            }
        }
        resources
    }

    /// Nothing without an endpoint: then there are no spans.
    fn tracing(&mut self) -> Vec<(&'static str, String)> {
        let endpoint = self.or(
            env::TRACE_ENDPOINT,
            |text| values::collector(text).map(Some),
            "an OTLP/gRPC receiver, as http://collector.observability:4317",
            || None,
        );
        let sample = self.or(
            env::TRACE_SAMPLE,
            |text| values::share(text).map(Some),
            "the share of traces to sample, from 0 to 1",
            || None,
        );
        let propagation = self.or(
            env::TRACE_PROPAGATION,
            |text| values::propagation(text).map(Some),
            "w3c, b3 and b3multi, separated by commas",
            || None,
        );
        if endpoint.is_none() {
            return Vec::new();
        }
        let all = [
            (env::TRACE_ENDPOINT, endpoint),
            (env::TRACE_SAMPLE, sample),
            (env::TRACE_PROPAGATION, propagation),
        ];
        let said = |(name, value): (_, Option<String>)| Some((name, value?));
        all.into_iter().filter_map(said).collect()
    }

    /// The API server's address is one of them: applications that talk to it need no mesh, and must not
    /// depend on one.
    fn skip_subnets(&mut self) -> Vec<IpNet> {
        let mut subnets = self.or(
            env::SKIP_SUBNETS,
            |text| values::list(text, values::subnet),
            "addresses and subnets such as 10.0.0.0/8, separated by commas, at most 64",
            Vec::new,
        );
        // A name is what some kubelets give where there is no address.
        let host = self
            .text(API_SERVER_HOST)
            .and_then(|host| host.parse::<IpAddr>().ok());
        if let Some(host) = host.map(IpNet::from)
            && !subnets.iter().any(|subnet| subnet.contains(&host))
        {
            if subnets.len() < MAX_ENTRIES {
                subnets.push(host);
            } else {
                let all = format!("{} subnets", subnets.len());
                self.complain(
                    env::SKIP_SUBNETS,
                    all,
                    "one less: the API server is to be among them",
                );
            }
        }
        subnets
    }
}

/// In a pod, its name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "injector".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(said: &[(&str, &str)]) -> Result<Environment, Vec<String>> {
        let read = Environment::read(|name| {
            let said = said.iter().find(|(variable, _)| *variable == name);
            said.map(|(_, value)| (*value).to_owned())
        });
        read.map_err(|wrong| wrong.iter().map(Wrong::to_string).collect())
    }

    #[test]
    fn nothing_is_needed() {
        let environment = read(&[]).expect("defaults");
        assert_eq!(environment.namespace, "weft");
        assert_eq!(environment.listen.to_string(), "[::]:15443");
        assert_eq!(environment.admin.to_string(), "[::]:15190");
        assert!(!environment.instance.is_empty());
        let settings = environment.settings;
        assert_eq!(settings.image, Settings::default_image());
        assert_eq!(settings.image_pull_policy, None);
        assert_eq!(settings.sidecar_mode, SidecarMode::Native);
        assert_eq!(settings.resources, Resources::default());
        assert!(settings.skip_subnets.is_empty());
    }

    #[test]
    fn everything_can_be_said() {
        let environment = read(&[
            (env::NAMESPACE, "mesh"),
            (env::TRUST_DOMAIN, "example.org"),
            (env::PROXY_IMAGE, "registry.example/weft-proxy:1"),
            (env::PROXY_IMAGE_PULL_POLICY, "IfNotPresent"),
            (env::SIDECAR_MODE, "legacy"),
            (env::PROXY_CPU_REQUEST, "50m"),
            (env::PROXY_CPU_LIMIT, "2"),
            (env::PROXY_MEMORY_REQUEST, ""),
            (env::PROXY_MEMORY_LIMIT, ""),
            (env::PROXY_LOG_LEVEL, "debug"),
            (env::TRACE_ENDPOINT, "http://collector.observability:4317"),
            (env::TRACE_PROPAGATION, "w3c, b3multi"),
            (
                env::PROXY_ENV,
                "WEFT_IDLE_TIMEOUT=10m, WEFT_BODY_BUFFER=8Mi",
            ),
            (env::SKIP_SUBNETS, "192.168.0.0/16, fd00::1"),
            (env::SYSTEM_NAMESPACES, "cert-manager,storage"),
            (env::LISTEN_ADDR, "127.0.0.1:0"),
            (env::POD_NAME, "injector-1"),
            (env::LOG_LEVEL, "trace"),
            (env::LOG_FORMAT, "plain"),
            (API_SERVER_HOST, "10.96.0.1"),
        ]);
        let environment = environment.expect("good settings");
        let settings = environment.settings;
        assert_eq!(
            settings.control_plane_addr,
            "weft-control-plane.mesh.svc:15180"
        );
        assert_eq!(
            settings.control_plane_id.as_str(),
            "spiffe://example.org/ns/mesh/sa/control-plane"
        );
        assert_eq!(settings.image.to_string(), "registry.example/weft-proxy:1");
        assert_eq!(settings.image_pull_policy, Some(PullPolicy::IfNotPresent));
        assert_eq!(settings.sidecar_mode, SidecarMode::Legacy);
        let resources = Resources {
            cpu_request: Quantity::parse("50m"),
            cpu_limit: Quantity::parse("2"),
            memory_request: None,
            memory_limit: None,
        };
        assert_eq!(settings.resources, resources);
        let tracing = [
            (env::TRACE_ENDPOINT, "http://collector.observability:4317"),
            (env::TRACE_PROPAGATION, "w3c,b3multi"),
        ];
        let tracing = tracing.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(settings.tracing, tracing);
        let limits = [(env::IDLE_TIMEOUT, "10m"), (env::BODY_BUFFER, "8Mi")];
        let limits = limits.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(settings.limits, limits);
        let subnets: Vec<_> = settings.skip_subnets.iter().map(IpNet::to_string).collect();
        assert_eq!(subnets, ["192.168.0.0/16", "fd00::1/128", "10.96.0.1/32"]);
        for name in ["mesh", "cert-manager", "storage", "kube-system"] {
            assert!(settings.system_namespaces.contains(name), "{name}");
        }
        assert_eq!(environment.instance, "injector-1");
        assert_eq!(environment.log_level, LogLevel::TRACE);
        assert_eq!(environment.log_format, LogFormat::Plain);
    }

    #[test]
    fn the_api_server_is_skipped_once_and_by_address_only() {
        let subnets = |said: &[(&str, &str)]| {
            let settings = read(said).expect("good settings").settings;
            settings.skip_subnets.len()
        };
        assert_eq!(subnets(&[(API_SERVER_HOST, "fd00::1")]), 1);
        assert_eq!(subnets(&[(API_SERVER_HOST, "kubernetes.default")]), 0);
        let covered = [
            (API_SERVER_HOST, "10.96.0.1"),
            (env::SKIP_SUBNETS, "10.0.0.0/8"),
        ];
        assert_eq!(subnets(&covered), 1);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let wrong = [
            (env::NAMESPACE, "Mesh"),
            (env::TRUST_DOMAIN, "a b"),
            (env::PROXY_IMAGE, "No Image"),
            (env::PROXY_IMAGE_PULL_POLICY, "always"),
            (env::SIDECAR_MODE, "auto"),
            (env::PROXY_CPU_REQUEST, "much"),
            (env::PROXY_MEMORY_REQUEST, "1Gi"),
            (env::PROXY_LOG_LEVEL, "loud"),
            (env::PROXY_ENV, "WEFT_TOKEN_FILE=/etc/passwd"),
            (env::TRACE_SAMPLE, "7"),
            (env::SKIP_SUBNETS, "10.0.0.0/64"),
            (env::SYSTEM_NAMESPACES, "A,b"),
            (env::LISTEN_ADDR, "15443"),
            (env::ADMIN_ADDR, "here"),
            (env::LOG_LEVEL, "INFO"),
            (env::LOG_FORMAT, "xml"),
        ];
        let told = read(&wrong).expect_err("bad settings");
        assert_eq!(told.len(), wrong.len(), "{told:#?}");
        for (variable, value) in wrong {
            let begin = format!("{variable} is {value:?}; give ");
            assert!(
                told.iter().any(|line| line.starts_with(&begin)),
                "{begin}: {told:#?}"
            );
        }
    }
}
