//! Join tokens: how a workload without a platform proves who it is.
//!
//! A token names its workload and carries 32 random bytes: `weft-join/NAMESPACE/WORKLOAD/HEX`. At
//! rest there is only its SHA-256, in `tokens/NAMESPACE/WORKLOAD` under the state directory. Every
//! review reads that one small file, so a token that another process issued counts at once, and one
//! that was rotated away counts no more.
//!
//! A workload has at most two good tokens, the newest and the one before it: a sidecar that still
//! reads the old one is not cut off by a rotation, and a second rotation ends a leaked one.

use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::state::{self, SECRET_MODE};
use super::{ReviewError, StateError, TokenReviewer, WorkloadIdentity, hex};

const SCHEME: &str = "weft-join";
const SECRET_LEN: usize = 32;
const DIRECTORY: &str = "tokens";
/// Good tokens per workload.
const MAX_TOKENS: usize = 2;
/// Reviews that read a file at the same time; others wait.
const MAX_READS: usize = 16;
/// The longest name, as of a DNS subdomain.
const MAX_NAME_LEN: usize = 253;

/// The tokens in a state directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JoinTokens {
    directory: PathBuf,
}

/// Why no token could be issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a name that a namespace or a workload may have.
    #[error("{0:?} is not a name of lower-case letters, digits, '-' and '.'")]
    BadName(String),
    /// No randomness.
    #[error("the system gives no randomness")]
    NoRandomness,
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The service account of a workload, by namespace and name; `None` where the mesh has no such
/// workload.
pub type ServiceAccounts = Box<dyn Fn(&str, &str) -> Option<String> + Send + Sync>;

/// Believes join tokens.
pub struct JoinTokenReviewer {
    tokens: JoinTokens,
    accounts: ServiceAccounts,
    reads: Semaphore,
}

impl JoinTokens {
    /// Opens the tokens of a state directory, which is made where there is none.
    pub fn open(state: &Path) -> Result<Self, StateError> {
        let directory = state.join(DIRECTORY);
        state::create_directory(state)?;
        state::create_directory(&directory)?;
        Ok(Self { directory })
    }

    /// Makes a token for a workload. It is returned this once, kept nowhere, and overwritten by being
    /// dropped.
    pub fn issue(&self, namespace: &str, workload: &str) -> Result<Zeroizing<String>, TokenError> {
        for name in [namespace, workload] {
            if !is_name(name) {
                return Err(TokenError::BadName(name.to_owned()));
            }
        }
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        rand::fill(&mut *secret).map_err(|_| TokenError::NoRandomness)?;
        let secret = Zeroizing::new(hex(&*secret));
        let parts = [SCHEME, namespace, workload, &secret];
        // At once, and so never grown.
        let token = Zeroizing::new(parts.join("/"));

        state::create_directory(&self.directory.join(namespace))?;
        let mut hashes = vec![token_hash(&token)];
        hashes.extend(self.hashes(namespace, workload)?);
        hashes.truncate(MAX_TOKENS);
        let content = hashes.join("\n") + "\n";
        state::replace(
            &self.path(namespace, workload),
            content.as_bytes(),
            SECRET_MODE,
        )?;
        Ok(token)
    }

    /// Whose a token is: namespace and workload.
    pub fn owner<'t>(&self, token: &'t str) -> Result<(&'t str, &'t str), ReviewError> {
        let mut parts = token.split('/');
        let (Some(SCHEME), Some(namespace), Some(workload), Some(_), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(ReviewError::Invalid("not a join token"));
        };
        // Also what keeps the path below inside the directory.
        if !is_name(namespace) || !is_name(workload) {
            return Err(ReviewError::Invalid("names that no workload can have"));
        }

        let presented = token_hash(token);
        let known = self
            .hashes(namespace, workload)
            .map_err(|error| ReviewError::Unavailable(error.to_string()))?;
        let matches = known.iter().fold(false, |found, hash| {
            verify_slices_are_equal(hash.as_bytes(), presented.as_bytes()).is_ok() | found
        });
        if matches {
            Ok((namespace, workload))
        } else {
            Err(ReviewError::Invalid(
                "no such token was issued, or it was rotated away",
            ))
        }
    }

    fn hashes(&self, namespace: &str, workload: &str) -> Result<Vec<String>, StateError> {
        let path = self.path(namespace, workload);
        let Some(content) = state::read(&path)? else {
            return Ok(Vec::new());
        };
        let text = std::str::from_utf8(&content)
            .map_err(|_| state::corrupt(&path, "not a list of token hashes"))?;
        let hashes: Vec<String> = text.lines().map(str::to_owned).collect();
        let is_hash = |hash: &String| {
            hash.len() == 2 * SHA256.output_len() && hash.bytes().all(|b| b.is_ascii_hexdigit())
        };
        if hashes.len() <= MAX_TOKENS && hashes.iter().all(is_hash) {
            Ok(hashes)
        } else {
            Err(state::corrupt(&path, "not a list of token hashes"))
        }
    }

    fn path(&self, namespace: &str, workload: &str) -> PathBuf {
        self.directory.join(namespace).join(workload)
    }
}

impl JoinTokenReviewer {
    /// Believes these tokens, for workloads that `accounts` knows.
    pub fn new(tokens: JoinTokens, accounts: ServiceAccounts) -> Self {
        Self {
            tokens,
            accounts,
            reads: Semaphore::new(MAX_READS),
        }
    }
}

impl TokenReviewer for JoinTokenReviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> BoxFuture<'a, Result<WorkloadIdentity, ReviewError>> {
        Box::pin(async move {
            let tokens = self.tokens.clone();
            let token = Zeroizing::new(token.to_owned());
            let _place = self.reads.acquire().await;
            // Reading a file may block.
            let owner = tokio::task::spawn_blocking(move || {
                tokens
                    .owner(&token)
                    .map(|(namespace, workload)| (namespace.to_owned(), workload.to_owned()))
            });
            let (namespace, workload) = owner
                .await
                .map_err(|error| ReviewError::Unavailable(error.to_string()))??;
            match (self.accounts)(&namespace, &workload) {
                Some(service_account) => Ok(WorkloadIdentity {
                    namespace,
                    service_account,
                    workload,
                }),
                None => Err(ReviewError::UnknownWorkload {
                    namespace,
                    workload,
                }),
            }
        })
    }
}

fn token_hash(token: &str) -> String {
    hex(digest(&SHA256, token.as_bytes()).as_ref())
}

/// Names are file names here: a leading dot or a slash must not get through.
fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !name.is_empty()
        && name.len() <= MAX_NAME_LEN
        && !name.starts_with(['.', '-'])
        && name.bytes().all(allowed)
}
