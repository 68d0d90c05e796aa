//! Weft's admission webhook. It will add the sidecar and its init container to pods whose namespace
//! or own label asks for them (`weft.dev/inject: enabled`); for now this crate holds only its place
//! in the workspace, and file mode needs no injection.
#![forbid(unsafe_code)]
