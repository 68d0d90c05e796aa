//! `examples/quickstart/compose` is as good as can be told without a container engine: what it mounts is
//! there, the programs know every flag and variable that it gives them, its addresses and ports are those
//! of `mesh.yaml` and of Weft, and `promtool` finds nothing wrong with Prometheus' configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};
use weft_images::Image;
use weft_proto::names::{self, PROXY_UID, ports};
use weft_proto::spiffe::SpiffeId;
use weft_proxy::app::settings::{Interception, Settings};

/// Roles of a workload's containers, by what stands behind its name.
const INIT: &str = "-init";
const APP: &str = "-app";
/// Where the control plane's and Prometheus' folders are, in their containers.
const MESH: &str = "/mesh";
const PROMETHEUS: &str = "/etc/prometheus";
/// How flags begin.
const FLAG: &str = "--";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/compose")
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compose() -> Value {
    yaml(&folder().join("compose.yaml"))
}

fn mesh() -> Value {
    yaml(&folder().join("../mesh.yaml"))
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().expect("services")
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.map(|it| it.as_str().expect("a string").to_owned())
        .collect()
}

fn string(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
}

/// The workloads of `mesh.yaml`, name and address.
fn workloads(mesh: &Value) -> BTreeMap<String, String> {
    let workloads = mesh["workloads"].as_array().expect("workloads").iter();
    workloads
        .map(|it| {
            assert_eq!(it["namespace"], "shop");
            (
                string(&it["name"]).to_owned(),
                string(&it["addresses"][0]).to_owned(),
            )
        })
        .collect()
}

/// What a service mounts from this repository: the path here, and in the container.
fn mounted(service: &Value) -> Vec<(PathBuf, String)> {
    let volumes = service["volumes"].as_array().into_iter().flatten();
    let short = volumes.filter_map(Value::as_str);
    let parts = short.filter_map(|it| {
        let (here, there) = it.split_once(':').expect("SOURCE:TARGET");
        let there = there.trim_end_matches(":ro").to_owned();
        here.starts_with('.').then(|| (folder().join(here), there))
    });
    parts.collect()
}

/// Whether the program that `command` starts knows all flags in it: its help has them, and nothing else is
/// wrong with them.
fn assert_flags(command: &[&str], given: &[String]) {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(command)
        .arg("--help")
        .output()
        .expect("weft starts");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(help.contains("Usage: "), "{command:?} has no help");
    let known: BTreeSet<&str> = help
        .split(|sign: char| !(sign.is_ascii_alphanumeric() || sign == '-'))
        .collect();
    for flag in given.iter().filter(|it| it.starts_with(FLAG)) {
        let name = flag.split('=').next().expect("a first part");
        assert!(known.contains(name), "{command:?} knows no {name}:\n{help}");
    }
}

#[test]
fn every_mounted_file_and_volume_is_there() {
    let compose = compose();
    let volumes = compose["volumes"].as_object().expect("volumes");
    let mut checked = 0;
    for (name, service) in services(&compose) {
        for (here, _) in mounted(service) {
            assert!(here.exists(), "{name}: no {}", here.display());
            checked += 1;
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = match volume {
                Value::String(short) => short.split(':').next().expect("a source"),
                long => string(&long["source"]),
            };
            let is_path = source.starts_with('.');
            assert!(is_path || volumes.contains_key(source), "{name}: {source}");
        }
    }
    assert!(checked >= 6, "only {checked} mounts");
}

#[test]
fn services_start_after_and_inside_of_ones_that_are_there() {
    let compose = compose();
    let services = services(&compose);
    for (name, service) in services {
        for other in service["depends_on"]
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
        {
            assert!(services.contains_key(other), "{name} waits for {other}");
        }
        if let Some(mode) = service["network_mode"].as_str() {
            let owner = mode.strip_prefix("service:").expect("another's network");
            assert!(services.contains_key(owner), "{name} is in {owner}");
            assert!(service["networks"].is_null(), "{name} has two networks");
            assert!(!service["depends_on"][owner].is_null(), "{name}");
        }
    }
}

#[test]
fn images_are_ours_of_this_version_or_others_with_a_version() {
    let version = env!("CARGO_PKG_VERSION");
    let compose = compose();
    let mut ours = BTreeSet::new();
    for (name, service) in services(&compose) {
        let image = if let Some(image) = service["image"].as_str() {
            image
        } else {
            let file = string(&service["build"]["dockerfile_inline"]);
            let from = file.lines().next().and_then(|it| it.strip_prefix("FROM "));
            from.expect("an image")
        };
        let (repository, tag) = image.rsplit_once(':').expect("a tag");
        if Image::named(repository).is_some() {
            assert_eq!(tag, version, "{name}");
            ours.insert(repository.to_owned());
        } else {
            assert!(tag.contains('.'), "{name}: {image}");
        }
    }
    let wanted = [names::CONTROL_PLANE_IMAGE, names::PROXY_IMAGE].map(str::to_owned);
    assert_eq!(ours, BTreeSet::from(wanted));
}

