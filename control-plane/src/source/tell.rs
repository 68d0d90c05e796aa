//! What the log says about every new model.

use crate::index::{Model, Refusal};

/// Logs what is newly refused and what no longer is.
pub(super) fn tell(before: &[Refusal], model: &Model) {
    let refusals = model.refusals();
    for refusal in refusals.iter().filter(|refusal| !before.contains(refusal)) {
        tracing::warn!(
            file = refusal.file,
            line = refusal.line,
            object = refusal.object,
            reason = refusal.reason,
            mend = refusal.mend,
            "refused"
        );
    }
    for refusal in before.iter().filter(|refusal| !refusals.contains(refusal)) {
        tracing::info!(
            file = refusal.file,
            line = refusal.line,
            object = refusal.object,
            reason = refusal.reason,
            "no longer refused"
        );
    }
    tracing::info!(
        revision = model.revision(),
        workloads = model.workloads().count(),
        services = model.services().count(),
        refused = refusals.len(),
        "the model changed"
    );
}
