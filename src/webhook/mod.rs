//! TODO-webhook
