//! The command line and the environment. Flags win over variables.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use weft_proto::names::{self, env, ports};

use crate::identity::{DEFAULT_LEAF_LIFETIME, Lifetimes, MIN_LEAF_LIFETIME};
use crate::keeper::GivenFiles;
use crate::policy::{DefaultAuthorization, MtlsMode};
use crate::source::mesh_file::{DEFAULT_NETWORKS, DEFAULT_SERVER_FIRST_PORTS, Defaults, MeshFile};

/// Tells sidecars what they need to know, and vouches for who they are.
#[derive(Debug, Parser)]
#[command(
    name = "weft-control-plane",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
pub(super) struct Settings {
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    pub(super) roles: Roles,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// What the control plane needs to be allowed in a cluster.
#[cfg(feature = "kubernetes")]
#[derive(Debug, Args)]
pub(super) struct Roles {
    /// Prints the roles that the control plane needs in a cluster, with their bindings.
    #[arg(long)]
    pub(super) print_rbac: bool,
    /// The control plane's own namespace.
    #[arg(long, env = env::NAMESPACE, value_name = "NAMESPACE",
          default_value = names::CONTROL_PLANE_NAMESPACE)]
    pub(super) namespace: String,
    /// How they are printed.
    #[arg(short, long, value_enum, default_value_t, requires = "print_rbac")]
    pub(super) output: Output,
}

/// How manifests are printed.
#[cfg(feature = "kubernetes")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Documents, each rule under its reason.
    #[default]
    Yaml,
    /// One List.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serves a directory of manifests, or without one a cluster, to sidecars.
    Serve(Box<Serve>),
    /// Makes a join token for a workload and prints it, this once.
    Token(Token),
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Directory with mesh.yaml and policies; watched. Without it, a cluster is: what KUBECONFIG says,
    /// else the one that this process runs in.
    #[arg(long, env = env::MANIFEST_DIR, value_name = "DIR", requires = "state")]
    pub(super) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) cluster: Cluster,
    /// This replica of it.
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    pub(super) replica: Replica,
    /// Directory of the certificate authority's state, made at first start; with --dir. A cluster keeps it
    /// in a Secret.
    #[arg(long, env = env::STATE_DIR, value_name = "DIR", requires = "dir")]
    pub(super) state: Option<PathBuf>,
    /// Where sidecars connect.
    #[arg(long, env = env::LISTEN_ADDR, value_name = "ADDR",
          default_value_t = any_address(ports::CONTROL_PLANE))]
    pub(super) listen: SocketAddr,
    /// Where health, metrics and status are.
    #[arg(long, env = env::ADMIN_ADDR, value_name = "ADDR",
          default_value_t = any_address(ports::ADMIN))]
    pub(super) admin: SocketAddr,
    /// How long workload certificates live, as 24h, 90m or 30s.
    #[arg(long, env = env::LEAF_LIFETIME, value_name = "DURATION",
          value_parser = leaf_lifetime, default_value = "24h")]
    pub(super) leaf_lifetime: Duration,
    /// Certificate of an issuer that somebody else makes, with those between it and its root; with --dir.
    /// It is read again when it changes. In a cluster it is in Secret weft-issuer.
    #[arg(long, env = env::ISSUER_CERT, value_name = "FILE",
          requires_all = ["dir", "issuer_key", "trust_roots"])]
    pub(super) issuer_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = env::ISSUER_KEY, value_name = "FILE", requires = "issuer_cert")]
    pub(super) issuer_key: Option<PathBuf>,
    /// The roots that the mesh trusts with it.
    #[arg(long, env = env::TRUST_ROOTS, value_name = "FILE", requires = "issuer_cert")]
    pub(super) trust_roots: Option<PathBuf>,
    /// How long issuers live; rotated at two thirds of that.
    #[arg(long, env = env::ISSUER_LIFETIME, value_name = "DURATION",
          value_parser = duration, default_value = "8760h")]
    pub(super) issuer_lifetime: Duration,
    /// How long roots live; rotated at two thirds of that.
    #[arg(long, env = env::ROOT_LIFETIME, value_name = "DURATION",
          value_parser = duration, default_value = "87600h")]
    pub(super) root_lifetime: Duration,
    /// Writes the ports that are listened on here, gRPC's and admin's, a line each.
    #[arg(long, value_name = "FILE")]
    pub(super) port_file: Option<PathBuf>,
    /// How much is logged.
    #[arg(long, env = env::LOG_LEVEL, value_enum, default_value_t)]
    pub(super) log_level: LogLevel,
    /// How logs look.
    #[arg(long, env = env::LOG_FORMAT, value_enum, default_value_t)]
    pub(super) log_format: LogFormat,
}

