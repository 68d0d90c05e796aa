//! The control plane of a cluster: what runs beside the gRPC server.

use std::sync::Arc;

use anyhow::Context;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_proto::names::cluster::TRUST_BUNDLE;
use weft_proto::names::env;

use super::Parts;
use super::settings::Serve;
use crate::cluster::access::AccessReviews;
use crate::cluster::authority::{Home, SecretStore};
use crate::cluster::bundle::{Bundles, Reached};
use crate::cluster::given::SecretGiver;
use crate::cluster::lease::Candidate;
use crate::cluster::review::TokenReviews;
use crate::cluster::status::{Known, StatusWriter};
use crate::cluster::webhook::Webhook;
use crate::cluster::{authority, bundle, given, lease, rbac, webhook};
use crate::keeper::{AnyKeeper, GivenKeeper, Keeper};
use crate::serve::Metrics;
use crate::serve::replicas::Place;
use crate::source;
use crate::source::kubernetes::{self, Following};
use crate::source::progress::Progress;

/// Starts everything that a replica does, in order. What is spawned ends with `end`.
pub(super) async fn start(
    settings: &Serve,
    metrics: &Arc<Metrics>,
    progress: Progress,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> anyhow::Result<Parts> {
    let replica = &settings.replica;
    let (namespace, pod) = (&replica.namespace, replica.name());
    let until_end =
        |task: BoxFuture<'static, ()>| tasks.spawn(end.clone().run_until_cancelled_owned(task));
    tracing::info!(namespace, pod, address = ?replica.pod_ip, "a replica begins");

    // What the cluster says. Nothing goes on before all of it was listed once.
    let client = kubernetes::connect()
        .await
        .with_context(|| format!("no directory is given by --dir or {}", env::MANIFEST_DIR))?;
    let mesh = source::files::settings(settings.cluster.clone().into_file());
    let mesh = mesh.map_err(anyhow::Error::msg)?;
    let asking = rbac::ask(client.clone(), namespace.clone(), progress.clone());
    until_end(Box::pin(asking));
    let Following {
        models,
        observed,
        readings,
        injected,
    } = kubernetes::watch_cluster(client.clone(), mesh, progress, end.clone())
        .await
        .context("watching the cluster")?;

    // Who writes. It gives the lease back at the end, and so ends by itself.
    let timing = lease::Timing::of(replica.lease_duration);
    let leader = metrics.gauge(
        "weft_control_plane_leader",
        "Whether this replica leads: the one that writes to the cluster.",
    );
    let (candidate, leading) = Candidate::new(client.clone(), namespace, &pod, timing, leader);
    tasks.spawn(candidate.run(end.clone()));

    // Who is believed, and who vouches.
    let trust_domain = models.borrow().trust_domain().to_owned();
    let (reached, is_reached) = watch::channel(Reached::default());
    let leaf_lifetime = settings.leaf_lifetime;
    let given = given::open(&client, namespace, &trust_domain, leaf_lifetime)
        .await
        .context("the certificate authority")?;
    let (authority, keeper) = if let Some(authority) = given {
        let authority = Arc::new(authority);
        let giver = SecretGiver::new(client.clone(), namespace, is_reached);
        let keeper = GivenKeeper::new(authority.clone(), giver, metrics);
        (authority, AnyKeeper::Given(Arc::new(keeper)))
    } else {
        let lifetimes = settings.lifetimes()?;
        let home = Home {
            namespace,
            trust_domain: &trust_domain,
            leaf_lifetime,
            lifetimes,
        };
        let authority = authority::open(client.clone(), home, leading.clone())
            .await
            .context("the certificate authority")?;
        let authority = Arc::new(authority);
        let store = SecretStore::new(client.clone(), namespace, leading.clone(), is_reached);
        let keeper = Keeper::new(authority.clone(), store, lifetimes, metrics);
        (authority, AnyKeeper::Own(Arc::new(keeper)))
    };
    let reviewer = TokenReviews::new(client.clone(), models.clone());
    let access = AccessReviews::new(client.clone(), namespace);

    // What is kept, by the replica that leads.
    let bundles = Bundles {
        client: client.clone(),
        namespace: namespace.clone(),
        bundle: authority.bundle(),
        injected,
        leading: leading.clone(),
        reached,
        period: bundle::PERIOD,
    };
    until_end(Box::pin(bundles.run()));
    let expiry = metrics.gauge(
        "weft_control_plane_webhook_certificate_expiry_timestamp_seconds",
        "When the webhook's certificate expires, where this replica has written or renewed it.",
    );
    let timing = webhook::Timing::default();
    let webhook = Webhook::new(client.clone(), namespace, timing, leading.clone(), expiry);
    until_end(Box::pin(webhook.run()));

    // What is said about policies and routes, once it is known how many sidecars run them.
    let known = Known {
        models: models.clone(),
        readings,
        observed,
        leading,
    };
    let statuses = StatusWriter::new(client, pod.clone(), known);
    if replica.pod_ip.is_none() {
        tracing::warn!(
            "{} is not set: other replicas are not asked, and statuses count the sidecars of this one only",
            env::POD_IP
        );
    }
    let place = replica.pod_ip.map(|ip| Place {
        name: pod,
        ip,
        namespace: namespace.clone(),
    });

    Ok(Parts {
        models,
        authority,
        keeper,
        reviewer: Arc::new(reviewer),
        access: Some(Arc::new(access)),
        trust_bundle: format!("ConfigMap {namespace}/{TRUST_BUNDLE}"),
        place,
        beside: Some(Box::new(|counts| Box::pin(statuses.run(counts)))),
    })
}
