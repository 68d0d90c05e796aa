//! Calls of the API server: none takes for ever, and what failed is tried again later and later.

use std::time::Duration;

use tokio::time::timeout;

/// The longest that one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server's own words, or why it was not reached.
    #[error("{}", in_words(.0))]
    Refused(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    TimedOut,
}

/// Makes one call.
pub(super) async fn call<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, CallError> {
    match timeout(CALL_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(CallError::Refused(Box::new(error))),
        Err(_) => Err(CallError::TimedOut),
    }
}

/// The pauses between tries: doubling up to [`LONGEST_PAUSE`], with up to a quarter less by chance, so
/// that replicas do not come back all at once.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl CallError {
    /// The status code of an answer; 0 without one.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Refused(error) => match &**error {
                kube::Error::Api(status) => status.code,
                _ => 0,
            },
            Self::TimedOut => 0,
        }
    }

    /// Somebody else was faster: what was written over, or made, is there in another form.
    pub(super) fn is_conflict(&self) -> bool {
        self.code() == 409
    }

    /// What was written to is not there (any more).
    pub(super) fn is_missing(&self) -> bool {
        self.code() == 404
    }
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause.mul_f64(1.0 - fastrand::f64() / 4.0)
    }

    /// After a success.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Without the debug form of the status, which kube's own words end with.
fn in_words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            format!("the API server says {}: {}", status.code, status.message)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again() {
        let mut pauses = Pauses::new();
        let mut longest = FIRST_PAUSE;
        for _ in 0..20 {
            let pause = pauses.next();
            assert!(
                pause <= longest && pause >= longest.mul_f64(0.74),
                "{pause:?}"
            );
            longest = (longest * 2).min(LONGEST_PAUSE);
        }
        pauses.reset();
        assert!(pauses.next() <= FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends() {
        let never = std::future::pending::<kube::Result<()>>();
        let error = call(never).await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut));
        assert_eq!(error.code(), 0);
    }
}