#[test]
fn every_workload_has_a_sidecar_that_accepts_its_settings() {
    let (compose, mesh) = (compose(), mesh());
    let services = services(&compose);
    let workloads = workloads(&mesh);
    assert_eq!(workloads.len(), 8);
    let control_plane = &services["control-plane"]["networks"]["mesh"]["ipv4_address"];
    let known =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sidecar.md"))
            .expect("the page of settings");
    for (name, address) in &workloads {
        let sidecar = &services[name];
        assert_eq!(sidecar["networks"]["mesh"]["ipv4_address"], **address);
        assert_eq!(string(&sidecar["user"]), format!("{PROXY_UID}:{PROXY_UID}"));
        let variables = sidecar["environment"].as_object().expect("variables");
        for variable in variables.keys() {
            assert!(known.contains(&format!("| `{variable}` |")), "{variable}");
        }
        let settings = Settings::from_vars(|variable| {
            variables
                .get(variable)
                .map(|value| string(value).to_owned())
        });
        let settings = settings.unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_eq!(settings.workload, *name);
        let own: IpAddr = address.parse().expect("an address");
        assert_eq!(settings.workload_addresses, [own]);
        assert_eq!(settings.interception, Interception::Redirect);
        assert_eq!(settings.control_plane_addr.host, string(control_plane));
        assert_eq!(settings.control_plane_addr.port, ports::CONTROL_PLANE);
        let id = format!(
            "spiffe://{}/ns/{}/sa/{}",
            string(&mesh["trustDomain"]),
            names::CONTROL_PLANE_NAMESPACE,
            names::CONTROL_PLANE_SERVICE_ACCOUNT
        );
        let id: SpiffeId = id.parse().expect("an id");
        assert_eq!(settings.control_plane_id, id);
        assert_eq!(settings.outbound_addrs.len(), 1);
        assert_eq!(settings.outbound_addrs[0].port(), ports::OUTBOUND);
        assert_eq!(settings.inbound_addr.address().port(), ports::INBOUND);
        assert_eq!(settings.admin_addr.address().port(), ports::ADMIN);
        // What it has to read is in the volume that is its own.
        let volume = &sidecar["volumes"][0];
        assert_eq!(volume["volume"]["subpath"], **name);
        for file in [&settings.token_file, &settings.trust_bundle_file] {
            assert!(file.starts_with(string(&volume["target"])));
        }
        let check = strings(&sidecar["healthcheck"]["test"]);
        assert_eq!(check[1..3], ["/usr/bin/weft-proxy", "await"]);
        assert_flags(&["internal", "proxy", "await"], &check[3..]);

        let init = &services[&format!("{name}{INIT}")];
        assert_eq!(strings(&init["command"]), ["init"]);
        assert_eq!(strings(&init["cap_add"]), ["NET_ADMIN"]);
        let app = &services[&format!("{name}{APP}")];
        let command = strings(&app["command"]);
        assert_eq!(command[..4], ["internal", "app", "--name", name]);
        assert_flags(&["internal", "app"], &command[2..]);
        let port = format!("http:{}", settings.inbound_ports[0]);
        assert_eq!(command.last(), Some(&port));
        for part in [init, app] {
            assert_eq!(part["network_mode"], format!("service:{name}"));
        }
    }
    let own = services.keys().filter(|it| it.ends_with(APP));
    assert_eq!(own.count(), workloads.len());
}

#[test]
fn names_are_those_of_the_mesh_and_reach_its_services() {
    let (compose, mesh) = (compose(), mesh());
    let services_of_mesh = mesh["services"].as_array().expect("services").iter();
    let wanted: BTreeSet<_> = services_of_mesh
        .map(|it| format!("{}:{}", string(&it["name"]), string(&it["clusterIPs"][0])))
        .collect();
    let names: BTreeSet<_> = strings(&compose["x-sidecar"]["extra_hosts"])
        .into_iter()
        .collect();
    assert_eq!(names, wanted);
    // Service addresses are of no network that containers have, so that only redirection gets there.
    let subnet = string(&compose["networks"]["mesh"]["ipam"]["config"][0]["subnet"]);
    let networks = strings(&mesh["networks"]);
    assert_eq!(networks[0], subnet);
}

