//! Which cluster somebody means, and a client of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use weft_control_plane::index::Objects;
use weft_control_plane::source::kubernetes::{list_once, settings_of};
use weft_proto::names;

/// How long a connection may take: who waits at a terminal wants to know soon.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Which cluster is meant.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The cluster")]
pub(crate) struct ClusterArgs {
    /// The kubeconfig, instead of what KUBECONFIG says, ~/.kube/config, or the pod that this runs in.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, instead of its current one.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub(crate) context: Option<String>,
}

/// No cluster is known, or it cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoCluster(String);

impl ClusterArgs {
    /// A client. Nobody is asked yet.
    pub(crate) async fn client(&self) -> Result<Client, NoCluster> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        Client::try_from(config).map_err(|error| NoCluster(described(&error)))
    }

    async fn config(&self) -> Result<Config, NoCluster> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match (&self.kubeconfig, &self.context) {
            (None, None) => {
                let config = Config::infer().await;
                return config.map_err(|error| {
                    let why = described(&error);
                    NoCluster(format!(
                        "no cluster is known: {why}; say one by --kubeconfig"
                    ))
                });
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await,
            (Some(file), _) => match Kubeconfig::read_from(file) {
                Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            },
        };
        config.map_err(|error| NoCluster(format!("the kubeconfig: {}", described(&error))))
    }
}

/// Everything that a cluster's mesh is made of, under the settings that its control plane runs with.
pub(crate) fn objects(args: &ClusterArgs) -> Result<Objects, NoCluster> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| NoCluster(error.to_string()))?;
    runtime.block_on(async {
        let client = args.client().await?;
        let pods = Api::<Pod>::namespaced(client.clone(), names::CONTROL_PLANE_NAMESPACE);
        // Who may not read them gets the defaults.
        let pods = pods.list(&ListParams::default()).await;
        let pods = pods.map(|pods| pods.items).unwrap_or_default();
        let settings = settings_of(|name| setting(&pods, name)).map_err(NoCluster)?;
        let objects = list_once(client, &settings).await;
        objects.map_err(|error| {
            NoCluster(format!("the cluster cannot be read: {}", described(&error)))
        })
    })
}

/// What a control plane's pod has in an environment variable, where it is said in plain words.
pub(crate) fn setting(pods: &[Pod], name: &str) -> Option<String> {
    let specs = pods.iter().filter_map(|pod| pod.spec.as_ref());
    let mut own = specs.filter(|spec| {
        spec.service_account_name.as_deref() == Some(names::CONTROL_PLANE_SERVICE_ACCOUNT)
    });
    let containers = &own.next()?.containers;
    let mut variables = containers.iter().flat_map(|it| it.env.iter().flatten());
    variables
        .find(|variable| variable.name == name)?
        .value
        .clone()
}

/// An error with everything that led to it.
pub(crate) fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some say their cause themselves.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
