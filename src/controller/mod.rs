//! TODO-controller
