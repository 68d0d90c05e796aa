//! The recipes of `examples/canary` in a cluster: their files and the commands of their pages, judged by what
//! the servers saw.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use weft_sandbox::metrics::Metrics;
use weft_sandbox::{Mesh, Workload};
use weft_tests::counts::{assert_no_failure, wait_for};
use weft_tests::promql::{Selector, selectors};

use crate::canary::{NEW, OLD, ask, start_load, until_share};
use crate::common::{CHANGE, Cluster, Cx, http_app, mesh, service};
use crate::{Needs, Suite};

/// The namespace of the recipe's files.
const NAMESPACE: &str = "canary";

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs {
        kubectl: true,
        ..Needs::default()
    };
    suite.add("recipes::plain", needs, plain);
}

/// A file of a recipe.
fn file(path: &str) -> anyhow::Result<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/canary");
    fs::read_to_string(here.join(path)).with_context(|| path.to_owned())
}

/// The JSON patches of a page, in order.
fn patches(page: &str) -> Vec<String> {
    let commands = page.split("--type=json -p '").skip(1);
    let patch = |rest: &str| rest.split('\'').next().unwrap_or_default().to_owned();
    commands.map(patch).collect()
}

/// What the page asks for the policy's status.
const STATUS: [&str; 5] = [
    "get",
    "tp",
    "app",
    "-o",
    "jsonpath={.status.proxies.acknowledged} of {.status.proxies.total}",
];

/// Waits until all sidecars run the policy: how many that are.
async fn status(cluster: &Cluster, mesh: &Mesh) -> anyhow::Result<String> {
    let namespace = ["-n", mesh.namespace()];
    let page = file("plain/README.md")?;
    let wait = ["wait", "--for=condition=Programmed", "tp/app"];
    for command in [&wait[..], &STATUS] {
        let [words @ .., last] = command else {
            unreachable!("neither is empty")
        };
        assert!(page.contains(&words.join(" ")), "{words:?} is on the page");
        assert!(page.contains(last), "{last} is on the page");
    }
    let patience = ["--timeout=20s"];
    let wait = [&namespace[..], &wait, &patience].concat();
    cluster.kubectl(&wait, "").await?;
    let get = [&namespace[..], &STATUS].concat();
    cluster.kubectl(&get, "").await
}

/// The page's steps from 90/10 over 50/50 to 0/100 and back to 100/0, each by the page's own command.
async fn plain(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = mesh("plain")
        .workload(Workload::new("client").service_account("client"))
        .workload(http_app(OLD))
        .workload(http_app(NEW).version("v2"))
        .service(service("app", [OLD, NEW]))
        .service(service("app-stable", [OLD]))
        .service(service("app-canary", [NEW]));
    cx.on(&cluster, builder, async |mesh| {
        let load = start_load(mesh);
        let policy = file("plain/policy.yaml")?;
        let policy = policy.replace(
            &format!("namespace: {NAMESPACE}"),
            &format!("namespace: {}", mesh.namespace()),
        );
        cluster.kubectl(&["apply", "-f", "-"], &policy).await?;
        until_share(mesh, [OLD, NEW], 10).await?;
        let said = status(&cluster, mesh).await?;
        cx.measured(format!("{} {said}", STATUS.join(" ")));
        assert_eq!(said, "1 of 1", "the client's sidecar runs it");

        let steps = patches(&file("plain/README.md")?);
        assert_eq!(steps.len(), 3, "50, 100 and back");
        for (patch, wanted) in steps.iter().zip([50, 100, 0]) {
            let arguments = [
                "-n",
                mesh.namespace(),
                "patch",
                "trafficpolicy",
                "app",
                "--type=json",
                "-p",
                patch,
            ];
            cluster.kubectl(&arguments, "").await?;
            until_share(mesh, [OLD, NEW], wanted).await?;
            // Testers stay where they want to be, also where nobody else is.
            let id = format!("tester-at-{wanted}");
            let answer = ask(mesh, &[("x-canary", "always")], &id).await?;
            assert_eq!(answer.served_by(), Some(NEW), "{id}: {answer:?}");
        }
        assert_no_failure(&load.stop().await);
        Ok(())
    })
    .await
}

/// Every selector of a recipe's queries finds a series on the page of the caller's or of the canary's
/// sidecar. What is told by `=` must be as it is written, once placeholders are replaced; of other
/// matchers, and of the names of pods, which a tool makes, the label must be there.
pub(crate) async fn assert_selected(
    mesh: &Mesh,
    queries: &str,
    placeholders: &[(&str, &str)],
) -> anyhow::Result<()> {
    let mut queries = file(queries)?;
    for (placeholder, value) in placeholders {
        queries = queries.replace(placeholder, value);
    }
    let found = selectors(&queries);
    assert!(!found.is_empty(), "no selector in {queries}");
    for selector in found {
        let is_outbound = selector
            .matchers
            .iter()
            .any(|matcher| matcher.label == "direction" && matcher.value == "outbound");
        let workload = if is_outbound { "client" } else { NEW };
        wait_for(&format!("{selector:?} at {workload}"), CHANGE, async || {
            let page = Metrics::parse(&mesh.metrics(workload).await?);
            Ok(selects(&selector, &page).then_some(()))
        })
        .await?;
    }
    Ok(())
}

fn selects(selector: &Selector, page: &Metrics) -> bool {
    page.matching(&selector.name, &[]).any(|sample| {
        // The name of the pod is added by whoever scrapes.
        let mut own = selector.matchers.iter().filter(|it| it.label != "pod");
        own.all(|matcher| {
            let value = sample.label(&matcher.label);
            let is_free = matcher.operator != "=";
            value.is_some_and(|value| is_free || value == matcher.value)
        })
    })
}
