//! Prewarming: images offered at admission become CachedImages, and CachedImages become warm and verified.

pub mod queue;
