//! TODO-cluster
