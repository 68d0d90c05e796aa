//! Who somebody is in a cluster, who vouches and who leads: the control plane's own tasks, and whole
//! processes of it, on an API server.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_control_plane::cluster::Leading;
use weft_control_plane::cluster::authority::{self, AuthorityError, Home};
use weft_control_plane::cluster::bundle::Bundles;
use weft_control_plane::cluster::lease::{Candidate, Timing};
use weft_control_plane::cluster::review::TokenReviews;
use weft_control_plane::cluster::webhook::{self, Webhook};
use weft_control_plane::identity::{Authority, ReviewError, TokenReviewer as _, WorkloadIdentity};
use weft_control_plane::index::{
    MeshSettings, Model, Name, Objects, Origin, Publisher, Sourced, Workload,
};
use weft_control_plane::serve::Metrics;
use weft_tests::apiserver::{ApiServer, Outage};

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
/// So short that tests need not wait for long, and long enough for a busy machine.
const LEASE: Duration = Duration::from_secs(3);
const HOME: Home<'static> = Home {
    namespace: "weft",
    trust_domain: "cluster.local",
    leaf_lifetime: HOUR,
};
const SECRETS: &str = "/api/v1/namespaces/weft/secrets";
const MAPS: &str = "/api/v1/namespaces/weft/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/weft/leases";

async fn client(server: &ApiServer) -> Client {
    let config = Kubeconfig::from_yaml(&server.kubeconfig().unwrap()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(config, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// A server with the control plane's namespace.
async fn server() -> ApiServer {
    let server = ApiServer::start().await.unwrap();
    namespace(&server, "weft", false).await;
    server
}

async fn namespace(server: &ApiServer, name: &str, injected: bool) {
    let labels = match injected {
        true => json!({"weft.dev/inject": "enabled"}),
        false => json!({}),
    };
    let manifest = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
    });
    server.put(&manifest).await.unwrap();
}

/// What there is at a path, if anything.
async fn at(server: &ApiServer, path: &str) -> Option<Value> {
    let (code, object) = server.ask(Method::GET, path, None).await;
    (code == 200).then_some(object)
}

/// What a test waits for.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until this candidate leads.
async fn leads(leading: &Leading) {
    until("it leads", async || *leading.borrow()).await;
}

/// A candidate that runs, and how to end it in order.
struct Running {
    leading: Leading,
    end: CancellationToken,
    task: JoinHandle<()>,
}

async fn candidate(server: &ApiServer, pod: &str) -> Running {
    let gauge = Metrics::new().gauge("weft_control_plane_leader", "");
    let timing = Timing::of(LEASE);
    let (candidate, leading) = Candidate::new(client(server).await, "weft", pod, timing, gauge);
    let end = CancellationToken::new();
    let task = tokio::spawn(candidate.run(end.clone()));
    Running { leading, end, task }
}

fn holder(lease: &Value) -> String {
    lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn always_leading() -> Leading {
    let (sender, leading) = watch::channel(true);
    // Nobody leads by the word of somebody who is gone.
    std::mem::forget(sender);
    leading
}

fn model(workloads: &[(&str, &str, &str)]) -> Objects {
    let workload = |&(namespace, name, account): &(&str, &str, &str)| Sourced {
        origin: Origin {
            file: "cluster".into(),
            line: 0,
        },
        object: Workload {
            name: Name::new(namespace, name),
            owner: name.to_owned(),
            service_account: account.to_owned(),
            addresses: Vec::new(),
            meshed: true,
            zone: String::new(),
            weight: 1,
            draining: false,
            ports: Vec::new(),
        },
    };
    Objects {
        settings: MeshSettings {
            trust_domain: "cluster.local".to_owned(),
            networks: Vec::new(),
            server_first_ports: Vec::new(),
            minimum_mtls: None,
        },
        listeners: Vec::new(),
        workloads: workloads.iter().map(workload).collect(),
        services: Vec::new(),
        policies: Vec::new(),
        broken: Vec::new(),
        routes: Vec::new(),
        grants: Vec::new(),
        refusals: Vec::new(),
    }
}

/// A namespace with an account and a pod of it. The pod's uid.
async fn pod(server: &ApiServer, name: &str, account: &str) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"serviceAccountName": account, "containers": [{"name": "app", "image": "app"}]},
    });
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": account, "namespace": "shop"},
    });
    server.put(&account).await.unwrap();
    let pod = server.put(&pod).await.unwrap();
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// What a reviewer says, in a word.
fn said(result: &Result<WorkloadIdentity, ReviewError>) -> &'static str {
    match result {
        Ok(_) => "good",
        Err(ReviewError::Invalid(_)) => "invalid",
        Err(ReviewError::UnknownWorkload { .. }) => "unknown",
        Err(ReviewError::Unavailable(_)) => "unavailable",
    }
}

