//! Harbor Pilot: the Pods of a cluster pull their images from Harbor, Harbor's proxy caches are warm, and Harbor matches Git.
//!
//! ```text
//!                    AdmissionReview                         HarborInstance, Registry,          Nodes, Pods
//!                          │                                 ProxyProject, ReplicationRule,          │
//!                          ▼                                 CachedImage │ engine: cluster or standalone ◀┘
//!    webhook::handler → webhook::review                                ▼
//!                          │                               controller::* ──observe──▶ harbor   (API v2.0)
//!                          ▼                                           │
//!      image ◀── rewrite: (Pod, Rules) → patch ◀── Rules ──┐           ▼
//!                          │                               │        plan: (desired, observed) → steps, drift
//!                 reply ◀──┴──▶ prewarm requests           │           │
//!                                 │                        │           ▼
//!                                 ▼                        └── status.rewrite ◀── apply ──▶ harbor
//!                    prewarm::queue → CachedImage → prewarm::reconcile ──pull──▶ registry (/v2)
//!                                                          └──verify──▶ harbor, registry
//! ```
//!
//! Dependencies point one way. `image`, `api`, `json_scan`, `rewrite`, `policy` and `plan` are pure. `tests/architecture.rs`
//! checks both.
//!
//! | module | in | out |
//! |---|---|---|
//! | [`image`] | text | [`image::ImageRef`], read as container runtimes read it |
//! | [`api`] | YAML, JSON | the kinds, their conditions and reasons |
//! | [`json_scan`] | JSON | the few fields that a caller needs, borrowed |
//! | [`rewrite`] | a Pod and the active rules | a minimal patch, and the images to prewarm |
//! | [`manifests`] | YAML or JSON of any kinds | its Pod templates; the same text with other images |
//! | [`policy`] | images that Pods would run, and ImagePolicies | refusals, warnings, entries of the audit log |
//! | [`active_config`] | ProxyProjects, HarborInstances, ImagePolicies | the rules and policies for admission, swapped whole |
//! | [`plan`] | the desired and the observed state of Harbor | steps, drift, or a refusal |
//! | [`transport`] | requests to one Harbor, and its address | bounded responses; whether Harbor is unreachable |
//! | [`harbor`] | typed requests | the state of Harbor, or an error with its fix |
//! | [`registry`] | a repository and a reference | checked manifests, streamed blobs |
//! | [`prewarm`] | prewarm requests and CachedImages | verified warm images |
//! | [`mod@reconcile`] | – | what every reconcile returns: a status, Events, a requeue time, or a failure |
//! | [`controller`] | a resource and its directory | the next status, Events, when to reconcile again |
//! | [`engine`] | a backend: watches of all kinds | reconciles, with their status, finalizers and Events |
//! | [`cluster`] | the API server | the backend of a cluster; Lease and certificates |
//! | [`standalone`] | a directory of manifests | the backend and the run without a cluster |
//! | [`jitter`] | – | random numbers that are not predictable |
//! | [`fair`] | items and their owners | the next item, each owner in turn |
//! | [`lease`] | the Lease of the API server, and the time | the leader |
//! | [`leadership`] | the time of each renewal | whether this process may write |
//! | [`webhook`] | HTTPS | AdmissionReview replies |
//! | `summary`, `status_page` | resources, recent errors | the state of the cluster, as a table and as a page |
//! | [`tls`], [`telemetry`], [`cli`] | files, arguments | certificates, logs, metrics, traces, the commands |

pub mod active_config;
pub mod addresses;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod engine;
pub mod fair;
pub mod harbor;
pub mod image;
pub mod jitter;
pub mod json_scan;
pub mod leadership;
pub mod lease;
pub mod manifests;
pub mod plan;
pub mod policy;
pub mod prewarm;
pub mod reconcile;
pub mod registry;
pub mod rewrite;
pub mod standalone;
mod status_page;
mod summary;
pub mod telemetry;
mod text;
pub mod tls;
pub mod transport;
pub mod webhook;
