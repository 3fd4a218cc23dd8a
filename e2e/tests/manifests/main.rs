//! `harbor-pilot rewrite` on manifests of other projects, and beside `kubectl kustomize`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod desk;
mod kustomize;
mod projects;
