//! Fields that several kinds share.

use std::{borrow::Cow, fmt, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::{SignedDuration, Timestamp},
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::condition::whole_seconds;

/// An object in Harbor that a resource owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnedObject {
    /// Harbor's id.
    pub id: i64,
    /// Creation time in Harbor. An object created later is another object, even with the same id.
    pub since: Time,
}

impl OwnedObject {
    /// Largest accepted difference between Harbor's clock and ours.
    const SKEW: SignedDuration = SignedDuration::from_secs(60);

    /// Records the object with this id, unless one is recorded already.
    pub fn remember(owned: &mut Option<Self>, id: Option<i64>, now: Timestamp) {
        if owned.as_ref().map(|owned| owned.id) != id {
            *owned = id.map(|id| Self { id, since: Time(whole_seconds(now)) });
        }
    }

    /// Returns whether the object with that id and creation time is the recorded one.
    pub fn is(&self, id: i64, created: Option<Timestamp>) -> bool {
        self.id == id && created.is_some_and(|created| created <= self.since.0 + Self::SKEW)
    }
}

/// Annotation that starts a reconcile without cached responses of Harbor whenever its value changes. The value is any text, such
/// as the time.
pub const RECONCILE_NOW: &str = "harbor-pilot.dev/reconcile-now";

/// The value of a one-time request annotation: at most its first 253 bytes.
pub fn token<'a>(metadata: &'a ObjectMeta, annotation: &str) -> Option<&'a str> {
    let token = metadata.annotations.as_ref()?.get(annotation)?;
    let end = (0..=token.len().min(253)).rfind(|at| token.is_char_boundary(*at))?;
    token.get(..end).filter(|token| !token.is_empty())
}

/// Returns whether [`RECONCILE_NOW`] differs from `last`, and sets `last` to it. Without a value nothing is requested.
pub fn is_requested(metadata: &ObjectMeta, last: &mut Option<String>) -> bool {
    let token = token(metadata, RECONCILE_NOW);
    let asked_for = token.is_some() && token != last.as_deref();
    *last = token.map(str::to_owned);
    asked_for
}

/// The HarborInstance of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HarborRef {
    /// Name of the HarborInstance.
    #[serde(default = "default_instance")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl Default for HarborRef {
    fn default() -> Self {
        Self { name: default_instance() }
    }
}

fn default_instance() -> String {
    "default".to_owned()
}

/// A reference by name: to a Secret in the operator's own namespace, or to another cluster-scoped resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Whether the controller may write to Harbor for this resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ManagementPolicy {
    /// The controller changes Harbor to match the spec.
    #[default]
    Full,
    /// The controller reports differences in status and Events, and writes nothing to Harbor.
    ObserveOnly,
}

/// What to do when Harbor already has an object of this name without our marker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    /// The object is not modified; the resource gets the reason `AdoptionRequired`.
    #[default]
    Never,
    /// The object is adopted: it gets our marker, and is changed to match the spec.
    IfExists,
}

/// What happens to the object in Harbor when the resource is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The object stays in Harbor, and the resource is deleted immediately. A resource that is created again finds its object by
    /// the marker.
    #[default]
    Retain,
    /// The object is deleted if Harbor allows it. Until then the resource has the condition `DeletionBlocked`.
    Delete,
    /// The object is deleted with its content: a project with its repositories, if it has our marker.
    Purge,
}

/// A duration such as `30s`, `10m` or `1h30m`: whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(Duration);

impl Interval {
    /// Returns an interval of whole seconds; zero becomes one.
    pub fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds.max(1)))
    }

    /// Returns the interval as a duration of at least one second.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl std::str::FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || {
            format!("`{text}` is not an interval: write hours, minutes and seconds, such as `30s`, `10m` or `1h30m`")
        };
        let (mut seconds, mut number, mut last_unit) = (0_u64, None::<u64>, u64::MAX);
        for byte in text.bytes() {
            if byte.is_ascii_digit() {
                let digit = u64::from(byte - b'0');
                number =
                    Some(number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit)).ok_or_else(refuse)?);
                continue;
            }
            let unit = match byte {
                b'h' => 3600,
                b'm' => 60,
                b's' => 1,
                _ => return Err(refuse()),
            };
            if unit >= last_unit {
                return Err(refuse());
            }
            last_unit = unit;
            let amount = number.take().and_then(|n| n.checked_mul(unit)).ok_or_else(refuse)?;
            seconds = seconds.checked_add(amount).ok_or_else(refuse)?;
        }
        if number.is_some() || seconds == 0 {
            return Err(refuse());
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_secs();
        for (amount, unit) in [(total / 3600, 'h'), (total / 60 % 60, 'm'), (total % 60, 's')] {
            if amount > 0 {
                write!(f, "{amount}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Interval {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> Cow<'static, str> {
        "Interval".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 16,
            "pattern": "^([1-9][0-9]{0,3}h)?([1-9][0-9]{0,3}m)?([1-9][0-9]{0,4}s)?$",
            "minLength": 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_written_as_kubernetes_users_write_them() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("1h30m", 5400), ("1h0m5s", 3605)] {
            assert_eq!(text.parse::<Interval>().unwrap().duration().as_secs(), seconds, "{text}");
        }
        assert_eq!(Interval::from_secs(5400).to_string(), "1h30m");
    }

    #[test]
    fn an_interval_that_says_nothing_or_too_much_is_refused_with_an_example() {
        for text in ["", "0s", "10", "5 m", "m", "1m1h", "-5m", "99999999999999999999s"] {
            let error = text.parse::<Interval>().unwrap_err();
            assert!(error.contains("1h30m"), "{text}: {error}");
        }
    }
}