#[tokio::test]
async fn a_token_is_believed_for_what_it_proves() {
    let server = server().await;
    namespace(&server, "shop", true).await;
    let web = pod(&server, "web", "frontend").await;
    let late = pod(&server, "late", "frontend").await;
    let other = pod(&server, "moved", "backend").await;
    let known = [
        ("shop", "web", "frontend"),
        // As a pod of that name was before it was made anew with another account.
        ("shop", "moved", "frontend"),
    ];
    let (publisher, models): (Publisher, watch::Receiver<Arc<Model>>) =
        Publisher::start(model(&known));
    let reviews = TokenReviews::new(client(&server).await, models);

    let mint = |account: &str, audience: &str, life: Duration, pod: Option<(&str, &str)>| {
        server.mint_token(("shop", account), &[audience], life, pod)
    };
    let good = mint("frontend", "weft.dev", HOUR, Some(("web", &web)));
    let owner = reviews.review(&good).await.unwrap();
    assert_eq!(
        (&*owner.namespace, &*owner.service_account, &*owner.workload),
        ("shop", "frontend", "web")
    );

    let wrong = [
        (
            "another audience",
            mint("frontend", "other", HOUR, Some(("web", &web))),
        ),
        (
            "the API server's audience",
            server.mint_token(("shop", "frontend"), &[], HOUR, None),
        ),
        ("no pod", mint("frontend", "weft.dev", HOUR, None)),
        (
            "expired",
            mint("frontend", "weft.dev", Duration::ZERO, Some(("web", &web))),
        ),
        (
            "an account that is gone",
            mint("gone", "weft.dev", HOUR, Some(("web", &web))),
        ),
        (
            "another pod's uid",
            mint("frontend", "weft.dev", HOUR, Some(("web", "1-2-3"))),
        ),
        ("garbage", "garbage".to_owned()),
        ("nothing", String::new()),
        ("too long", "x".repeat(20 * 1024)),
        ("spoiled", format!("{good}0")),
    ];
    for (what, token) in &wrong {
        let result = reviews.review(token).await;
        assert_eq!(said(&result), "invalid", "{what}: {result:?}");
    }
    let unbound = reviews.review(&wrong[2].1).await.unwrap_err().to_string();
    assert!(
        unbound.contains("projected volume"),
        "how to mend it: {unbound}"
    );

    // Good, and not known yet: an account that does not fit is a younger pod's.
    let early = mint("frontend", "weft.dev", HOUR, Some(("late", &late)));
    let moved = mint("backend", "weft.dev", HOUR, Some(("moved", &other)));
    for token in [&early, &moved] {
        let result = reviews.review(token).await;
        assert_eq!(said(&result), "unknown", "{result:?}");
    }
    publisher.publish(model(&[
        ("shop", "late", "frontend"),
        ("shop", "web", "frontend"),
    ]));
    assert_eq!(said(&reviews.review(&early).await), "good");

    let asked = server.count("create", "tokenreviews.authentication.k8s.io");
    assert_eq!(said(&reviews.review(&good).await), "good");
    let again = server.count("create", "tokenreviews.authentication.k8s.io");
    assert_eq!(again, asked + 1, "every token is looked at anew");

    // While the API server is away nobody is refused for good, and nothing shows the token.
    for outage in [Outage::Away, Outage::Failing(500), Outage::Hang] {
        server.set_outage(outage);
        let result = reviews.review(&good).await;
        assert_eq!(said(&result), "unavailable", "{outage:?}: {result:?}");
        assert!(!format!("{result:?}").contains(&good));
    }
    server.set_outage(Outage::None);
    assert_eq!(said(&reviews.review(&good).await), "good");
    let gone = "/api/v1/namespaces/shop/pods/web?gracePeriodSeconds=0";
    server.ask(Method::DELETE, gone, None).await;
    assert_eq!(
        said(&reviews.review(&good).await),
        "invalid",
        "its pod is gone"
    );
    server.stop().await;
}

