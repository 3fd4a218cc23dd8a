//! Field by field: what the spec says, what somebody does in Harbor, and what is told of it.

use serde_json::{Value, json};

/// Why a field cannot drift.
type Unmanaged = (&'static str, &'static str);

/// Of all kinds.
pub const UNMANAGED: &[Unmanaged] = &[
    ("harborRef", "says which Harbor"),
    ("managementPolicy", "says what we do"),
    ("adoptionPolicy", "says what we do"),
    ("deletionPolicy", "says what we do"),
    ("suspend", "says what we do"),
    ("interval", "says when we look"),
];

pub const UNMANAGED_OF_REGISTRY: &[Unmanaged] = &[
    ("name", "nobody can change it in Harbor without making it another registry"),
    ("type", "Harbor cannot change it"),
    ("ecr", "another way to say url"),
    ("pullLimit", "for prewarming"),
    ("maxConcurrentPulls", "for prewarming"),
];

pub const UNMANAGED_OF_PROJECT: &[Unmanaged] = &[
    ("name", "Harbor cannot change it"),
    ("registryRef", "Harbor cannot change it"),
    ("rewrite", "for the webhook"),
    ("prewarm", "for prewarming"),
];

pub const UNMANAGED_OF_RULE: &[Unmanaged] = &[("afterScan", "says what we do")];

/// What values of a table depend on.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub name: String,
    pub marker: String,
    pub url: String,
    pub other_url: String,
    pub other_registry: i64,
}

