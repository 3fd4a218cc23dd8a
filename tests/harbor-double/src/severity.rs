//! How bad a vulnerability is.

/// The severities of Harbor, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No vulnerability.
    None,
    /// Not rated.
    Unknown,
    /// Hardly one.
    Negligible,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

impl Severity {
    /// The severity that a project's metadata names.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "none" => Self::None,
            "negligible" => Self::Negligible,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "critical" => Self::Critical,
            _ => Self::Unknown,
        }
    }
}
