use proptest::prelude::*;

use super::*;

fn marker() -> Marker {
    Marker { installation: "i".to_owned(), kind: "Registry".to_owned(), name: "ghcr".to_owned() }
}

fn desired() -> Desired {
    Desired {
        name: "ghcr".to_owned(),
        type_: "github-ghcr",
        url: "HTTPS://ghcr.io/".to_owned(),
        description: None,
        credentials: Some(Credentials { username: "bot".to_owned(), password: "s3cret".into() }),
        credentials_revision: Some("7".to_owned()),
        ca_certificate: None,
        insecure: false,
        marker: marker(),
        adoption: AdoptionPolicy::Never,
    }
}

fn stored() -> model::Registry {
    model::Registry {
        id: 4,
        name: "ghcr".to_owned(),
        type_: "github-ghcr".to_owned(),
        url: "https://ghcr.io".to_owned(),
        description: marker().write("manual"),
        credential: model::RegistryCredential { access_key: "bot".to_owned() },
        status: "healthy".to_owned(),
        ..model::Registry::default()
    }
}

fn observed(change: impl FnOnce(&mut model::Registry)) -> Observed {
    let mut registry = stored();
    change(&mut registry);
    let credentials_revision = Some("7".to_owned());
    Observed { registry: Some(registry), credentials_revision, ..Observed::default() }
}

fn update_for(desired: &Desired, observed: &Observed) -> model::RegistryUpdate {
    let plan = plan(desired, observed).unwrap();
    match plan.steps.as_slice() {
        [Step::Update(4, update)] => update.clone(),
        other => panic!("expected one update, got {other:?}"),
    }
}

#[test]
fn what_is_as_specified_is_left_alone_whatever_harbor_normalised() {
    let plan = plan(&desired(), &observed(|_| {})).unwrap();
    assert!(plan.is_done() && plan.drift.is_empty(), "{plan:?}");
}

#[test]
fn a_missing_registry_is_created_with_its_marker() {
    let plan = plan(&desired(), &Observed::default()).unwrap();
    let [Step::Create(new)] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert_eq!(new.description, "[harbor-pilot i/Registry/ghcr]");
    assert_eq!(new.credential.as_ref().unwrap().access_secret, "s3cret");
}

#[test]
fn a_changed_url_takes_the_secret_along_since_harbor_would_blank_it() {
    let update = update_for(&desired(), &observed(|registry| registry.url = "https://old.example".to_owned()));
    assert_eq!(update.url.as_deref(), Some("HTTPS://ghcr.io/"));
    assert_eq!(update.access_secret.as_deref(), Some("s3cret"));
}

#[test]
fn a_new_revision_of_the_secret_is_sent_and_the_drift_does_not_show_it() {
    let mut observed = observed(|_| {});
    observed.credentials_revision = Some("6".to_owned());
    assert_eq!(update_for(&desired(), &observed).access_secret.as_deref(), Some("s3cret"));
    let plan = plan(&desired(), &observed).unwrap();
    assert!(plan.drift.iter().all(|drift| !drift.to_string().contains("s3cret")), "{:?}", plan.drift);
    assert!(!format!("{plan:?}").contains("s3cret"), "debug output must not hold the secret");
}

#[test]
fn registry_credentials_that_are_removed_are_cleared_with_empty_strings() {
    let desired = Desired { credentials: None, credentials_revision: None, ..desired() };
    let update = update_for(&desired, &observed(|_| {}));
    assert_eq!((update.access_key.as_deref(), update.access_secret.as_deref()), (Some(""), Some("")));
}

#[test]
fn a_text_that_the_spec_does_not_manage_stays_and_one_that_it_manages_is_repaired() {
    assert!(plan(&desired(), &observed(|_| {})).unwrap().is_done());
    let managed = Desired { description: Some("packages".to_owned()), ..desired() };
    let update = update_for(&managed, &observed(|_| {}));
    assert_eq!(update.description.as_deref(), Some("packages [harbor-pilot i/Registry/ghcr]"));
}

#[test]
fn an_unhealthy_verdict_is_answered_by_a_put_that_makes_harbor_look_again() {
    let update = update_for(&desired(), &observed(|registry| registry.status = "unhealthy".to_owned()));
    assert!(update.description.is_some() && update.access_secret.is_none());
}

#[test]
fn another_type_is_refused_since_harbor_would_ignore_it() {
    let refusal = plan(&desired(), &observed(|registry| registry.type_ = "docker-registry".to_owned())).unwrap_err();
    assert_eq!(refusal.reason, Reason::Immutable);
}

#[test]
fn registry_of_another_owner_is_not_modified() {
    let refusal = plan(&desired(), &observed(|registry| registry.description = "manual".to_owned())).unwrap_err();
    assert_eq!(refusal.reason, Reason::AdoptionRequired);
    let adopting = Desired { adoption: AdoptionPolicy::IfExists, ..desired() };
    let update = update_for(&adopting, &observed(|registry| registry.description = "manual".to_owned()));
    assert_eq!(update.description.as_deref(), Some("manual [harbor-pilot i/Registry/ghcr]"));
}

