//! What the accounts of both processes may do. That it is enough, all other tests show: the processes run under them.

use harbor_pilot_e2e::cluster::{NAMESPACE, shared};

#[tokio::test]
async fn the_accounts_of_both_processes_may_do_no_more_than_they_need() {
    let cluster = shared().await.unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/rbac");
    let roles = cluster.plane.kubectl(&["kustomize", root]).await.unwrap().ok().unwrap();
    assert!(!roles.contains('*'), "a wildcard: {roles}");

    let ours = ["harborinstances", "registries", "proxyprojects", "replicationrules", "cachedimages"]
        .map(|kind| format!("{kind}.harbor-pilot.dev"));
    let table = [
        ("webhook", "create cachedimages.harbor-pilot.dev", "default", true),
        ("webhook", "watch proxyprojects.harbor-pilot.dev", "default", true),
        ("webhook", "watch cachedimages.harbor-pilot.dev", "default", true),
        ("webhook", "get cachedimages.harbor-pilot.dev", "default", false),
        ("webhook", "patch cachedimages.harbor-pilot.dev", "default", false),
        ("webhook", "patch proxyprojects.harbor-pilot.dev --subresource=status", "default", false),
        ("webhook", "watch harborinstances.harbor-pilot.dev", "default", true),
        ("webhook", "watch namespaces", "default", true),
        ("webhook", "patch namespaces", "default", false),
        ("webhook", "get registries.harbor-pilot.dev", "default", false),
        ("webhook", "get secrets/harbor", NAMESPACE, false),
        ("webhook", "list pods", "default", false),
        ("webhook", "get configmaps", NAMESPACE, false),
        ("controller", "get secrets/harbor", NAMESPACE, true),
        ("controller", "watch secrets/harbor", NAMESPACE, true),
        ("controller", "watch secrets", "default", false),
        ("controller", "list secrets", "kube-system", false),
        ("controller", "patch secrets/harbor", NAMESPACE, false),
        ("controller", "create secrets", NAMESPACE, true),
        ("controller", "create secrets", "default", false),
        ("controller", "update leases.coordination.k8s.io/harbor-pilot-controller", NAMESPACE, true),
        ("controller", "update leases.coordination.k8s.io/other", NAMESPACE, false),
        ("controller", "update secrets/harbor-pilot-webhook-ca", NAMESPACE, true),
        ("controller", "update secrets/harbor-pilot-webhook-tls", NAMESPACE, true),
        ("controller", "delete secrets/harbor-pilot-webhook-tls", NAMESPACE, false),
        ("controller", "list endpointslices.discovery.k8s.io", NAMESPACE, true),
        ("controller", "list endpointslices.discovery.k8s.io", "default", false),
        ("controller", "patch mutatingwebhookconfigurations/harbor-pilot", "default", true),
        ("controller", "patch validatingwebhookconfigurations/harbor-pilot", "default", true),
        ("controller", "patch validatingwebhookconfigurations/other", "default", false),
        ("controller", "create mutatingwebhookconfigurations", "default", false),
        ("controller", "list mutatingwebhookconfigurations", "default", false),
        ("webhook", "get secrets/harbor-pilot-webhook-tls", NAMESPACE, false),
        ("controller", "update secrets/harbor", NAMESPACE, false),
        ("controller", "get secrets", "default", false),
        ("controller", "get secrets", "kube-system", false),
        ("controller", "watch pods", "default", true),
        ("controller", "patch pods", "default", false),
        ("controller", "get namespaces/kube-system", "default", true),
        ("controller", "get namespaces/default", "default", false),
        ("controller", "watch namespaces", "default", true),
        ("controller", "watch deployments.apps", "default", true),
        ("controller", "list cronjobs.batch", "default", true),
        ("controller", "get deployments.apps", "default", false),
        ("controller", "patch deployments.apps", "default", false),
        ("controller", "watch replicasets.apps", "default", false),
        ("controller", "patch events.events.k8s.io", "default", true),
        ("controller", "create events.events.k8s.io", "kube-system", false),
        ("controller", "patch harborinstances.harbor-pilot.dev", "default", false),
        ("controller", "patch cachedimages.harbor-pilot.dev", "default", false),
        ("controller", "watch imagepolicies.harbor-pilot.dev", "default", true),
        ("controller", "patch imagepolicies.harbor-pilot.dev", "default", false),
    ];
    let mut asked: Vec<_> =
        table.map(|(who, what, namespace, may)| (who, what.to_owned(), namespace, may)).into_iter().collect();
    for kind in &ours {
        asked.push(("webhook", format!("delete {kind}"), "default", false));
        let expires = kind.starts_with("cachedimages");
        asked.push(("controller", format!("delete {kind}"), "default", expires));
        asked.push(("controller", format!("patch {kind} --subresource=status"), "default", true));
    }
    for (who, what, namespace, may) in asked {
        let account = format!("system:serviceaccount:{NAMESPACE}:harbor-pilot-{who}");
        let arguments: Vec<&str> =
            ["auth", "can-i", "-q", "-n", namespace, "--as", &account].into_iter().chain(what.split(' ')).collect();
        let output = cluster.plane.kubectl(&arguments).await.unwrap();
        assert_eq!(output.status.success(), may, "{who}: {what} in {namespace}: {output:?}");
    }
}