#[tokio::test]
async fn however_many_race_there_is_one_authority() {
    let server = server().await;
    // Worse than leases allow: all of them believe that they lead.
    let opening = (0..8).map(|_| async {
        let client = client(&server).await;
        authority::open(client, HOME, always_leading())
            .await
            .unwrap()
    });
    let opened: Vec<Authority> = futures_util::future::join_all(opening).await;
    let roots: Vec<_> = opened
        .iter()
        .map(|one| one.bundle().borrow().clone())
        .collect();
    assert!(roots.iter().all(|root| *root == roots[0]));
    let secret = at(&server, &format!("{SECRETS}/weft-authority"))
        .await
        .unwrap();
    assert_eq!(secret["type"], "Opaque");
    let again = authority::open(client(&server).await, HOME, watch::channel(false).1).await;
    assert_eq!(*again.unwrap().bundle().borrow(), roots[0], "and it stays");
    server.stop().await;
}

#[tokio::test]
async fn who_does_not_lead_waits_for_the_authority() {
    let server = server().await;
    let (lead, leading) = watch::channel(false);
    let client = client(&server).await;
    server.set_outage(Outage::Failing(503));
    let opening = tokio::spawn(authority::open(client, HOME, leading));
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.set_outage(Outage::None);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!opening.is_finished());
    assert_eq!(server.count("create", "secrets"), 0, "it makes none");
    lead.send_replace(true);
    tokio::time::timeout(PATIENCE, opening)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(server.count("create", "secrets"), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_lost_or_broken_secret_is_refused_and_left_as_it_is() {
    let server = server().await;
    let client = client(&server).await;
    let first = authority::open(client.clone(), HOME, always_leading())
        .await
        .unwrap();
    let bundle = |text: String| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "weft-trust-bundle", "namespace": "weft"},
            "data": {"trust-bundle.pem": text},
        })
    };
    let pem = first.bundle().borrow().to_pem();
    server.put(&bundle(pem)).await.unwrap();
    let path = format!("{SECRETS}/weft-authority");
    let kept = at(&server, &path).await.unwrap();
    authority::open(client.clone(), HOME, always_leading())
        .await
        .unwrap();

    server.ask(Method::DELETE, &path, None).await;
    let lost = authority::open(client.clone(), HOME, always_leading()).await;
    assert!(matches!(lost, Err(AuthorityError::SecretLost { .. })));
    assert!(at(&server, &path).await.is_none(), "it was not made again");

    let mut broken = kept.clone();
    broken["metadata"] = json!({"name": "weft-authority", "namespace": "weft"});
    let mut restored = broken.clone();
    broken["data"]["authority.pem"] = STANDARD.encode("nothing").into();
    server.put(&broken).await.unwrap();
    let refused = authority::open(client.clone(), HOME, always_leading()).await;
    assert!(matches!(refused, Err(AuthorityError::Corrupt { .. })));

    let state = Authority::make_state("cluster.local", std::time::SystemTime::now()).unwrap();
    let mut other = restored.clone();
    other["data"]["authority.pem"] = STANDARD.encode(&state).into();
    server.put(&other).await.unwrap();
    let refused = authority::open(client.clone(), HOME, always_leading()).await;
    assert!(matches!(refused, Err(AuthorityError::OtherBundle { .. })));

    // What was mended works.
    restored["data"] = kept["data"].clone();
    server.put(&restored).await.unwrap();
    let back = authority::open(client, HOME, always_leading())
        .await
        .unwrap();
    assert_eq!(*back.bundle().borrow(), *first.bundle().borrow());
    server.stop().await;
}

