//! Tasks that must not die silently.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::Telemetry;

impl Telemetry {
    /// `task`, but a panic in it ends only it: the panic is counted and logged with `what`.
    ///
    /// Nothing of the task is used after a panic, so what it left half done is never seen.
    pub fn supervise<F>(
        self: &Arc<Self>,
        what: &'static str,
        task: F,
    ) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()>,
    {
        let panics = self.panics.clone();
        async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                panics.increment(1);
                let message = panic_message(&*panic);
                tracing::error!(task = what, panic = message, "a task panicked");
            }
        }
    }
}

/// The text of a panic, where it has one.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
