//! The compose files are as good as can be told without a container engine: what they mount is there, the
//! programs know every flag and variable, and names, addresses and ports are those of `mesh.yaml`.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};
use weft_images::Image;
use weft_proto::names::{self, PROXY_UID, ports};
use weft_proto::spiffe::SpiffeId;
use weft_proxy::app::settings::{Interception, Settings};

use super::{
    PLATFORMS, Platform, documents, files, list, promtool, read, repository, said, text, weft,
};

/// Roles of a workload's containers, by what stands behind its name.
const INIT: &str = "-init";
const APP: &str = "-app";
/// Where the control plane's directory is in its container.
const MESH: &str = "/mesh/";
/// Where Prometheus' is.
const PROMETHEUS: &str = "/etc/prometheus/";

fn with_compose() -> impl Iterator<Item = Platform> {
    PLATFORMS.into_iter().filter(|it| it.has_compose)
}

fn compose(platform: Platform) -> Value {
    documents(&platform.folder().join("compose.yaml")).remove(0)
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().expect("services")
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(|it| text(it).to_owned()).collect()
}

/// What a service mounts of this repository: the path here, and in the container.
fn mounted(platform: Platform, service: &Value) -> Vec<(PathBuf, String)> {
    let short = list(&service["volumes"]).iter().filter_map(Value::as_str);
    let parts = short.filter_map(|it| it.split_once(':'));
    parts
        .filter(|(here, _)| here.starts_with('.'))
        .map(|(here, there)| {
            let there = there.strip_suffix(":ro").expect("read only");
            (platform.folder().join(here), there.to_owned())
        })
        .collect()
}

#[test]
fn what_they_name_is_there() {
    for platform in with_compose() {
        let compose = compose(platform);
        let volumes = compose["volumes"].as_object().expect("volumes");
        let services = services(&compose);
        for (name, service) in services {
            let at = format!("{} {name}", platform.name);
            for (here, _) in mounted(platform, service) {
                assert!(here.exists(), "{at}: no {}", here.display());
            }
            for volume in list(&service["volumes"]) {
                let source = match volume {
                    Value::String(short) => short.split(':').next().expect("a source"),
                    long => text(&long["source"]),
                };
                let is_there = source.starts_with('.') || volumes.contains_key(source);
                assert!(is_there, "{at}: {source}");
            }
            for config in list(&service["configs"]) {
                let source = text(&config["source"]);
                assert!(compose["configs"][source].is_object(), "{at}: {source}");
            }
            for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
                let other_service = services.get(other);
                let other_service = other_service.unwrap_or_else(|| panic!("{at}: {other}"));
                if how["condition"] == "service_healthy" {
                    assert!(other_service["healthcheck"].is_object(), "{at}: {other}");
                }
            }
            if let Some(mode) = service["network_mode"].as_str() {
                let owner = mode.strip_prefix("service:").expect("another's network");
                assert!(!service["depends_on"][owner].is_null(), "{at}");
                assert!(service["networks"].is_null(), "{at} has two networks");
            }
            let image = service["image"].as_str().unwrap_or_else(|| {
                let file = text(&service["build"]["dockerfile_inline"]);
                let first = file.lines().next().and_then(|it| it.strip_prefix("FROM "));
                first.expect("an image")
            });
            let (repository, tag) = image.rsplit_once(':').expect("a tag");
            if Image::named(repository).is_some() {
                assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{at}");
            } else {
                assert!(tag.contains('.'), "{at}: {image}");
            }
        }
    }
}