#[tokio::test]
async fn the_lease_goes_to_the_next_after_an_end_and_after_a_kill() {
    let server = server().await;
    let path = format!("{LEASES}/weft-control-plane");
    let first = candidate(&server, "cp-1").await;
    leads(&first.leading).await;
    let second = candidate(&server, "cp-2").await;
    let lease = at(&server, &path).await.unwrap();
    assert!(holder(&lease).starts_with("cp-1_"), "{lease}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 3);
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    // It is renewed, and nobody else takes it.
    tokio::time::sleep(LEASE * 2).await;
    assert!(*first.leading.borrow() && !*second.leading.borrow());
    assert!(holder(&at(&server, &path).await.unwrap()).starts_with("cp-1_"));

    // An orderly end: at the next look, long before the lease would have run out.
    first.end.cancel();
    first.task.await.unwrap();
    assert!(!*first.leading.borrow());
    let given_back = Instant::now();
    leads(&second.leading).await;
    let took = given_back.elapsed();
    assert!(took < LEASE / 2, "{took:?}");

    // A kill: when it has run out, and not before.
    let third = candidate(&server, "cp-3").await;
    tokio::time::sleep(LEASE / 3).await;
    second.task.abort();
    let _ = second.task.await;
    let killed = Instant::now();
    assert!(!*second.leading.borrow(), "who is gone leads no longer");
    leads(&third.leading).await;
    let took = killed.elapsed();
    // It had been renewed at most one retry, with some slack, before.
    assert!(took > LEASE / 2 && took < LEASE * 3, "{took:?}");
    let lease = at(&server, &path).await.unwrap();
    assert!(holder(&lease).starts_with("cp-3_"), "{lease}");
    assert_eq!(lease["spec"]["leaseTransitions"], 3);
    third.end.cancel();
    third.task.await.unwrap();
    assert_eq!(holder(&at(&server, &path).await.unwrap()), "", "given back");
    server.stop().await;
}

#[tokio::test]
async fn nobody_leads_past_its_deadline_without_the_api_server() {
    for outage in [Outage::Hang, Outage::Away, Outage::Failing(500)] {
        let server = server().await;
        let one = candidate(&server, "cp-1").await;
        let two = candidate(&server, "cp-2").await;
        let both = async || *one.leading.borrow() || *two.leading.borrow();
        until("one leads", both).await;
        server.set_outage(outage);
        let since = Instant::now();
        until("nobody leads", async || !both().await).await;
        let took = since.elapsed();
        assert!(took < LEASE, "{outage:?}: before another one may: {took:?}");
        server.set_outage(Outage::None);
        let since = Instant::now();
        while since.elapsed() < LEASE * 2 {
            assert!(!(*one.leading.borrow() && *two.leading.borrow()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until("one leads again", both).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn the_trust_bundle_follows_the_namespaces_that_want_sidecars() {
    let server = server().await;
    for name in ["shop", "bank", "plain"] {
        namespace(&server, name, name != "plain").await;
    }
    let client = client(&server).await;
    let authority = authority::open(client.clone(), HOME, always_leading())
        .await
        .unwrap();
    let pem = authority.bundle().borrow().to_pem();
    let set = |names: &[&str]| Arc::new(names.iter().map(|name| (*name).to_owned()).collect());
    let (injected, following) = watch::channel::<Arc<BTreeSet<String>>>(set(&["shop", "ending"]));
    let (lead, leading) = watch::channel(false);
    let bundles = Bundles {
        client,
        namespace: "weft".to_owned(),
        bundle: authority.bundle(),
        injected: following,
        leading,
        period: Duration::from_millis(300),
    };
    let task = tokio::spawn(bundles.run());
    let path =
        |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps/weft-trust-bundle");
    let holds = async |namespace: &str| {
        let map = at(&server, &path(namespace)).await?;
        map["data"]["trust-bundle.pem"]
            .as_str()
            .map(|text| text == pem)
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        holds("shop").await,
        None,
        "who does not lead writes nothing"
    );
    assert_eq!(server.count("list", "configmaps"), 0);

    // A namespace that is not there (any more) holds up no other.
    lead.send_replace(true);
    for name in ["shop", "weft"] {
        until(name, async || holds(name).await == Some(true)).await;
    }
    assert_eq!(holds("bank").await, None);
    injected.send_replace(set(&["shop", "bank"]));
    until("bank", async || holds("bank").await == Some(true)).await;

    // On difference only.
    let written = || {
        let verbs = ["create", "update", "patch", "delete"];
        verbs
            .map(|verb| server.count(verb, "configmaps"))
            .iter()
            .sum::<u64>()
    };
    let before = written();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(written(), before);

    // Changed by somebody, with what else they put there; and deleted by somebody.
    let spoil = json!({"data": {"trust-bundle.pem": "nothing", "more": "theirs"}});
    server.ask(Method::PATCH, &path("shop"), Some(&spoil)).await;
    until("corrected", async || holds("shop").await == Some(true)).await;
    let map = at(&server, &path("shop")).await.unwrap();
    assert_eq!(map["data"]["more"], "theirs");
    server.ask(Method::DELETE, &path("bank"), None).await;
    until("made again", async || holds("bank").await == Some(true)).await;

    // One that is not ours stays where it is not wanted.
    let foreign = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"trust-bundle.pem": "theirs"},
        "metadata": {"name": "weft-trust-bundle", "namespace": "plain"},
    });
    server.put(&foreign).await.unwrap();
    injected.send_replace(set(&["bank"]));
    until("taken away", async || holds("shop").await.is_none()).await;
    assert_eq!(holds("plain").await, Some(false));

    // After the API server was away, what was missed meanwhile is done.
    server.set_outage(Outage::Away);
    injected.send_replace(set(&["shop", "bank"]));
    tokio::time::sleep(Duration::from_millis(700)).await;
    server.set_outage(Outage::None);
    until("made up for", async || holds("shop").await == Some(true)).await;
    task.abort();
    server.stop().await;
}

fn webhooks(count: usize) -> Value {
    let webhooks: Vec<Value> = (0..count)
        .map(|index| {
            json!({
                "name": format!("injector-{index}.weft.dev"),
                "clientConfig": {"service": {"name": "weft-injector", "namespace": "weft", "path": "/"}},
                "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
                "rules": [],
            })
        })
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "weft-injector"}, "webhooks": webhooks,
    })
}

