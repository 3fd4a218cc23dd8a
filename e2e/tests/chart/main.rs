//! The chart, rendered and installed by the real Helm, and `config/default`, which gives the same to kustomize.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod accounts;
mod admitted;
mod kustomize;
mod monitoring;
mod readme;
mod release;
mod render;
mod support;
