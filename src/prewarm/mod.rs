//! TODO-prewarm
