//! Two controllers, of which one leads: killed, halted, cut off from the API server, and asked to end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use harbor_pilot_e2e::{cluster::NAMESPACE, control_plane::AUDITED, gate::Gate, pilot::Pilot};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use serde_json::{Value, json};

use crate::{SOON, Site, alone, pilot};

/// As 15 s, 10 s and 2 s, and soon over.
const TIMES: [&str; 6] = ["--lease-duration", "6s", "--lease-renew-deadline", "4s", "--lease-retry-period", "1s"];
const LEASE: Duration = Duration::from_secs(6);

/// A lease, the time to the next try, and what a busy machine takes for a start.
const TAKEN_OVER: Duration = Duration::from_secs(12);

/// Where a candidate runs: an account, and a way of its own to the API server.
struct Place {
    account: &'static str,
    gate: Gate,
}

impl Place {
    async fn start(&self, site: &Site) -> Pilot {
        let kubeconfig = site.kubeconfig(self.account, Some(self.gate.port())).await;
        let arguments =
            ["controller", "--leader-elect", "--store-delay", "1s", "--metrics-bind-address", "127.0.0.1:0"];
        pilot(&[&arguments[..], &TIMES[..]].concat(), &kubeconfig).await
    }
}

#[tokio::test]
async fn a_leader_that_is_killed_halted_cut_off_or_asked_to_end_is_followed_and_never_writes_again() {
    let site = alone().await;
    for account in AUDITED {
        bind(&site, account).await;
    }
    let [a, b] = AUDITED;
    let a = Place { account: a, gate: Gate::start(site.api_port()).await.unwrap() };
    let b = Place { account: b, gate: Gate::start(site.api_port()).await.unwrap() };
    let changing = Changing::start(site.plane.client().unwrap());
    let earlier = site.gate.sent().len();

    let mut first = a.start(&site).await;
    first.wait_for_line(" leading", SOON).await.unwrap();
    let mut second = b.start(&site).await;
    second.wait_for_line("another replica leads", SOON).await.unwrap();
    writes_to_harbor(&site, &first).await;
    let held = lease(&site).await;
    assert!(held.holder_identity.unwrap().starts_with("controller_"));
    assert_eq!(held.lease_duration_seconds, Some(6));
    let transitions = held.lease_transitions.unwrap();

    first.kill().unwrap();
    let killed = Instant::now();
    second.wait_for_line(" leading", TAKEN_OVER).await.unwrap();
    println!("the leader was killed: another led after {:?}", killed.elapsed());
    writes_to_harbor(&site, &second).await;

    let mut third = a.start(&site).await;
    third.wait_for_line("another replica leads", SOON).await.unwrap();
    second.halt().unwrap();
    let halted = Instant::now();
    third.wait_for_line(" leading", TAKEN_OVER).await.unwrap();
    println!("the leader was halted: another led after {:?}", halted.elapsed());
    writes_to_harbor(&site, &third).await;
    second.go_on().unwrap();
    let status = second.wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(2), "{}", second.logs());
    assert!(second.logs().contains("lost the Lease"), "{}", second.logs());

    let mut fourth = b.start(&site).await;
    fourth.wait_for_line("another replica leads", SOON).await.unwrap();
    a.gate.shut(true);
    let cut_off = Instant::now();
    let status = third.wait(LEASE).await.unwrap();
    let ended = cut_off.elapsed();
    assert_eq!(status.code(), Some(2), "{}", third.logs());
    assert!(third.logs().contains("the Lease could not be renewed in time"), "{}", third.logs());
    assert!(!fourth.logs().contains(" leading"), "it ends before another leads: {}", fourth.logs());
    fourth.wait_for_line(" leading", TAKEN_OVER).await.unwrap();
    println!("the leader was cut off: it ended after {ended:?}, another led after {:?}", cut_off.elapsed());
    writes_to_harbor(&site, &fourth).await;
    a.gate.shut(false);

    let mut fifth = a.start(&site).await;
    fifth.wait_for_line("another replica leads", SOON).await.unwrap();
    fourth.terminate().unwrap();
    let asked = Instant::now();
    let status = fourth.wait(SOON).await.unwrap();
    assert!(status.success(), "{}", fourth.logs());
    fifth.wait_for_line(" leading", TAKEN_OVER).await.unwrap();
    println!("the leader was asked to end: another led after {:?}", asked.elapsed());
    assert!(fourth.logs().contains("released the Lease"), "{}", fourth.logs());
    writes_to_harbor(&site, &fifth).await;
    changing.stop();
    fifth.terminate().unwrap();
    assert!(fifth.wait(SOON).await.unwrap().success(), "{}", fifth.logs());
    let left = lease(&site).await;
    assert_eq!((left.holder_identity.as_deref(), left.lease_transitions), (Some(""), Some(transitions + 4)));

    let candidates = [&first, &second, &third, &fourth, &fifth].map(Pilot::id);
    let sent: Vec<u32> = site.gate.sent().split_off(earlier).into_iter().map(|sent| sent.process).collect();
    assert_eq!(one_after_the_other(&sent), candidates, "what went to Harbor, by process");
    let written = written(&site);
    assert_eq!(one_after_the_other(&written), ["a", "b", "a", "b", "a"].map(|name| format!("candidate-{name}")));
}

