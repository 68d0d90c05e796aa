//! The certificate service: a token and a request in, a leaf out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tonic::{Request, Response, Status};
use weft_proto::identity::identity_server::Identity;
use weft_proto::identity::{CertifyRequest, CertifyResponse};
use weft_proto::spiffe::SpiffeId;
use zeroize::Zeroizing;

use super::metrics::Metrics;
use crate::identity::{Authority, ReviewError, TokenReviewer, WorkloadIdentity, WorkloadKey};
use crate::index::Model;

/// How long a workload with a good token may be missing in the model: its file may come a moment
/// after its process.
const NEW_WORKLOAD_PATIENCE: Duration = Duration::from_secs(2);

/// Serves `weft.identity.v1.Identity`.
pub(super) struct Certifier {
    pub(super) authority: Arc<Authority>,
    pub(super) reviewer: Arc<dyn TokenReviewer>,
    pub(super) models: watch::Receiver<Arc<Model>>,
    pub(super) metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl Identity for Certifier {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let result = self.certify_workload(request.into_inner()).await;
        match &result {
            Ok(response) => {
                self.metrics.certificates_issued.increment(1);
                tracing::info!(spiffe_id = response.spiffe_id, "certificate issued");
            }
            Err(status) => {
                self.metrics.certificates_refused.increment(1);
                tracing::warn!(reason = status.message(), "certificate refused");
            }
        }
        result.map(Response::new)
    }
}

impl Certifier {
    async fn certify_workload(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        let CertifyRequest { token, csr } = request;
        let token = Zeroizing::new(token);
        let workload = self.review(&token).await?;
        let key = WorkloadKey::from_csr(&csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;

        let (namespace, account) = (&workload.namespace, &workload.service_account);
        let id = SpiffeId::new(self.authority.trust_domain(), namespace, account)
            .map_err(|error| Status::internal(format!("no SPIFFE id: {error}")))?;
        if self.authority.is_own(&id) {
            return Err(Status::permission_denied(
                "the control plane's own service account is for no workload: give it another one",
            ));
        }
        let leaf = self
            .authority
            .issue(&id, &key, SystemTime::now())
            .map_err(|error| Status::unavailable(error.to_string()))?;

        let bundle = self.authority.bundle().borrow().clone();
        Ok(CertifyResponse {
            chain: leaf.chain.iter().map(|der| der.to_vec()).collect(),
            not_after: Some(leaf.not_after.into()),
            roots: bundle.roots.iter().map(|der| der.to_vec()).collect(),
            spiffe_id: id.to_string(),
        })
    }

    /// Reviews a token, again with each new model while its workload is not there yet.
    async fn review(&self, token: &str) -> Result<WorkloadIdentity, Status> {
        let mut models = self.models.clone();
        let deadline = tokio::time::Instant::now() + NEW_WORKLOAD_PATIENCE;
        loop {
            models.mark_unchanged();
            match self.reviewer.review(token).await {
                Ok(workload) => return Ok(workload),
                Err(error @ ReviewError::Invalid(_)) => {
                    return Err(Status::unauthenticated(error.to_string()));
                }
                Err(error @ ReviewError::Unavailable(_)) => {
                    tracing::error!(%error, "token review failed");
                    return Err(Status::unavailable("the token cannot be reviewed now"));
                }
                Err(error @ ReviewError::UnknownWorkload { .. }) => {
                    let changed = tokio::time::timeout_at(deadline, models.changed()).await;
                    if !matches!(changed, Ok(Ok(()))) {
                        return Err(Status::unavailable(error.to_string()));
                    }
                }
            }
        }
    }
}