impl Serve {
    /// Where an issuer is given, if it is.
    pub(super) fn given(&self) -> Option<GivenFiles> {
        Some(GivenFiles {
            certificate: self.issuer_cert.clone()?,
            key: self.issuer_key.clone()?,
            roots: self.trust_roots.clone()?,
        })
    }

    /// How long issuers and roots live, where that is long enough for the leaves.
    pub(super) fn lifetimes(&self) -> anyhow::Result<Lifetimes> {
        let lifetimes = Lifetimes {
            issuer: self.issuer_lifetime,
            root: self.root_lifetime,
        };
        match lifetimes.trouble(self.leaf_lifetime) {
            None => Ok(lifetimes),
            Some(trouble) => anyhow::bail!(
                "{trouble}; see {}, {} and {}",
                env::LEAF_LIFETIME,
                env::ISSUER_LIFETIME,
                env::ROOT_LIFETIME
            ),
        }
    }
}

/// What holds for the whole mesh of a cluster; in a directory it stands in mesh.yaml.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Without a directory")]
pub(super) struct Cluster {
    /// The trust domain of every identity.
    #[arg(long, env = env::TRUST_DOMAIN, value_name = "NAME", conflicts_with = "dir",
          default_value = names::DEFAULT_TRUST_DOMAIN)]
    pub(super) trust_domain: String,
    /// CIDR blocks of the cluster's pods and services; traffic to others passes as it is.
    #[arg(long, env = env::NETWORKS, value_name = "CIDR,…", value_delimiter = ',',
          conflicts_with = "dir", default_value = DEFAULT_NETWORKS)]
    pub(super) networks: Vec<IpNet>,
    /// Ports on which servers speak first.
    #[arg(long, env = env::SERVER_FIRST_PORTS, value_name = "PORT,…", value_delimiter = ',',
          conflicts_with = "dir", default_values_t = DEFAULT_SERVER_FIRST_PORTS)]
    pub(super) server_first_ports: Vec<u16>,
    /// What no policy may weaken: Permissive or Strict.
    #[arg(long, env = env::MINIMUM_MTLS, value_name = "MODE", conflicts_with = "dir",
          value_parser = mtls_mode)]
    pub(super) minimum_mtls: Option<MtlsMode>,
    /// Who may call what no policy speaks of: AllowAll, Authenticated, SameNamespace or DenyAll.
    #[arg(long, env = env::DEFAULT_AUTHORIZATION, value_name = "WHO", conflicts_with = "dir",
          default_value_t)]
    pub(super) default_authorization: DefaultAuthorization,
}

/// Who this replica of the control plane is.
#[cfg(feature = "kubernetes")]
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Without a directory")]
pub(super) struct Replica {
    /// The control plane's own namespace.
    #[arg(long, env = env::NAMESPACE, value_name = "NAME", conflicts_with = "dir",
          default_value = names::CONTROL_PLANE_NAMESPACE)]
    pub(super) namespace: String,
    /// This replica's pod; the host's name where nothing else is said.
    #[arg(long, env = env::POD_NAME, value_name = "NAME", conflicts_with = "dir")]
    pub(super) pod_name: Option<String>,
    /// That pod's address.
    #[arg(long, env = env::POD_IP, value_name = "ADDR", conflicts_with = "dir")]
    pub(super) pod_ip: Option<IpAddr>,
    /// How long the replica that writes may be away before another one takes over, as 15s.
    #[arg(long, env = env::LEASE_DURATION, value_name = "DURATION", conflicts_with = "dir",
          value_parser = lease_duration, default_value = "15s")]
    pub(super) lease_duration: Duration,
}