/// What each stretch of equal values in a row is.
fn one_after_the_other<T: PartialEq + Clone>(all: &[T]) -> Vec<T> {
    let mut stretches = all.to_vec();
    stretches.dedup();
    stretches
}

/// Who wrote something to the API server that was not the Lease, in order.
fn written(site: &Site) -> Vec<String> {
    let log = site.plane.audit_log().unwrap();
    let mut writes: Vec<(String, String)> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["verb"] != "list" && entry["verb"] != "watch")
        .filter(|entry| entry["objectRef"]["resource"] != "leases")
        .filter_map(|entry| {
            let user = entry["user"]["username"].as_str()?.rsplit(':').next()?.to_owned();
            AUDITED.contains(&user.as_str()).then_some((entry["requestReceivedTimestamp"].as_str()?.to_owned(), user))
        })
        .collect();
    writes.sort();
    writes.into_iter().map(|(_, user)| user).collect()
}

/// Waits until this process writes something to Harbor.
async fn writes_to_harbor(site: &Site, leader: &Pilot) {
    let (end, before) = (Instant::now() + SOON, site.gate.sent().len());
    let writes = |line: &str| ["PUT ", "POST ", "DELETE "].iter().any(|method| line.starts_with(method));
    while !site.gate.sent()[before..].iter().any(|sent| sent.process == leader.id() && writes(&sent.line)) {
        assert!(Instant::now() < end, "it writes nothing: {}", leader.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn lease(site: &Site) -> k8s_openapi::api::coordination::v1::LeaseSpec {
    let leases: Api<Lease> = Api::namespaced(site.plane.client().unwrap(), NAMESPACE);
    leases.get("harbor-pilot-controller").await.unwrap().spec.unwrap()
}

/// An account with the rights of the controller.
async fn bind(site: &Site, account: &str) {
    let user = format!("--serviceaccount={NAMESPACE}:{account}");
    for arguments in [
        vec!["create", "serviceaccount", account, "-n", NAMESPACE],
        vec!["create", "clusterrolebinding", account, "--clusterrole=harbor-pilot-controller", &user],
        vec!["create", "rolebinding", account, "-n", NAMESPACE, "--role=harbor-pilot-controller", &user],
        vec!["create", "rolebinding", account, "-n", "default", "--role=harbor-pilot-events", &user],
    ] {
        site.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
    }
}

/// Somebody who changes the project all the time, so that there is always something to write.
struct Changing(Arc<AtomicBool>);

impl Changing {
    fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        tokio::spawn(async move {
            let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("harbor-pilot.dev", "v1alpha1", "ProxyProject"));
            let projects: Api<DynamicObject> = Api::all_with(client, &kind);
            for turn in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let change = Patch::Merge(json!({"spec": {"public": turn % 2 == 0}}));
                projects.patch("hub", &PatchParams::default(), &change).await.ok();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self(stop)
    }

    fn stop(self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
