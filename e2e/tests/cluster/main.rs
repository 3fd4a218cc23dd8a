//! The product in a cluster: a real API server, both processes under their own accounts, and Harbor's double.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod accounts;
mod admission;
mod burst;
mod cached_images;
mod certificates;
mod command_line;
mod crashes;
mod examples;
mod fields;
mod flood;
mod forged_namespaces;
mod health;
mod hostile_requests;
mod image_fields;
mod injector;
mod instance;
mod missed;
mod observability;
mod operators;
mod outage;
mod own;
mod policies;
mod quiet;
mod registries;
mod replication;
mod reviews;
mod scans;
mod schema;
mod secrets;
mod soak;
mod table;
mod warming;
