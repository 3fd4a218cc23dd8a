//! A mutating webhook of another vendor, as a mesh or an operator brings one.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::pki::Authority;

/// What it makes of a Pod.
type Change = dyn Fn(&Value) -> Value + Send + Sync;

/// The webhook, on a loopback port. Dropping it closes the port.
pub struct OtherWebhook {
    port: u16,
    authority: Authority,
    calls: Arc<AtomicUsize>,
    handle: Handle<std::net::SocketAddr>,
}

#[derive(Clone)]
struct Shared {
    change: Arc<Change>,
    calls: Arc<AtomicUsize>,
}

impl OtherWebhook {
    /// Starts it. Of each Pod it makes what `change` says.
    ///
    /// # Errors
    /// When no port can be bound, or no certificate be made.
    pub async fn start(change: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Result<Self> {
        let authority = Authority::new("other-webhook")?;
        let pair = authority.server(&["127.0.0.1"])?;
        let tls = RustlsConfig::from_pem(pair.certificate.into_bytes(), pair.key.into_bytes()).await;
        let listener = TcpListener::bind("127.0.0.1:0").context("bind a port")?;
        listener.set_nonblocking(true).context("listen without blocking")?;
        let port = listener.local_addr().context("a port has an address")?.port();
        let (handle, calls) = (Handle::new(), Arc::new(AtomicUsize::new(0)));
        let shared = Shared { change: Arc::new(change), calls: Arc::clone(&calls) };
        let router = Router::new().route("/", post(answer)).with_state(shared);
        let server = axum_server::from_tcp_rustls(listener, tls.context("read the certificate")?)?;
        tokio::spawn(server.handle(handle.clone()).serve(router.into_make_service()));
        Ok(Self { port, authority, calls, handle })
    }

    /// Tells the API server to send new Pods of a namespace here.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn register(&self, client: &Client, name: &str, namespace: &str, reinvocation: &str) -> Result<()> {
        let ca_bundle = ByteString(self.authority.pem().as_bytes().to_vec());
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": format!("{name}.example.com"),
                "clientConfig": {"url": format!("https://127.0.0.1:{}/", self.port), "caBundle": ca_bundle},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
                }],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "timeoutSeconds": 10,
                "reinvocationPolicy": reinvocation,
                "admissionReviewVersions": ["v1"],
            }],
        });
        Api::<MutatingWebhookConfiguration>::all(client.clone())
            .patch(name, &PatchParams::apply("harbor-pilot-e2e").force(), &Patch::Apply(configuration))
            .await
            .with_context(|| format!("register the webhook {name}"))?;
        Ok(())
    }

    /// Removes the configuration.
    ///
    /// # Errors
    /// When the API server refuses, also when there is none.
    pub async fn unregister(&self, client: &Client, name: &str) -> Result<()> {
        let configurations = Api::<MutatingWebhookConfiguration>::all(client.clone());
        configurations.delete(name, &DeleteParams::default()).await.with_context(|| format!("remove {name}"))?;
        Ok(())
    }

    /// How often it was asked.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for OtherWebhook {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

async fn answer(State(shared): State<Shared>, body: String) -> impl IntoResponse {
    shared.calls.fetch_add(1, Ordering::SeqCst);
    let review: Value = serde_json::from_str(&body).unwrap_or_default();
    let object = review.pointer("/request/object").cloned().unwrap_or_default();
    let patch = json_patch::diff(&object, &(shared.change)(&object));
    let patch = ByteString(serde_json::to_vec(&patch).unwrap_or_default());
    let uid = review.pointer("/request/uid").cloned().unwrap_or_default();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": patch},
    });
    ([(CONTENT_TYPE, "application/json")], answer.to_string())
}
