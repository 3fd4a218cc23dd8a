//! Harbor Pilot: images of a cluster's Pods come from Harbor, Harbor's proxy caches are warm, and Harbor is what Git says.
//!
//! ```text
//!                    AdmissionReview                         HarborInstance, Registry,          Nodes, Pods
//!                          │                                 ProxyProject, ReplicationRule,          │
//!                          ▼                                 CachedImage │ cluster (or standalone) ◀───┘
//!    webhook::handler → webhook::review                                ▼
//!                          │                               controller::* ──observe──▶ harbor   (API v2.0)
//!                          ▼                                           │
//!      image ◀── rewrite: (Pod, Rules) → patch ◀── Rules ──┐           ▼
//!                          │                               │        plan: (desired, observed) → steps, drift
//!                 reply ◀──┴──▶ offers                     │           │
//!                                 │                        │           ▼
//!                                 ▼                        └── status.rewrite ◀── apply ──▶ harbor
//!                    prewarm::queue → CachedImage → prewarm::reconcile ──pull──▶ registry (/v2)
//!                                                          └──verify──▶ harbor, registry
//! ```
//!
//! Dependencies point one way, and `image`, `api`, `skim`, `rewrite`, `policy` and `plan` are pure: `tests/architecture.rs` holds both.
//!
//! | module | in | out |
//! |---|---|---|
//! | [`image`] | text | [`image::ImageRef`], read as container runtimes read it |
//! | [`api`] | YAML, JSON | the kinds, their conditions and reasons |
//! | [`skim`] | JSON | the few fields that somebody wants of it, borrowed |
//! | [`rewrite`] | a Pod and the rules in force | a minimal patch, and what should be warm |
//! | [`manifests`] | YAML or JSON of any kinds | Pod templates in it; the same text with other images |
//! | [`policy`] | images that Pods would run, and ImagePolicies | refusals, warnings, entries of the audit log |
//! | [`in_force`] | ProxyProjects, HarborInstances, ImagePolicies | the rules and policies that admission reads, swapped whole |
//! | [`plan`] | what is wanted and what Harbor has | steps, drift, or a refusal |
//! | [`harbor`] | typed requests | what Harbor has, or an error that says what to do |
//! | [`registry`] | a repository and a reference | checked manifests, streamed blobs |
//! | [`prewarm`] | offers and CachedImages | warmth, verified |
//! | [`controller`] | a resource and its directory | the next status, Events, when to look again |
//! | [`cluster`] | the API server | watches, status, finalizers, Events |
//! | [`standalone`] | a directory of manifests | the same without a cluster |
//! | [`chance`] | – | numbers that nobody can foresee |
//! | [`lease`] | what the API server says of the Lease, and the time | who leads |
//! | [`leadership`] | a moment, with each renewal | whether this process may write |
//! | [`webhook`] | HTTPS | AdmissionReview replies |
//! | `survey`, `status_page` | resources, troubles | how everything is, as a table and as a page |
//! | [`tls`], [`telemetry`], [`cli`] | files, arguments | certificates, logs, metrics, traces, the commands |

pub mod addresses;
pub mod api;
pub mod chance;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod harbor;
pub mod image;
pub mod in_force;
pub mod leadership;
pub mod lease;
pub mod manifests;
pub mod plan;
pub mod policy;
pub mod prewarm;
pub mod registry;
pub mod rewrite;
pub mod skim;
pub mod standalone;
mod status_page;
mod survey;
pub mod telemetry;
mod text;
pub mod tls;
pub mod webhook;
