//! The platform of an image: operating system, architecture and variant.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// `os/architecture[/variant]`, such as `linux/amd64` or `linux/arm/v7`, with the names of the OCI image index.
///
/// `linux/arm64` and `linux/arm64/v8` are the same platform, as in containerd: the variant `v8` of arm64 is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Builds a normalized platform from its parts: lower case, `x86_64` is `amd64`, `aarch64` is `arm64`.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant
            .map(str::to_ascii_lowercase)
            .filter(|variant| !variant.is_empty() && !(architecture == "arm64" && (variant == "v8" || variant == "8")));
        Self { os: os.to_ascii_lowercase(), architecture, variant }
    }

    /// Operating system, such as `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Architecture as Go names it, such as `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Variant, such as `v7` of `arm`.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Returns whether a node of platform `self` runs a child manifest of platform `offered`.
    ///
    /// A node does not report its variant (`kubernetes.io/arch`), so a platform without a variant accepts every variant.
    pub fn accepts(&self, offered: &Platform) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant.is_none() || self.variant == offered.variant)
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || {
            format!(
                "`{text}` is not a platform: write os/architecture or os/architecture/variant, such as `linux/amd64`"
            )
        };
        let mut parts = text.split('/');
        let (Some(os), Some(architecture), variant, None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.')
        };
        if !plain(os) || !plain(architecture) || !variant.is_none_or(plain) {
            return Err(refuse());
        }
        Ok(Self::new(os, architecture, variant))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Platform {
    fn schema_name() -> Cow<'static, str> {
        "Platform".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 64,
            "pattern": "^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_variant_takes_every_variant_of_its_architecture() {
        let wanted: Platform = "linux/arm".parse().unwrap();
        assert!(wanted.accepts(&"linux/arm/v7".parse().unwrap()));
        assert!(!wanted.accepts(&"linux/arm64".parse().unwrap()));
        let v6: Platform = "linux/arm/v6".parse().unwrap();
        assert!(!v6.accepts(&"linux/arm/v7".parse().unwrap()));
    }

    #[test]
    fn the_many_names_of_one_platform_are_one() {
        assert_eq!("Linux/x86_64".parse::<Platform>().unwrap().to_string(), "linux/amd64");
        assert_eq!("linux/arm64/v8".parse::<Platform>().unwrap(), "linux/aarch64".parse().unwrap());
    }

    #[test]
    fn what_is_not_a_platform_is_refused_with_an_example() {
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/am d64"] {
            assert!(text.parse::<Platform>().unwrap_err().contains("linux/amd64"), "{text}");
        }
    }
}