#[cfg(feature = "kubernetes")]
impl Replica {
    /// The pod's name, else the host's, which in a pod is the same.
    pub(super) fn name(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.pod_name.clone().or_else(host).unwrap_or_default();
        match name.trim() {
            "" => "control-plane".to_owned(),
            name => name.to_owned(),
        }
    }
}

impl Cluster {
    /// The same as mesh.yaml would have it.
    pub(super) fn into_file(self) -> MeshFile {
        MeshFile {
            trust_domain: Some(self.trust_domain),
            networks: self.networks,
            server_first_ports: Some(self.server_first_ports),
            defaults: Some(Defaults {
                mtls: self.minimum_mtls,
                authorization: Some(self.default_authorization),
            }),
            ..MeshFile::default()
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Token {
    /// The workload, as NAMESPACE/WORKLOAD.
    #[arg(value_name = "NAMESPACE/WORKLOAD", value_parser = workload)]
    pub(super) workload: (String, String),
    /// Directory of the certificate authority's state.
    #[arg(long, env = env::STATE_DIR, value_name = "DIR")]
    pub(super) state: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    #[default]
    Json,
    Plain,
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn leaf_lifetime(text: &str) -> Result<Duration, String> {
    let life = duration(text)?;
    if life < MIN_LEAF_LIFETIME {
        return Err(format!("at least {} s", MIN_LEAF_LIFETIME.as_secs()));
    }
    // A longer one would outlive its reason: nothing but its end takes a certificate back.
    if life > 30 * DEFAULT_LEAF_LIFETIME {
        return Err("at most 720h".to_owned());
    }
    Ok(life)
}

#[cfg(feature = "kubernetes")]
fn lease_duration(text: &str) -> Result<Duration, String> {
    use crate::cluster::lease::{MAX_LEASE, MIN_LEASE};

    let lease = duration(text)?;
    if (MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Ok(lease);
    }
    Err(format!(
        "from {} s to {} s",
        MIN_LEASE.as_secs(),
        MAX_LEASE.as_secs()
    ))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 24h, 90m or 30s");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

fn mtls_mode(text: &str) -> Result<MtlsMode, String> {
    match text {
        "Permissive" => Ok(MtlsMode::Permissive),
        "Strict" => Ok(MtlsMode::Strict),
        _ => Err("not Permissive or Strict".to_owned()),
    }
}

fn workload(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("not NAMESPACE/WORKLOAD".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Settings::command().debug_assert();
    }

    fn serve(args: &[&str]) -> Result<Serve, clap::Error> {
        let program = ["weft-control-plane", "serve"];
        let settings = Settings::try_parse_from(program.iter().chain(args))?;
        let Some(Command::Serve(serve)) = settings.command else {
            panic!("serve was asked for");
        };
        Ok(*serve)
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn roles_are_printed_instead_of_anything_else() {
        let read =
            |args: &[&str]| Settings::try_parse_from(["weft-control-plane"].iter().chain(args));
        let settings = read(&["--print-rbac", "-o", "json", "--namespace", "mesh"]).unwrap();
        let rbac = settings.roles;
        assert!(rbac.print_rbac && rbac.output == Output::Json && settings.command.is_none());
        assert_eq!(rbac.namespace, "mesh");
        assert_eq!(read(&["--print-rbac"]).unwrap().roles.output, Output::Yaml);
        for wrong in [
            &[][..],
            &["-o", "json"],
            &["--print-rbac", "serve", "--state", "s"],
            &["--print-rbac", "-o", "wide"],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn without_a_directory_the_mesh_is_a_cluster() {
        let defaults = serve(&[]).unwrap();
        assert_eq!(defaults.dir, None);
        let file = defaults.cluster.into_file();
        assert_eq!(file.trust_domain.as_deref(), Some("cluster.local"));
        assert_eq!(file.networks.len(), 5);
        let ports = file.server_first_ports.unwrap();
        assert_eq!(ports, DEFAULT_SERVER_FIRST_PORTS);

        let args = [
            "--networks",
            "10.1.0.0/16,fd00::/48",
            "--minimum-mtls",
            "Strict",
            "--default-authorization",
            "SameNamespace",
        ];
        let file = serve(&args).unwrap().cluster.into_file();
        assert_eq!(file.networks.len(), 2);
        let defaults = file.defaults.unwrap();
        assert_eq!(defaults.mtls, Some(MtlsMode::Strict));
        let who = Some(DefaultAuthorization::SameNamespace);
        assert_eq!(defaults.authorization, who);
        for wrong in [
            ["--networks", "10.1.0.0"],
            ["--minimum-mtls", "Disabled"],
            ["--default-authorization", "Deny"],
            ["--server-first-ports", "70000"],
        ] {
            assert!(serve(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_directory_says_itself_what_holds() {
        let directory = ["--dir", "d", "--state", "s"];
        assert!(serve(&directory).is_ok());
        for more in [["--trust-domain", "example.org"], ["--namespace", "mesh"]] {
            assert!(
                serve(&[&directory[..], &more].concat()).is_err(),
                "{more:?}"
            );
        }
    }

    #[test]
    fn state_is_a_directorys() {
        assert!(serve(&["--dir", "d"]).is_err());
        assert!(serve(&["--state", "s"]).is_err());
    }

    #[cfg(feature = "kubernetes")]
    #[test]
    fn a_replica_has_a_name_and_a_place() {
        let replica = serve(&[]).unwrap().replica;
        assert_eq!(replica.namespace, "weft");
        assert_eq!(replica.lease_duration, Duration::from_secs(15));
        assert!(!replica.name().is_empty() && replica.name() == replica.name().trim());
        let said = [
            "--namespace",
            "mesh",
            "--pod-name",
            "cp-1",
            "--pod-ip",
            "fd00::1",
        ];
        let replica = serve(&said).unwrap().replica;
        assert_eq!((&*replica.namespace, &*replica.name()), ("mesh", "cp-1"));
        for wrong in ["1s", "301s", "15", "0s"] {
            assert!(serve(&["--lease-duration", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn leaf_lifetimes_have_units_and_bounds() {
        assert_eq!(leaf_lifetime("24h"), Ok(DEFAULT_LEAF_LIFETIME));
        assert_eq!(leaf_lifetime("5s"), Ok(Duration::from_secs(5)));
        for wrong in [
            "",
            "s",
            "5",
            "5d",
            "-5s",
            "1s",
            "721h",
            "99999999999999999999h",
            "5é",
        ] {
            assert!(leaf_lifetime(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_signs_lives_long_enough_for_leaves() {
        let lifetimes = |args: &[&str]| serve(args).unwrap().lifetimes();
        assert_eq!(lifetimes(&[]).unwrap(), Lifetimes::DEFAULT);
        assert!(lifetimes(&["--leaf-lifetime", "720h"]).is_ok());
        let short = [
            "--leaf-lifetime",
            "10s",
            "--issuer-lifetime",
            "2m",
            "--root-lifetime",
            "10m",
        ];
        assert!(lifetimes(&short).is_ok());
        for (wrong, words) in [
            (&["--issuer-lifetime", "48h"][..], "an issuer's life"),
            (&["--root-lifetime", "8000h"], "a root's life"),
            (
                &["--issuer-lifetime", "87600h", "--root-lifetime", "87599h"],
                "a root's life",
            ),
        ] {
            let refused = lifetimes(wrong).unwrap_err().to_string();
            assert!(
                refused.starts_with(words) && refused.contains("at least"),
                "{refused}"
            );
            assert!(refused.contains("WEFT_ISSUER_LIFETIME"), "{refused}");
        }
    }

    #[test]
    fn workloads_have_two_parts() {
        assert_eq!(
            workload("shop/web"),
            Ok(("shop".to_owned(), "web".to_owned()))
        );
        for wrong in ["", "web", "/web", "shop/"] {
            assert!(workload(wrong).is_err(), "{wrong}");
        }
    }
}
