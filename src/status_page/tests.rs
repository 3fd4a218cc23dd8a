use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

use super::*;
use crate::summary::SummaryBuilder;

/// All external input has this text.
const EVIL: &str = "</td><script>alert(1)</script><img src=//evil.example/x onerror='alert(2)'>";

fn content() -> PageContent {
    let mut survey = SummaryBuilder::new(LIMIT);
    let message = format!("Harbor failed: {EVIL}");
    let condition = json!({"type": "Ready", "status": "False", "reason": EVIL, "message": message,
                           "lastTransitionTime": "2026-03-01T09:00:00Z"});
    let instance = json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "HarborInstance",
        "metadata": {"name": "default", "generation": 1},
        "spec": {"url": format!("https://harbor.corp/{EVIL}"), "credentialsSecretRef": {"name": "harbor"}},
        "status": {"observedGeneration": 1, "version": EVIL, "conditions": [condition]},
    });
    survey.instance(&serde_json::from_value(instance).unwrap());
    let at = "2026-03-01T10:00:00Z".parse().unwrap();
    PageContent {
        component: "controller",
        facts: vec![("Namespace", EVIL.to_owned())],
        rules: Some(PageRules {
            total: 1,
            items: vec![PageRule { name: EVIL.into(), target: EVIL.into(), mode: "Enabled".into(), waits: true }],
            findings: vec![EVIL.into()],
        }),
        report: Some(survey.report()),
        images: vec![PageImage {
            image: EVIL.into(),
            ready: "True".into(),
            reason: "Warm".into(),
            bytes: 1 << 20,
            offline: (true, false),
            warmed: Some(at),
        }],
        troubles: vec![LoggedError { at, is_error: true, text: EVIL.to_owned(), times: 3 }],
    }
}

async fn answer(method: &str) -> http::Response<String> {
    let request = http::Request::builder().method(method).uri("/").body(axum::body::Body::empty()).unwrap();
    let (parts, body) = router(Arc::new(content)).oneshot(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    http::Response::from_parts(parts, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn whatever_comes_from_outside_is_text_wherever_it_stands() {
    let page = answer("GET").await.into_body();
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    let escaped = "&lt;script&gt;alert(1)&lt;/script&gt;";
    // Fact, URL, version, reason twice, message, rule, target, finding, image, trouble.
    assert_eq!(page.matches(escaped).count(), 11, "{page}");
}

#[tokio::test]
async fn status_page_headers_allow_only_its_own_style() {
    let answer = answer("GET").await;
    let header = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!((header("x-content-type-options"), header("cache-control")), ("nosniff".into(), "no-store".into()));
    let page = answer.body();
    assert!(page.contains(&format!("<style>{STYLE}</style>")), "the hash is of other text");
    assert!(!page.contains(" style=") && !page.contains("http://") && !page.contains("<form"), "{page}");
}

#[tokio::test]
async fn the_page_changes_nothing() {
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(answer(method).await.status(), http::StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}
