//! Harbor double.
