//! Sends a recorded request to the double: with its hosts, digests, ids and credentials.

use base64::Engine as _;
use serde_json::Value;

use super::{Answer, Exchange, World};

impl World {
    pub(super) async fn send(&self, exchange: &Exchange) -> Answer {
        let mut path = self.double_hosts(&self.digests.request(&exchange.path));
        let below = |recorded: &String| {
            path.strip_prefix(recorded.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if let Some((recorded, ours)) = self.places.iter().rev().find(|(recorded, _)| below(recorded)) {
            path = path.replace(recorded, ours);
        }
        let method = reqwest::Method::from_bytes(exchange.method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.harbor.url()));
        for (name, value) in &exchange.request_headers {
            if name != "authorization" {
                request = request.header(name, value);
            }
        }
        match exchange.request_headers.get("authorization").map(String::as_str) {
            Some("(none)") => {}
            Some(value) if value.starts_with("Basic ") => {
                let given = value.trim_start_matches("Basic ");
                let user = given.rsplit_once(':').map_or(given, |(user, _)| user);
                let given = self.secrets.get(user).map_or(given.to_owned(), |secret| format!("{user}:{secret}"));
                let encoded = base64::engine::general_purpose::STANDARD.encode(given);
                request = request.header("authorization", format!("Basic {encoded}"));
            }
            Some(_) => request = request.bearer_auth(self.token(exchange).await),
            None => request = request.basic_auth("admin", Some("Harbor12345")),
        }
        if let Some(body) = &exchange.request_body {
            let mut body = self.double_hosts(&self.digests.request(body));
            for (recorded, ours) in &self.places {
                let id = |place: &str| place.strip_prefix("/api/v2.0/registries/").map(ToOwned::to_owned);
                if let (Some(recorded), Some(ours)) = (id(recorded), id(ours)) {
                    body = body.replace(&format!("\"registry_id\": {recorded}"), &format!("\"registry_id\": {ours}"));
                    let end = |id: &str| format!("_registry\": {{\"id\": {id}}}");
                    body = body.replace(&end(&recorded), &end(&ours));
                }
            }
            request = request.body(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let headers = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), self.recorded_hosts(value.to_str().unwrap_or_default())))
            .collect();
        Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
    }

    /// A token as the recorder had it: anonymous, but the administrator's where one was needed to get this far.
    async fn token(&self, exchange: &Exchange) -> String {
        let needed = exchange.status == 403 || exchange.path.starts_with("/v2/pxpriv") && exchange.status < 400;
        let name = exchange.path.trim_start_matches("/v2/");
        let name =
            ["/manifests/", "/blobs/", "/tags/"].iter().find_map(|part| name.split_once(part)).map_or(name, |at| at.0);
        let url = format!("{}/service/token?service=harbor-registry&scope=repository:{name}:pull", self.harbor.url());
        let mut request = self.http.get(url);
        if needed {
            request = request.basic_auth("admin", Some("Harbor12345"));
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["token"].as_str().unwrap().to_owned()
    }

    fn hosts(&self) -> [(&'static str, String); 6] {
        [
            ("127.0.0.1:18080", self.harbor.host()),
            ("127.0.0.1:15001", self.open.host()),
            ("127.0.0.1:15002", self.closed.host()),
            ("127.0.0.1:15003", self.shaky.host()),
            ("127.0.0.1:18099", self.stranger.host()),
            // Nothing listens on the port for discarding.
            ("127.0.0.1:15999", "127.0.0.1:9".to_owned()),
        ]
    }

    fn double_hosts(&self, text: &str) -> String {
        let replace = |text: String, (recorded, ours): &(&str, String)| {
            let encoded = |host: &str| host.replace(':', "%3A");
            text.replace(recorded, ours).replace(&encoded(recorded), &encoded(ours))
        };
        self.hosts().iter().fold(text.to_owned(), replace)
    }

    pub(super) fn recorded_hosts(&self, text: &str) -> String {
        self.hosts().iter().fold(text.to_owned(), |text, (recorded, ours)| text.replace(ours, recorded))
    }
}