#[test]
fn every_workload_has_a_sidecar_that_accepts_its_settings() {
    let known = read(&repository().join("docs/sidecar.md"));
    for platform in with_compose() {
        let (compose, mesh) = (compose(platform), platform.mesh());
        let services = services(&compose);
        let control_plane = &services["control-plane"]["networks"]["mesh"]["ipv4_address"];
        let workloads = platform.workloads();
        for workload in &workloads {
            let name = text(&workload["name"]);
            let sidecar = &services[name];
            let address = text(&workload["addresses"][0]);
            assert_eq!(sidecar["networks"]["mesh"]["ipv4_address"], address);
            assert_eq!(text(&sidecar["user"]), format!("{PROXY_UID}:{PROXY_UID}"));
            let variables = sidecar["environment"].as_object().expect("variables");
            for variable in variables.keys() {
                assert!(known.contains(&format!("| `{variable}` |")), "{variable}");
            }
            let value = |name: &str| variables.get(name).map(|it| text(it).to_owned());
            let settings = Settings::from_vars(value);
            let settings = settings.unwrap_or_else(|errors| panic!("{name}: {errors}"));
            assert_eq!(settings.workload, name);
            assert_eq!(
                value("WEFT_NAMESPACE").as_deref(),
                workload["namespace"].as_str()
            );
            let own: IpAddr = address.parse().expect("an address");
            assert_eq!(settings.workload_addresses, [own]);
            assert_eq!(settings.interception, Interception::Redirect);
            assert_eq!(settings.control_plane_addr.host, text(control_plane));
            assert_eq!(settings.control_plane_addr.port, ports::CONTROL_PLANE);
            let id = format!(
                "spiffe://{}/ns/{}/sa/{}",
                text(&mesh["trustDomain"]),
                names::CONTROL_PLANE_NAMESPACE,
                names::CONTROL_PLANE_SERVICE_ACCOUNT
            );
            let id: SpiffeId = id.parse().expect("an id");
            assert_eq!(settings.control_plane_id, id);
            let inbound = settings.inbound_ports.iter().map(|it| u64::from(*it));
            let declared = list(&workload["ports"]).iter();
            let declared = declared.map(|it| it["port"].as_u64().expect("a port"));
            assert!(inbound.eq(declared), "{name}");
            let volume = &sidecar["volumes"][0];
            assert_eq!(volume["volume"]["subpath"], name);
            for file in [&settings.token_file, &settings.trust_bundle_file] {
                assert!(file.starts_with(text(&volume["target"])));
            }

            let init = &services[&format!("{name}{INIT}")];
            assert_eq!(texts(&init["command"]), ["init"]);
            assert_eq!(texts(&init["cap_add"]), ["NET_ADMIN"]);
            let app = &services[&format!("{name}{APP}")];
            for part in [init, app] {
                assert_eq!(part["network_mode"], format!("service:{name}"));
            }
            for (before, how) in [
                (name.to_owned(), "service_healthy"),
                (format!("{name}{INIT}"), "service_completed_successfully"),
            ] {
                assert_eq!(app["depends_on"][&before]["condition"], how, "{name}");
            }
            if app["image"]
                == format!(
                    "{}:{}",
                    names::CONTROL_PLANE_IMAGE,
                    env!("CARGO_PKG_VERSION")
                )
            {
                let command = texts(&app["command"]);
                assert_eq!(command[..4], ["internal", "app", "--name", name]);
                let port = format!("http:{}", settings.inbound_ports[0]);
                assert_eq!(command.last(), Some(&port));
                for flag in command.iter().filter(|it| it.starts_with("--")) {
                    let help =
                        said(&weft(&["internal", "app", "--help"], &platform.folder()).stdout);
                    assert!(help.contains(&format!("{flag} ")), "{flag}");
                }
            }
        }
        let own = services.keys().filter(|it| it.ends_with(APP));
        assert_eq!(own.count(), workloads.len(), "{}", platform.name);
    }
}

#[test]
fn names_reach_the_services_of_the_mesh() {
    for platform in with_compose() {
        let compose = compose(platform);
        let names: BTreeSet<_> = texts(&compose["x-sidecar"]["extra_hosts"])
            .into_iter()
            .collect();
        for service in platform.services() {
            let name = text(&service["name"]);
            let own = service["clusterIPs"][0].as_str().map(str::to_owned);
            // A headless one is its pods.
            let address = own.unwrap_or_else(|| {
                let first = text(&service["endpoints"][0]["workload"]);
                text(&platform.workload(first)["addresses"][0]).to_owned()
            });
            let entry = format!("{name}:{address}");
            assert!(names.contains(&entry), "{}: no {entry}", platform.name);
        }
        let subnet = &compose["networks"]["mesh"]["ipam"]["config"][0]["subnet"];
        assert_eq!(*subnet, platform.mesh()["networks"][0]);
        // The ingress leads to services of the mesh.
        let ingress = text(&compose["configs"]["ingress"]["content"]);
        let mut upstreams = 0;
        for upstream in ingress.split("proxy_pass http://").skip(1) {
            let upstream = upstream.split(';').next().expect("its end");
            let (name, port) = upstream.split_once(':').expect("NAME:PORT");
            let services = platform.services();
            let service = services.iter().find(|it| it["name"] == name);
            let service = service.unwrap_or_else(|| panic!("no {name}"));
            assert_eq!(service["ports"][0]["port"].to_string(), port);
            upstreams += 1;
        }
        assert!(upstreams > 0, "{}", platform.name);
    }
}

