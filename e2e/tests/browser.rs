//! The status page in a browser. Where there is no Chromium the test is ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use axum::Router;
use axum::http::StatusCode;
use harbor_pilot_e2e::browser;
use harbor_pilot_e2e::cluster::{resource, secret, shared};
use harbor_pilot_e2e::needs::trial;
use libtest_mimic::Arguments;
use serde_json::json;

const NAME: &str = "the_status_page_shows_in_a_browser_what_there_is_and_a_hostile_message_as_text";

fn main() {
    let test = || tokio::runtime::Runtime::new().unwrap().block_on(shows_what_there_is_and_a_hostile_message_as_text());
    let trials = vec![trial(NAME, browser::REQUIRED, browser::missing(), test)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

async fn get(url: String) -> String {
    reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// A Harbor that answers each request by an error with this message.
async fn hostile(message: String) -> String {
    let body = json!({"errors": [{"code": "UNKNOWN", "message": message}]}).to_string();
    let router = Router::new().fallback(async move || (StatusCode::INTERNAL_SERVER_ERROR, body));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn shows_what_there_is_and_a_hostile_message_as_text() {
    let browser = browser::find().unwrap();
    let cluster = shared().await.unwrap();
    let evil = "<script>document.title='pwned'</script><img src=http://127.0.0.1:9/x>";
    let url = hostile(evil.to_owned()).await;
    cluster.apply(&secret("hostile", "robot$hostile", "c4nary-hostile")).await.unwrap();
    let spec = json!({"url": url, "credentialsSecretRef": {"name": "hostile"}, "interval": "1h"});
    cluster.apply(&resource("HarborInstance", "hostile", spec)).await.unwrap();
    cluster.wait_for("HarborInstance", "hostile", "Ready", "False HarborError").await.unwrap();

    let page = get(cluster.controller_ops()).await;
    assert!(!page.contains("c4nary") && !page.contains("<script"), "{page}");
    for (ops, wanted) in [
        (
            cluster.controller_ops(),
            &["default", "hostile", "dockerhub", "HarborError", "✓ Warm", "document.title="][..],
        ),
        (cluster.webhook_ops(), &["Active rules", "dockerhub", "serves"]),
    ] {
        look(&browser, &ops, wanted).await;
    }
    cluster.delete("hinst", "hostile").await.unwrap();
}

async fn look(browser: &std::path::PathBuf, ops: &str, wanted: &[&str]) {
    let page = browser::open(browser, &format!("{ops}/")).await.unwrap();
    for text in wanted {
        assert!(page.dom.contains(text), "{text} is not in\n{}", page.dom);
    }
    assert!(page.dom.contains("<title>Harbor Pilot: ") && !page.dom.contains("<script"), "{}", page.dom);
    assert!(page.dom.contains(r#"<th scope="col">"#) && page.dom.contains(r#"<html lang="en">"#), "{}", page.dom);
    assert!(page.console.is_empty(), "{:#?}", page.console);
    let elsewhere = |url: &&String| url.starts_with("http") && !url.starts_with(ops);
    let elsewhere: Vec<_> = page.requests.iter().filter(elsewhere).collect();
    assert!(page.requests.iter().any(|url| url.starts_with(ops)), "{:?}", page.requests);
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}
