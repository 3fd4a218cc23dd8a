//! TODO-plan