#[test]
fn the_control_plane_reads_every_policy_and_gives_everybody_a_token() {
    for platform in with_compose() {
        let compose = compose(platform);
        let services = services(&compose);
        let control_plane = &services["control-plane"];
        let mounts = mounted(platform, control_plane);
        let mut there: BTreeSet<_> = mounts
            .iter()
            .map(|(here, there)| (here.canonicalize().expect("it is there"), there.clone()))
            .collect();
        let mut wanted = files(&platform.folder().join("policies"));
        wanted.push(platform.folder().join("mesh.yaml"));
        for file in wanted {
            let name = file.file_name().expect("a name").to_string_lossy();
            let entry = (
                file.canonicalize().expect("it is there"),
                format!("{MESH}{name}"),
            );
            assert!(there.remove(&entry), "{}: no {entry:?}", platform.name);
        }
        assert!(there.is_empty(), "{}: {there:?}", platform.name);
        let command = texts(&control_plane["command"]);
        let wanted = [
            "internal",
            "control-plane",
            "serve",
            "--dir",
            "/mesh",
            "--state",
            "/state",
        ];
        assert_eq!(command, wanted);
        let help = weft(
            &["internal", "control-plane", "serve", "--help"],
            &platform.folder(),
        );
        for flag in ["--dir <", "--state <"] {
            assert!(said(&help.stdout).contains(flag), "{flag}");
        }
        let script = text(&services["join"]["command"][0]);
        let (_, names) = script.split_once("for workload in ").expect("a loop");
        let names = names
            .split(';')
            .next()
            .expect("its names")
            .replace('\\', " ");
        let names: BTreeSet<_> = names.split_whitespace().map(str::to_owned).collect();
        let workloads = platform.workloads();
        let wanted = workloads
            .iter()
            .map(|it| format!("{}/{}", text(&it["namespace"]), text(&it["name"])));
        assert_eq!(names, wanted.collect());
        let address = text(&control_plane["networks"]["mesh"]["ipv4_address"]);
        let ready = format!("http://{address}:{}/ready", ports::ADMIN);
        assert!(script.contains(&ready), "{script}");
    }
}

#[test]
fn prometheus_scrapes_every_process_and_has_the_rules() {
    for platform in with_compose() {
        let compose = compose(platform);
        let home = tempfile::tempdir().expect("a directory");
        fs::create_dir(home.path().join("rules")).expect("made");
        for (here, there) in mounted(platform, &services(&compose)["prometheus"]) {
            let inside = there.strip_prefix(PROMETHEUS).expect("Prometheus' folder");
            let here = here.canonicalize().expect("it is there");
            std::os::unix::fs::symlink(here, home.path().join(inside)).expect("linked");
        }
        let file = home.path().join("prometheus.yml");
        if let Some(said) = promtool(&["check", "config"], std::slice::from_ref(&file)) {
            assert!(said.contains("2 rule files found"), "{said}");
        }
        let config = documents(&file).remove(0);
        let found: BTreeSet<_> = list(&config["scrape_configs"])
            .iter()
            .flat_map(|job| list(&job["static_configs"]))
            .map(|it| {
                let labels = &it["labels"];
                let target = text(&it["targets"][0]).to_owned();
                let labels = ["namespace", "pod"].map(|label| text(&labels[label]).to_owned());
                (target, labels)
            })
            .collect();
        let workloads = platform.workloads();
        let mut wanted: BTreeSet<_> = workloads
            .iter()
            .map(|it| {
                let target = format!("{}:{}", text(&it["addresses"][0]), ports::ADMIN);
                let labels = ["namespace", "name"].map(|field| text(&it[field]).to_owned());
                (target, labels)
            })
            .collect();
        let address = &services(&compose)["control-plane"]["networks"]["mesh"]["ipv4_address"];
        wanted.insert((
            format!("{}:{}", text(address), ports::ADMIN),
            [names::CONTROL_PLANE_NAMESPACE, "weft-control-plane-0"].map(str::to_owned),
        ));
        assert_eq!(found, wanted, "{}", platform.name);
    }
}

/// The guide's table of what starts after what.
#[test]
fn the_kafka_platform_starts_in_the_order_of_its_guide() {
    let compose = compose(PLATFORMS[4]);
    let services = services(&compose);
    let brokers = ["kafka-0", "kafka-1", "kafka-2"];
    let waits = |who: &str, whom: &[&str]| {
        for other in whom {
            let how = &services[&format!("{who}{APP}")]["depends_on"][format!("{other}{APP}")];
            assert_eq!(how["condition"], "service_healthy", "{who} for {other}");
        }
    };
    for broker in brokers {
        waits(broker, &["zookeeper-0"]);
    }
    waits("user-service-1", &[&brokers[..], &["postgres-0"]].concat());
    waits("notification-service-1", &brokers);
    for gateway in ["gateway-1", "gateway-2"] {
        waits(gateway, &[&brokers[..], &["redis-0"]].concat());
    }
}