const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector";

/// The roots that every webhook trusts, base64; `None` where they do not agree.
async fn ca_bundle(server: &ApiServer) -> Option<String> {
    let configuration = at(server, CONFIGURATION).await?;
    let webhooks = configuration["webhooks"].as_array()?;
    let first = webhooks[0]["clientConfig"]["caBundle"].as_str()?;
    let all = webhooks
        .iter()
        .all(|one| one["clientConfig"]["caBundle"] == first);
    all.then(|| first.to_owned())
}

#[tokio::test]
async fn the_webhooks_trust_what_the_secret_says() {
    let server = server().await;
    let (lead, leading) = watch::channel(false);
    let timing = webhook::Timing {
        period: Duration::from_millis(100),
        ..webhook::Timing::default()
    };
    let expiry = Metrics::new().gauge("expiry", "");
    let webhook = Webhook::new(client(&server).await, "weft", timing, leading, expiry);
    let task = tokio::spawn(webhook.run());
    let path = format!("{SECRETS}/weft-injector-certificate");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(
        at(&server, &path).await.is_none(),
        "who does not lead writes nothing"
    );
    lead.send_replace(true);
    until("a certificate", async || at(&server, &path).await.is_some()).await;
    let secret = at(&server, &path).await.unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let root = secret["data"]["ca.crt"].as_str().unwrap().to_owned();

    // The configuration appears later, is changed by somebody, loses one, gains one.
    let trusts = async |root: &str| ca_bundle(&server).await.as_deref() == Some(root);
    server.put(&webhooks(2)).await.unwrap();
    until("both trust it", async || trusts(&root).await).await;
    server.put(&webhooks(3)).await.unwrap();
    until("all three trust it", async || trusts(&root).await).await;
    let resource = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
    let patches = server.count("patch", resource);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        server.count("patch", resource),
        patches,
        "on difference only"
    );

    // A Secret that is spoiled or deleted is made anew.
    let spoiled = json!({"data": {"tls.crt": STANDARD.encode("nothing")}});
    server.ask(Method::PATCH, &path, Some(&spoiled)).await;
    until("made anew", async || {
        let bundle = ca_bundle(&server).await;
        bundle.is_some_and(|bundle| bundle != root)
    })
    .await;
    // One that somebody else keeps is published and not touched.
    let foreign =
        json!({"metadata": {"labels": null}, "data": {"ca.crt": STANDARD.encode("theirs")}});
    server.ask(Method::PATCH, &path, Some(&foreign)).await;
    until("theirs is trusted", async || {
        trusts(&STANDARD.encode("theirs")).await
    })
    .await;
    server.ask(Method::DELETE, &path, None).await;
    until("ours again", async || {
        let secret = at(&server, &path).await;
        let root = secret.and_then(|secret| secret["data"]["ca.crt"].as_str().map(str::to_owned));
        ca_bundle(&server)
            .await
            .is_some_and(|bundle| Some(bundle) == root)
    })
    .await;
    task.abort();
    server.stop().await;
}

