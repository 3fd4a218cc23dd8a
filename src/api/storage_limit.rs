//! The storage quota of a project in Harbor.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de};

/// A quantity of bytes such as `50Gi`, or `-1` for no limit. Whole numbers with a unit of 1000 (`k`, `M`, `G`, `T`), of 1024
/// (`Ki`, `Mi`, `Gi`, `Ti`) or without a unit. Harbor accepts 1 byte to 1024Ti.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageLimit {
    text: String,
    bytes: i64,
}

impl StorageLimit {
    /// No limit, in Harbor's API.
    pub const UNLIMITED: i64 = -1;
    /// The largest quota that Harbor accepts, in bytes: 1024 TiB.
    pub const MOST: i64 = 1 << 50;

    /// Returns the limit in bytes; [`Self::UNLIMITED`] for no limit. A larger number than the type can hold becomes its largest
    /// value.
    pub fn bytes(&self) -> i64 {
        self.bytes
    }
}

impl std::str::FromStr for StorageLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || {
            format!(
                "`{text}` is not a storage limit: write a whole number of bytes with or without a unit, such as `50Gi`, or -1 for no limit"
            )
        };
        if text == "-1" {
            return Ok(Self { text: text.to_owned(), bytes: Self::UNLIMITED });
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) =
            text.split_at_checked(digits).filter(|(number, _)| !number.is_empty()).ok_or_else(refuse)?;
        let unit: i64 = match unit {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err(refuse()),
        };
        let bytes = number.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(unit);
        Ok(Self { text: text.to_owned(), bytes })
    }
}

impl fmt::Display for StorageLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for StorageLimit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StorageLimit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = StorageLimit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a storage limit such as 50Gi, or -1 for no limit")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<StorageLimit, E> {
                Ok(StorageLimit { text: bytes.to_string(), bytes })
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<StorageLimit, E> {
                Ok(StorageLimit { text: bytes.to_string(), bytes: i64::try_from(bytes).unwrap_or(i64::MAX) })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StorageLimit, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for StorageLimit {
    fn schema_name() -> Cow<'static, str> {
        "StorageLimit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": -1,
            "maxLength": 20,
            "pattern": "^(-1|[1-9][0-9]{0,17}(k|M|G|T|Ki|Mi|Gi|Ti)?)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_kubernetes_users_write_quantities() {
        for (json, bytes) in [
            ("\"50Gi\"", 50 << 30),
            ("\"512Mi\"", 512 << 20),
            ("\"10G\"", 10_000_000_000),
            ("\"1024Ti\"", StorageLimit::MOST),
            ("\"4096\"", 4096),
            ("4096", 4096),
            ("-1", StorageLimit::UNLIMITED),
            ("\"-1\"", StorageLimit::UNLIMITED),
            ("\"999999999999999999Ti\"", i64::MAX),
        ] {
            let limit: StorageLimit = serde_json::from_str(json).unwrap();
            assert_eq!(limit.bytes(), bytes, "{json}");
            let again: StorageLimit = serde_json::from_value(serde_json::to_value(&limit).unwrap()).unwrap();
            assert_eq!(again, limit, "{json}");
        }
    }

    #[test]
    fn what_is_no_limit_is_refused_with_an_example() {
        for text in ["", "-2", "Gi", "1.5Gi", "5 Gi", "5gi", "5Pi", "unlimited", "+5"] {
            let error = text.parse::<StorageLimit>().unwrap_err();
            assert!(error.contains("`50Gi`"), "{text}: {error}");
        }
    }
}
