//! What is found wrong beyond the schema.

use super::Violation;

#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Violation>);

impl Findings {
    pub(super) fn add(
        &mut self,
        path: impl Into<String>,
        reason: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.0.push(Violation {
            path: path.into(),
            reason: reason.into(),
            mend: mend.into(),
        });
    }
}