/// At every moment of several renewals, what is served is of a root that is trusted, and what is about to
/// be served was trusted for the time that API servers need.
#[tokio::test]
async fn renewals_leave_no_moment_without_trust() {
    let server = server().await;
    server.put(&webhooks(2)).await.unwrap();
    let timing = webhook::Timing {
        life: Duration::from_secs(9),
        settle: Duration::from_millis(700),
        period: Duration::from_millis(100),
    };
    let expiry = Metrics::new().gauge("expiry", "");
    let webhook = Webhook::new(
        client(&server).await,
        "weft",
        timing,
        always_leading(),
        expiry,
    );
    let task = tokio::spawn(webhook.run());
    let path = format!("{SECRETS}/weft-injector-certificate");
    until("published", async || ca_bundle(&server).await.is_some()).await;

    let pem = |text: &str| String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();
    let mut served = Vec::new();
    let mut most_roots = 0;
    let started = Instant::now();
    while served.len() < 3 {
        assert!(started.elapsed() < PATIENCE, "{} renewals", served.len());
        // The Secret first: by when the roots are read they may only be more.
        let secret = at(&server, &path).await.unwrap();
        let bundle = pem(&ca_bundle(&server).await.unwrap());
        let certificate = pem(secret["data"]["tls.crt"].as_str().unwrap());
        assert!(is_vouched_for(&certificate, &bundle));
        most_roots = most_roots.max(bundle.matches("BEGIN").count());
        if served.last() != Some(&certificate) {
            served.push(certificate);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(most_roots >= 2, "old and new together");
    task.abort();
    server.stop().await;
}

/// Whether one of these roots has signed the certificate.
fn is_vouched_for(certificate: &str, roots: &str) -> bool {
    use x509_parser::pem::Pem;
    let parsed = |text: &str| -> Vec<Pem> {
        Pem::iter_from_buffer(text.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap()
    };
    let (leaf, roots) = (parsed(certificate), parsed(roots));
    let leaf = leaf[0].parse_x509().unwrap();
    let key_of = |pem: &Pem| {
        let root = pem.parse_x509().unwrap();
        let key = root.public_key().subject_public_key.data.to_vec();
        aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            key,
        )
    };
    let signed = leaf.tbs_certificate.as_ref();
    let signature = &leaf.signature_value.data;
    roots
        .iter()
        .any(|root| key_of(root).verify(signed, signature).is_ok())
}

/// A control plane as a process of its own. Killed when dropped.
struct Process(Child);

impl Process {
    fn start(server: &ApiServer, directory: &Path, pod: &str) -> Self {
        let kubeconfig = directory.join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig().unwrap()).unwrap();
        let log = std::fs::File::create(directory.join(format!("{pod}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
            .args(["internal", "control-plane", "serve"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .arg("--port-file")
            .arg(directory.join(format!("{pod}.ports")))
            .env("KUBECONFIG", kubeconfig)
            .env("WEFT_POD_NAME", pod)
            .env("WEFT_POD_IP", "127.0.0.1")
            .env("WEFT_LEASE_DURATION", "3s")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGTERM, then its end: whether it ended well, and how long that took.
    async fn end(mut self) -> (bool, Duration) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status.success(), since.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn definition() -> Value {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/templates/crds");
    let text = std::fs::read_to_string(chart.join("trafficpolicies.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[tokio::test]
async fn replicas_share_an_authority_and_one_leads() {
    let server = server().await;
    server.put(&definition()).await.unwrap();
    server.put(&webhooks(1)).await.unwrap();
    namespace(&server, "shop", true).await;
    let directory = tempfile::tempdir().unwrap();
    let start = |pod: &str| Process::start(&server, directory.path(), pod);
    let first = start("cp-1");
    let second = start("cp-2");
    let path = format!("{LEASES}/weft-control-plane");
    let led_by = async || {
        at(&server, &path)
            .await
            .map(|lease| holder(&lease))
            .unwrap_or_default()
    };
    let listens = |pod: &str| directory.path().join(format!("{pod}.ports")).exists();
    until("both serve", async || listens("cp-1") && listens("cp-2")).await;
    let root = at(&server, &format!("{SECRETS}/weft-authority"))
        .await
        .unwrap();
    let in_shop = "/api/v1/namespaces/shop/configmaps/weft-trust-bundle";
    until("the trust bundle", async || {
        at(&server, in_shop).await.is_some()
    })
    .await;
    until("the webhook's roots", async || {
        ca_bundle(&server).await.is_some()
    })
    .await;
    let own = at(&server, &format!("{MAPS}/weft-trust-bundle")).await;
    assert!(own.is_some(), "its own namespace has one too");

    // The one that leads is killed: the other one takes over, and corrects what is wrong.
    let (leader, other, leader_pod) = match led_by().await.starts_with("cp-1_") {
        true => (first, second, "cp-1_"),
        false => (second, first, "cp-2_"),
    };
    drop(leader);
    server.ask(Method::DELETE, in_shop, None).await;
    let killed = Instant::now();
    until("the other leads", async || {
        let holder = led_by().await;
        !holder.is_empty() && !holder.starts_with(leader_pod)
    })
    .await;
    let took = killed.elapsed();
    assert!(took < LEASE * 3, "{took:?}");
    until("it writes", async || at(&server, in_shop).await.is_some()).await;

    // An orderly end gives the lease back, within a second.
    let third = start("cp-3");
    until("the third serves", async || listens("cp-3")).await;
    let (well, took) = other.end().await;
    assert!(well && took < Duration::from_secs(2), "{took:?}");
    until("the third leads", async || {
        led_by().await.starts_with("cp-3_")
    })
    .await;
    let (well, _) = third.end().await;
    assert!(well);
    assert_eq!(led_by().await, "");
    let now = at(&server, &format!("{SECRETS}/weft-authority"))
        .await
        .unwrap();
    assert_eq!(now["data"], root["data"], "one authority for all of them");

    // What it cannot mend it says, and ends.
    server
        .ask(Method::DELETE, &format!("{SECRETS}/weft-authority"), None)
        .await;
    let mut fourth = start("cp-4");
    until("it ends", async || !listens("cp-4")).await;
    let status = tokio::task::spawn_blocking(move || fourth.0.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(directory.path().join("cp-4.log")).unwrap();
    assert!(log.contains("the authority's secret was lost"), "{log}");
    assert_eq!(led_by().await, "", "and it does not keep the lease");
    server.stop().await;
}
