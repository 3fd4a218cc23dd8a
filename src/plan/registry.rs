//! Registries: the fields that Harbor stores, and how it changes the values that we send.

use super::{
    Action, Drift, Plan, Refusal, ownership_marker,
    ownership_marker::{Marker, OtherOwner},
    version,
};
use crate::{
    api::{AdoptionPolicy, OwnedObject, Reason},
    harbor::model,
    transport::Credentials,
};
use secrecy::ExposeSecret;

/// The desired state of a Registry resource.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Name in Harbor.
    pub name: String,
    /// The adapter of Harbor.
    pub type_: &'static str,
    /// The URL of the upstream, as the user wrote it.
    pub url: String,
    /// The text of the user; `None` keeps the current description.
    pub description: Option<String>,
    /// The credentials; `None` is anonymous.
    pub credentials: Option<Credentials>,
    /// Revision of the credentials. It is compared with the last revision sent to Harbor, because the secret reads back as
    /// `*****`.
    pub credentials_revision: Option<String>,
    /// CA certificates in PEM; `None` uses those of the system.
    pub ca_certificate: Option<String>,
    /// Whether to skip the check of the upstream's certificate.
    pub insecure: bool,
    /// Our marker.
    pub marker: Marker,
    /// Whether to adopt an unmarked registry of this name.
    pub adoption: AdoptionPolicy,
}

/// The observed state for the plan.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The registry of the desired name.
    pub registry: Option<model::Registry>,
    /// The last revision of the credentials that was sent to Harbor, from status.
    pub credentials_revision: Option<String>,
    /// Harbor's version, read when it matters. `None`: unknown.
    pub version: Option<String>,
    /// The state of the resource that the marker names, if it is another one of ours.
    pub other: OtherOwner,
    /// The registry that was ours at the last reconcile, and its URL then, from status.
    pub owned: Option<(OwnedObject, String)>,
}

impl Observed {
    /// Returns whether the registry is ours but has lost its marker: its ID and URL are those of our registry.
    fn lost_its_marker(&self, desired: &Desired) -> bool {
        let Some((have, (owned, url))) = self.registry.as_ref().zip(self.owned.as_ref()) else { return false };
        let urls = [normalised(&desired.url), normalised(url)];
        Marker::split(&have.description).1.is_none()
            && owned.is(have.id, have.creation_time)
            && have.name == desired.name
            // Docker Hub's adapter shows one address, whatever URL it was sent.
            && (desired.type_ == "docker-hub" || urls.contains(&have.url))
    }
}

/// A request to Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// POST /registries.
    Create(model::NewRegistry),
    /// PUT /registries/{id}.
    Update(i64, model::RegistryUpdate),
}