#[test]
fn docker_hub_shows_its_own_address_whatever_it_was_given() {
    let hub = Desired { type_: "docker-hub", url: "https://registry-1.docker.io".to_owned(), ..desired() };
    let observed = observed(|registry| {
        registry.type_ = "docker-hub".to_owned();
        registry.url = "https://hub.docker.com".to_owned();
    });
    assert!(plan(&hub, &observed).unwrap().is_done());
}

/// Harbor, with the secret that its API does not show.
#[derive(Debug, Clone, Default)]
struct Stored {
    registry: Option<model::Registry>,
    secret: String,
}

impl Stored {
    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Create(new) => {
                let credential = new.credential.as_ref();
                let key = credential.map(|credential| credential.access_key.clone()).unwrap_or_default();
                self.secret = credential.map(|credential| credential.access_secret.clone()).unwrap_or_default();
                self.registry = Some(model::Registry {
                    id: 4,
                    name: new.name.clone(),
                    type_: new.type_.clone(),
                    url: shown_url(&new.type_, &new.url),
                    description: new.description.clone(),
                    credential: model::RegistryCredential { access_key: key },
                    insecure: new.insecure,
                    ca_certificate: new.ca_certificate.clone().unwrap_or_default(),
                    status: "healthy".to_owned(),
                    creation_time: None,
                });
            }
            Step::Update(_, update) => {
                let registry = self.registry.as_mut().unwrap();
                if let Some(url) = &update.url {
                    registry.url = shown_url(&registry.type_, url);
                    self.secret.clear();
                }
                let replace = |field: &mut String, value: &Option<String>| {
                    if let Some(value) = value {
                        value.clone_into(field);
                    }
                };
                replace(&mut registry.description, &update.description);
                replace(&mut registry.ca_certificate, &update.ca_certificate);
                replace(&mut registry.credential.access_key, &update.access_key);
                replace(&mut self.secret, &update.access_secret);
                registry.insecure = update.insecure.unwrap_or(registry.insecure);
                // Any PUT triggers a check.
                registry.status = "healthy".to_owned();
            }
        }
    }
}

fn shown_url(type_: &str, url: &str) -> String {
    if type_ == "docker-hub" { "https://hub.docker.com".to_owned() } else { normalised(url) }
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let credentials = prop::option::of(("[ab]", "[pq]")).prop_map(|given| {
        let revision = given.as_ref().map(|(username, password)| format!("{username}/{password}"));
        (given.map(|(username, password)| Credentials { username, password: password.into() }), revision)
    });
    let urls = vec!["https://ghcr.io", "HTTPS://ghcr.io//", "http://ghcr.io", "ghcr.io:5000/"];
    (
        (prop::sample::select(urls), credentials, prop::option::of("[a-z ]{0,6}[a-z]")),
        (
            prop::option::of(prop::sample::select(vec!["PEM", "PEM\n", "OTHER"])),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        ),
    )
        .prop_map(|((url, (credentials, revision), description), (ca, insecure, hub, adopts))| Desired {
            type_: if hub { "docker-hub" } else { "github-ghcr" },
            url: url.to_owned(),
            description,
            credentials,
            credentials_revision: revision,
            ca_certificate: ca.map(str::to_owned),
            insecure,
            adoption: if adopts { AdoptionPolicy::IfExists } else { AdoptionPolicy::Never },
            ..desired()
        })
}

fn observed_of(harbor: &Stored, credentials_revision: Option<String>) -> Observed {
    let version = Some("v2.15.2".to_owned());
    Observed { registry: harbor.registry.clone(), credentials_revision, version, ..Observed::default() }
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(
        wanted in any_desired(),
        before in prop::option::of((any_desired(), any::<bool>(), any::<bool>(), any::<bool>())),
    ) {
        let (mut harbor, mut remembered) = (Stored::default(), None);
        if let Some((before, marked, healthy, has_status)) = before {
            plan(&before, &observed_of(&harbor, None)).unwrap().steps.iter().for_each(|step| harbor.carry_out(step));
            let registry = harbor.registry.as_mut().unwrap();
            if !marked {
                registry.description = "manual".to_owned();
            }
            if !healthy {
                registry.status = "unhealthy".to_owned();
            }
            remembered = before.credentials_revision.filter(|_| has_status);
        }
        // A refusal sends no request.
        let Ok(first) = plan(&wanted, &observed_of(&harbor, remembered)) else { return Ok(()) };
        first.steps.iter().for_each(|step| harbor.carry_out(step));
        let second = plan(&wanted, &observed_of(&harbor, wanted.credentials_revision.clone())).unwrap();
        prop_assert!(second.is_done() && second.drift.is_empty(), "{first:?} left {second:?}");
        let secret = wanted.credentials.map(|credentials| credentials.password.expose_secret().to_owned());
        prop_assert_eq!(harbor.secret, secret.unwrap_or_default());
    }
}