/// What somebody does.
#[derive(Debug)]
pub enum Hand {
    /// PUT of this.
    Put(Value),
    /// PUT of what was read, with this member.
    Whole(&'static str, Value),
    /// PUT of the quota.
    Quota(i64),
    /// PUT of the retention policy as it was read, with this member.
    Retention(&'static str, Value),
}

impl Hand {
    /// Which document it changes: that of the resource, its quota or its retention policy.
    pub fn document(&self) -> usize {
        match self {
            Self::Put(_) | Self::Whole(..) => 0,
            Self::Quota(_) => 1,
            Self::Retention(..) => 2,
        }
    }

    /// What is sent; `document` is what was read.
    pub fn body(&self, mut document: Value) -> Value {
        match self {
            Self::Put(body) => body.clone(),
            Self::Quota(limit) => json!({"hard": {"storage": limit}}),
            Self::Whole(pointer, value) | Self::Retention(pointer, value) => {
                let (parent, member) = pointer.rsplit_once('/').unwrap();
                document.pointer_mut(parent).unwrap()[member] = value.clone();
                document
            }
        }
    }
}

/// One field.
#[derive(Debug)]
pub struct Row {
    pub field: &'static str,
    pub spec: Value,
    pub hand: Hand,
    /// How the line of drift begins.
    pub reported: String,
}

/// A row whose spec is `base` with `change`.
fn row(base: &Value, field: &'static str, change: Value, hand: Hand, reported: impl Into<String>) -> Row {
    let mut spec = base.clone();
    json_patch::merge(&mut spec, &change);
    Row { field, spec, hand, reported: reported.into() }
}

pub fn of_registry(place: &Place) -> Vec<Row> {
    let base = json!({"type": "docker-registry", "url": place.url});
    let row = |field, change, hand, reported: &str| row(&base, field, change, hand, reported);
    let put = |body: Value| Hand::Put(body);
    vec![
        row("url", json!({}), put(json!({"url": place.other_url})), &format!("url: {} instead of", place.other_url)),
        row(
            "description",
            json!({"description": "of Git"}),
            put(json!({"description": format!("by hand {}", place.marker)})),
            "description: by hand",
        ),
        row(
            "credentialsSecretRef.name",
            json!({"credentialsSecretRef": {"name": "up"}}),
            put(json!({"access_key": "other", "access_secret": "x", "credential_type": "basic"})),
            "access_key: other instead of puller",
        ),
        row(
            "caBundle",
            json!({"caBundle": certificate()}),
            put(json!({"ca_certificate": certificate()})),
            "ca_certificate: another certificate instead of the one of spec.caBundle",
        ),
        row("insecure", json!({"insecure": true}), put(json!({"insecure": false})), "insecure: false instead of true"),
    ]
}

fn certificate() -> String {
    rcgen::generate_simple_self_signed(vec!["registry.example.com".to_owned()]).unwrap().cert.pem()
}

pub fn of_project(place: &Place) -> Vec<Row> {
    let base = json!({"registryRef": {"name": place.name}});
    let row = |field, change, hand, reported: &str| row(&base, field, change, hand, reported);
    let metadata = |field, change, key: &str, value: &str, want: &str| {
        let hand = Hand::Put(json!({"metadata": {key: value}}));
        row(field, change, hand, &format!("{key}: {value} instead of {want}"))
    };
    let guard = json!({"vulnerabilities": {"prevent": true, "severity": "High", "autoScan": true}});
    let allowing = |field, change: Value, hand: &str, reported: &str| {
        let hand = Hand::Put(json!({"cve_allowlist": {"items": [{"cve_id": hand}]}}));
        row(field, json!({"cveAllowlist": change}), hand, reported)
    };
    let keeping = |field, rule: Value, pointer, value: Value, reported: &str| {
        row(field, json!({"retention": {"rules": [rule]}}), Hand::Retention(pointer, value), reported)
    };
    let repositories = "/rules/0/scope_selectors/repository/0/pattern";
    let tags = "/rules/0/tag_selectors/0/pattern";
    vec![
        metadata("public", json!({"public": true}), "public", "false", "true"),
        metadata("proxySpeedKB", json!({"proxySpeedKB": 512}), "proxy_speed_kb", "bad", "512"),
        metadata("maxUpstreamConnections", json!({"maxUpstreamConnections": 5}), "max_upstream_conn", "7", "5"),
        metadata("serveRemoved", json!({"serveRemoved": true}), "proxy_cache_local_on_not_found", "false", "true"),
        metadata("autoSBOM", json!({"autoSBOM": true}), "auto_sbom_generation", "false", "true"),
        metadata("vulnerabilities.prevent", guard.clone(), "prevent_vul", "false", "true"),
        metadata("vulnerabilities.severity", guard.clone(), "severity", "low", "high"),
        metadata("vulnerabilities.autoScan", guard, "auto_scan", "false", "true"),
        metadata(
            "cveAllowlist.system",
            json!({"cveAllowlist": {"system": true}}),
            "reuse_sys_cve_allowlist",
            "false",
            "true",
        ),
        allowing("cveAllowlist.items", json!({"items": ["CVE-1"]}), "CVE-9", "cve_allowlist: CVE-9 instead of CVE-1"),
        allowing(
            "cveAllowlist.expiresAt",
            json!({"items": ["CVE-1"], "expiresAt": "2030-03-17T17:46:40Z"}),
            "CVE-1",
            "cve_allowlist: CVE-1 instead of CVE-1 until second 1900000000",
        ),
        row(
            "storageLimit",
            json!({"storageLimit": "1Gi"}),
            Hand::Quota(5 << 20),
            "storage_limit: 5242880 instead of 1073741824",
        ),
        keeping(
            "retention.rules.pulledWithinDays",
            json!({"pulledWithinDays": 30}),
            "/rules/0/params/nDaysSinceLastPull",
            json!(8),
            "retention: nDaysSinceLastPull 8 ",
        ),
        keeping(
            "retention.rules.pushedWithinDays",
            json!({"pushedWithinDays": 30}),
            "/rules/0/params/nDaysSinceLastPush",
            json!(8),
            "retention: nDaysSinceLastPush 8 ",
        ),
        keeping(
            "retention.rules.latestPulled",
            json!({"latestPulled": 30}),
            "/rules/0/params/latestPulledN",
            json!(8),
            "retention: latestPulledN 8 ",
        ),
        keeping(
            "retention.rules.latestPushed",
            json!({"latestPushed": 30}),
            "/rules/0/params/latestPushedK",
            json!(8),
            "retention: latestPushedK 8 ",
        ),
        keeping("retention.rules.always", json!({"always": true}), "/rules", json!([]), "retention: no rule at "),
        keeping(
            "retention.rules.repositories.matches",
            json!({"always": true, "repositories": {"matches": "team/**"}}),
            repositories,
            json!("other/**"),
            "retention: always repoMatches other/** ",
        ),
        keeping(
            "retention.rules.repositories.excludes",
            json!({"always": true, "repositories": {"excludes": "team/**"}}),
            repositories,
            json!("other/**"),
            "retention: always repoExcludes other/** ",
        ),
        keeping(
            "retention.rules.tags.matches",
            json!({"always": true, "tags": {"matches": "v*"}}),
            tags,
            json!("w*"),
            "retention: always matches w* ",
        ),
        keeping(
            "retention.rules.tags.excludes",
            json!({"always": true, "tags": {"excludes": "v*"}}),
            tags,
            json!("w*"),
            "retention: always excludes w* ",
        ),
        keeping(
            "retention.rules.untagged",
            json!({"always": true, "untagged": true}),
            "/rules/0/tag_selectors/0/extras",
            json!("{\"untagged\":false}"),
            "retention: always matches **{\"untagged\":false} ",
        ),
        keeping(
            "retention.rules.disabled",
            json!({"always": true, "disabled": true}),
            "/rules/0/disabled",
            json!(false),
            "retention: always at ",
        ),
        row(
            "retention.schedule",
            json!({"retention": {"rules": [{"always": true}], "schedule": "0 0 3 * * *"}}),
            Hand::Retention("/trigger/settings/cron", json!("0 0 4 * * *")),
            "retention: always at 0 0 4 * * * instead of always at 0 0 3 * * *",
        ),
    ]
}

pub fn of_rule(place: &Place) -> Vec<Row> {
    let registry = json!({"name": place.name});
    let pull = json!({"source": {"registryRef": registry}, "trigger": {"type": "Manual"}});
    let push = json!({"destination": {"registryRef": registry}, "trigger": {"type": "EventBased"}});
    let pulled = |field, change, pointer, value: Value, reported: &str| {
        row(&pull, field, change, Hand::Whole(pointer, value), reported)
    };
    let pushed = |field, change, pointer, value: Value, reported: &str| {
        row(&push, field, change, Hand::Whole(pointer, value), reported)
    };
    let other = json!({"id": place.other_registry});
    let moved = format!("registry {} instead of registry ", place.other_registry);
    let manual_request = json!([{"type": "name", "value": "by-hand/**"}]);
    let filtered = |field, filters: Value| {
        pulled(
            field,
            json!({"filters": filters}),
            "/filters",
            manual_request.clone(),
            "filters: name by-hand/** instead of ",
        )
    };
    vec![
        pulled(
            "name",
            json!({}),
            "/name",
            json!(format!("{}-by-hand", place.name)),
            &format!("name: {}-by-hand instead of", place.name),
        ),
        pulled(
            "description",
            json!({"description": "of Git"}),
            "/description",
            json!(format!("by hand {}", place.marker)),
            "description: by hand",
        ),
        pulled("source.registryRef.name", json!({}), "/src_registry", other.clone(), &format!("src_registry: {moved}")),
        pushed("destination.registryRef.name", json!({}), "/dest_registry", other, &format!("dest_registry: {moved}")),
        pulled(
            "destination.namespace",
            json!({"destination": {"namespace": "mirror"}}),
            "/dest_namespace",
            json!("elsewhere"),
            "dest_namespace: elsewhere instead of mirror",
        ),
        pulled(
            "destination.flattenLevels",
            json!({"destination": {"namespace": "mirror", "flattenLevels": 1}}),
            "/dest_namespace_replace_count",
            json!(0),
            "dest_namespace_replace_count: 0 instead of 1",
        ),
        pulled(
            "trigger.type",
            json!({}),
            "/trigger",
            json!({"type": "scheduled", "trigger_settings": {"cron": "0 0 5 * * *"}}),
            "trigger: scheduled 0 0 5 * * * instead of manual",
        ),
        pulled(
            "trigger.cron",
            json!({"trigger": {"type": "Scheduled", "cron": "0 0 4 * * *"}}),
            "/trigger/trigger_settings/cron",
            json!("0 0 5 * * *"),
            "trigger: scheduled 0 0 5 * * * instead of scheduled 0 0 4 * * *",
        ),
        filtered("filters.name", json!({"name": "team/**"})),
        filtered("filters.tag.matches", json!({"tag": {"matches": "v*"}})),
        filtered("filters.tag.excludes", json!({"tag": {"excludes": "v*"}})),
        filtered("filters.labels.matches", json!({"labels": {"matches": ["signed"]}})),
        filtered("filters.labels.excludes", json!({"labels": {"excludes": ["secret"]}})),
        filtered("filters.resource", json!({"resource": "Image"})),
        pulled("override", json!({"override": true}), "/override", json!(false), "override: false instead of true"),
        pushed(
            "replicateDeletions",
            json!({"replicateDeletions": true}),
            "/deletion",
            json!(false),
            "deletion: false instead of true",
        ),
        pulled("speedKB", json!({"speedKB": 512}), "/speed", json!(7), "speed: 7 instead of 512"),
        pulled(
            "copyByChunk",
            json!({"copyByChunk": true}),
            "/copy_by_chunk",
            json!(false),
            "copy_by_chunk: false instead of true",
        ),
        pulled(
            "singleActive",
            json!({"singleActive": true}),
            "/single_active_replication",
            json!(false),
            "single_active_replication: false instead of true",
        ),
        pulled("enabled", json!({"enabled": true}), "/enabled", json!(false), "enabled: false instead of true"),
    ]
}