/// Plans the steps from `observed` to `desired`.
///
/// # Errors
/// A [`Refusal`] when the registry is not ours, has another type, which Harbor cannot change, or the spec uses fields that
/// this Harbor does not have.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Plan<Step>, Refusal> {
    let asked = desired.ca_certificate.iter().map(|_| &version::CA_CERTIFICATE);
    version::check(asked, observed.version.as_deref())?;
    let Some(have) = &observed.registry else {
        let steps = vec![Step::Create(new_registry(desired))];
        return Ok(Plan { action: Action::Create, steps, drift: Vec::new() });
    };
    let (text, found) = Marker::split(&have.description);
    let object = format!("registry {}", have.name);
    let restored = observed.lost_its_marker(desired);
    let adoption = if restored { AdoptionPolicy::IfExists } else { desired.adoption };
    ownership_marker::may_write(&desired.marker, found.as_ref(), observed.other, adoption, &object)?;
    if have.type_ != desired.type_ {
        return Err(Refusal {
            reason: Reason::Immutable,
            message: format!(
                "registry {} in Harbor has type {}, which Harbor cannot change to {}; delete it in Harbor, or choose another spec.name",
                have.name, have.type_, desired.type_
            ),
        });
    }
    let mut update = model::RegistryUpdate::default();
    let mut drift = Vec::new();
    let mut differs = |field: &str, have: &str, want: &str| {
        let different = have != want;
        if different {
            drift.push(Drift { field: field.to_owned(), have: have.to_owned(), want: want.to_owned() });
        }
        different
    };
    let want_description = desired.marker.write(desired.description.as_deref().unwrap_or(text));
    if differs("description", &have.description, &want_description) {
        update.description = Some(want_description);
    }
    let want_ca = desired.ca_certificate.as_deref().unwrap_or_default();
    if have.ca_certificate.trim() != want_ca.trim() {
        differs("ca_certificate", "another certificate", "the one of spec.caBundle");
        update.ca_certificate = Some(want_ca.to_owned());
    }
    if differs("insecure", bool_text(have.insecure), bool_text(desired.insecure)) {
        update.insecure = Some(desired.insecure);
    }
    // Docker Hub's adapter has one fixed address, and shows it whatever URL it was sent.
    let moved = desired.type_ != "docker-hub" && differs("url", &have.url, &normalised(&desired.url));
    if moved {
        update.url = Some(desired.url.clone());
    }
    let want_key = desired.credentials.as_ref().map_or("", |credentials| credentials.username.as_str());
    let key_differs = differs("access_key", &have.credential.access_key, want_key);
    let rotated = desired.credentials.is_some() && desired.credentials_revision != observed.credentials_revision;
    if rotated && !key_differs {
        let given = if observed.credentials_revision.is_some() { "an older revision" } else { "an unknown revision" };
        differs("access_secret", given, "the one of the Secret");
    }
    // A new URL without the secret would delete the secret in Harbor.
    if key_differs || rotated || (moved && desired.credentials.is_some()) {
        let (key, secret) = desired.credentials.as_ref().map_or((String::new(), String::new()), |credentials| {
            (credentials.username.clone(), credentials.password.expose_secret().to_owned())
        });
        update.credential_type = desired.credentials.is_some().then_some("basic");
        update.access_key = Some(key);
        update.access_secret = Some(secret);
    }
    if update == model::RegistryUpdate::default() && have.is_unhealthy() {
        // Harbor checks an upstream every five minutes, and proxies nothing until then. Any PUT triggers a check at once.
        update.description = Some(have.description.clone());
        drift.push(Drift { field: "status".to_owned(), have: "unhealthy".to_owned(), want: "healthy".to_owned() });
    }
    let steps =
        if update == model::RegistryUpdate::default() { Vec::new() } else { vec![Step::Update(have.id, update)] };
    let action = match steps.is_empty() {
        true => Action::Nothing,
        false if restored || found.as_ref() == Some(&desired.marker) => Action::Change,
        false => Action::Adopt,
    };
    Ok(Plan { action, steps, drift })
}

/// Returns the state of Harbor after this request.
pub fn stored(new: &model::NewRegistry, id: i64) -> model::Registry {
    let access_key = new.credential.as_ref().map(|credential| credential.access_key.clone()).unwrap_or_default();
    model::Registry {
        id,
        name: new.name.clone(),
        type_: new.type_.clone(),
        url: normalised(&new.url),
        description: new.description.clone(),
        credential: model::RegistryCredential { access_key },
        insecure: new.insecure,
        ca_certificate: new.ca_certificate.clone().unwrap_or_default(),
        // Harbor checked the upstream.
        status: "healthy".to_owned(),
        creation_time: None,
    }
}

fn new_registry(desired: &Desired) -> model::NewRegistry {
    model::NewRegistry {
        name: desired.name.clone(),
        type_: desired.type_.to_owned(),
        url: desired.url.clone(),
        description: desired.marker.write(desired.description.as_deref().unwrap_or_default()),
        credential: desired.credentials.as_ref().map(|credentials| model::NewCredential {
            type_: "basic",
            access_key: credentials.username.clone(),
            access_secret: credentials.password.expose_secret().to_owned(),
        }),
        insecure: desired.insecure,
        ca_certificate: desired.ca_certificate.clone(),
    }
}

/// Returns the URL as Harbor stores it: scheme in lower case, no trailing slashes.
fn normalised(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => format!("http://{url}"),
    }
}

fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

#[cfg(test)]
mod tests;