#[test]
fn the_control_plane_reads_the_directory_and_gives_everybody_a_token() {
    let (compose, mesh) = (compose(), mesh());
    let services = services(&compose);
    let control_plane = &services["control-plane"];
    let command = strings(&control_plane["command"]);
    assert_eq!(command[..3], ["internal", "control-plane", "serve"]);
    assert_flags(&["internal", "control-plane", "serve"], &command[3..]);
    let after = |flag: &str| {
        let at = command.iter().position(|it| it == flag).expect("the flag");
        command[at + 1].clone()
    };
    let (here, there) = mounted(control_plane).remove(0);
    assert_eq!((&*there, &*after("--dir")), (MESH, MESH));
    assert!(here.join("mesh.yaml").is_file());
    let state = format!("state:{}", after("--state"));
    let join = &services["join"];
    for service in [control_plane, join] {
        assert!(strings(&service["volumes"]).contains(&state));
    }
    let script = string(&join["command"][0]);
    let (_, names) = script.split_once("for workload in ").expect("a loop");
    let names = names.split(';').next().expect("its names");
    let names: BTreeSet<_> = names.split(' ').map(str::to_owned).collect();
    assert_eq!(names, workloads(&mesh).into_keys().collect());
    let given = "weft internal control-plane token --state /state shop/$$workload";
    assert!(script.contains(given), "{script}");
    assert_flags(
        &["internal", "control-plane", "token"],
        &["--state".to_owned()],
    );
    let address = &control_plane["networks"]["mesh"]["ipv4_address"];
    let ready = format!("http://{}:{}/ready", string(address), ports::ADMIN);
    assert!(script.contains(&ready), "{script}");
}

#[test]
fn prometheus_scrapes_every_process_and_has_the_rules() {
    let compose = compose();
    let prometheus = &services(&compose)["prometheus"];
    // As the container sees them.
    let home = tempfile::tempdir().expect("a directory");
    for (here, there) in mounted(prometheus) {
        let inside = there.strip_prefix(PROMETHEUS).expect("Prometheus' folder");
        let link = home.path().join(inside.trim_start_matches('/'));
        let here = here.canonicalize().expect("it is there");
        std::os::unix::fs::symlink(here, link).expect("linked");
    }
    let file = home.path().join("prometheus.yml");
    let output = Command::new("promtool")
        .args(["check", "config"])
        .arg(&file)
        .output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}{wrong}");
            assert!(said.contains("2 rule files found"), "{said}{wrong}");
        }
        // As everywhere: what a machine lacks is a failure only where nothing may be lacking.
        Err(_) => assert!(
            std::env::var_os("CI").is_none_or(|it| it != "true"),
            "promtool is not there"
        ),
    }
    let command = strings(&prometheus["command"]);
    assert_eq!(
        command[0],
        format!("--config.file={PROMETHEUS}/prometheus.yml")
    );

    let config = yaml(&file);
    let jobs = config["scrape_configs"].as_array().expect("jobs");
    let mut wanted: BTreeMap<_, _> = workloads(&mesh())
        .into_iter()
        .map(|(name, address)| {
            let owner = name.rsplit_once('-').map_or(&*name, |(owner, _)| owner);
            let labels = json!({"namespace": "shop", "pod": name, "workload": owner});
            (format!("{address}:{}", ports::ADMIN), labels)
        })
        .collect();
    let address = &services(&compose)["control-plane"]["networks"]["mesh"]["ipv4_address"];
    wanted.insert(
        format!("{}:{}", string(address), ports::ADMIN),
        json!({"namespace": names::CONTROL_PLANE_NAMESPACE, "pod": "weft-control-plane-0"}),
    );
    let targets = jobs
        .iter()
        .filter_map(|job| job["static_configs"].as_array());
    let targets: BTreeMap<_, _> = targets
        .flatten()
        .map(|it| (string(&it["targets"][0]).to_owned(), it["labels"].clone()))
        .collect();
    assert_eq!(targets, wanted);
}

#[test]
fn grafana_finds_prometheus_and_the_dashboards() {
    let compose = compose();
    let services = services(&compose);
    let grafana = &services["grafana"];
    let mounts = mounted(grafana);
    let here = |there: &str| {
        let found = mounts.iter().find(|(_, it)| it == there);
        found
            .unwrap_or_else(|| panic!("nothing at {there}"))
            .0
            .clone()
    };
    let provisioning = "/etc/grafana/provisioning";
    let sources = yaml(&here(&format!("{provisioning}/datasources")).join("prometheus.yaml"));
    let source = &sources["datasources"][0];
    assert_eq!(
        (&source["type"], &source["isDefault"]),
        (&json!("prometheus"), &json!(true))
    );
    let address = &services["prometheus"]["networks"]["mesh"]["ipv4_address"];
    assert_eq!(
        string(&source["url"]),
        format!("http://{}:9090", string(address))
    );
    let providers = yaml(&here(&format!("{provisioning}/dashboards")).join("weft.yaml"));
    let boards = here(string(&providers["providers"][0]["options"]["path"]));
    let files = fs::read_dir(boards).expect("the dashboards").count();
    assert_eq!(files, 10);
}

#[test]
fn what_is_unknown_is_found_out() {
    let refused = |variables: Value| {
        Settings::from_vars(|name| variables[name].as_str().map(str::to_owned)).is_err()
    };
    let mut good = compose()["services"]["web-1"]["environment"].clone();
    assert!(!refused(good.clone()));
    good["WEFT_WORKLOAD_ADDRESSES"] = json!("web-1");
    assert!(refused(good));
    let unknown = std::panic::catch_unwind(|| {
        assert_flags(&["internal", "app"], &["--nome".to_owned()]);
    });
    assert!(unknown.is_err());
}
