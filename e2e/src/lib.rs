//! End-to-end harness: a real etcd and kube-apiserver on loopback, and the real `harbor-pilot` binary against them.
//!
//! ```text
//! tools/*/go.mod ──(go build, once, cached)──► tools::Tool::path ─┬─► control_plane::ControlPlane ──► kubeconfig, kube::Client, kubectl
//!                                                                 ├─► reference::Oracle ──► what distribution/reference says
//!                                                                 ├─► health::verdicts ──► what kstatus and Argo CD say
//!                                                                 └─► helm::Helm ──► the chart, rendered and installed
//! cargo build ──► pilot::Pilot (one process, one log) ──► webhook_registration ──► the API server calls it
//! ```
//!
//! Everything that is started ends with its owner: by `Drop`, and by a [watchdog](process::Watchdog) where the owner
//! itself is killed or lives in a `static`. With `HARBOR_PILOT_E2E_KEEP` set, directories and logs stay for a look.

pub mod balancer;
pub mod browser;
pub mod cluster;
pub mod collector;
pub mod control_plane;
pub mod front;
pub mod gate;
pub mod health;
pub mod helm;
pub mod image_fields;
pub mod kubectl;
pub mod load;
pub mod needs;
pub mod node;
pub mod other_webhook;
pub mod pilot;
pub mod pki;
pub mod process;
pub mod reference;
pub mod tools;
pub mod webhook_registration;

/// Makes aws-lc-rs the TLS provider of this process. Any number of calls is one call.
pub fn install_crypto_provider() {
    // The only error is that a provider is already there, which is what we want.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
