//! The attacks, one a row.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::front::{Answer, Asked, answers, repeats, resets, sends};

/// One hostile Harbor.
pub struct Attack {
    pub name: &'static str,
    /// Its place among all.
    pub number: usize,
    /// Requests whose line holds this are attacked.
    pub on: &'static str,
    pub answer: Answer,
    /// Where it shows: in Ready of this resource, or in the error of a pull.
    pub shows: Shows,
    /// What it shows as: any of these reasons.
    pub reasons: &'static [&'static str],
    /// How much memory it may take.
    pub memory: u64,
    /// Whether all is well once it ends.
    pub recovers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    Instance,
    Registry,
    Project,
    Pull,
}

const MIB: u64 = 1 << 20;
const INFO: &str = "/systeminfo";
const LIST: &str = "GET /api/v2.0/registries?";
const NEVER: Duration = Duration::from_secs(3600);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

fn attack(
    name: &'static str,
    on: &'static str,
    shows: Shows,
    reasons: &'static [&'static str],
    answer: Answer,
) -> Attack {
    Attack { name, number: 0, on, answer, shows, reasons, memory: 16 * MIB, recovers: true }
}

fn chunked(piece: &'static str) -> &'static [u8] {
    Box::leak(format!("{:x}\r\n{piece}\r\n", piece.len()).into_bytes().into_boxed_slice())
}

fn document(text: &str) -> Answer {
    let text = text.to_owned();
    answers("200 OK", move |_| text.clone().into_bytes())
}

/// The request in every form in which an error page may show it.
pub fn echo(asked: &Asked) -> String {
    let text = asked.text();
    let percent: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let decoded: Vec<String> =
        text.split_whitespace().filter_map(|word| String::from_utf8(STANDARD.decode(word).ok()?).ok()).collect();
    // The later ones would be cut away: each comes first once.
    let mut forms = [
        decoded.join(" "),
        text.lines().filter(|line| line.to_lowercase().starts_with("authorization")).collect(),
        text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned(),
        percent.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect(),
        STANDARD.encode(text.split("\r\n\r\n").nth(1).unwrap_or_default()),
        STANDARD.encode(&text),
        hex.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect(),
        json!(text).to_string(),
    ];
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % forms.len();
    forms.rotate_left(turn);
    forms.join(" | ")
}

fn echoes(status: &'static str, as_json: bool) -> Answer {
    answers(status, move |asked| {
        let said = echo(asked);
        if as_json {
            json!({"errors": [{"code": "X", "message": said}]}).to_string().into_bytes()
        } else {
            said.into_bytes()
        }
    })
}

/// Pages that never end, each of them another.
fn endless_pages() -> Answer {
    let (count, padding) = (AtomicUsize::new(1), "x".repeat(20_000));
    answers("200 OK\r\nX-Total-Count: 9223372036854775807", move |_| {
        let first = count.fetch_add(100, Ordering::Relaxed);
        let item = |id: usize| format!(r#"{{"id":{id},"name":"r{id}","url":"http://x","description":"{padding}"}}"#);
        let page: Vec<String> = (first..first + 100).map(item).collect();
        format!("[{}]", page.join(",")).into_bytes()
    })
}

fn same_page_with_links(url: &str) -> Answer {
    let page: Vec<_> = (1..=100).map(|id| json!({"id": id, "name": format!("r{id}")})).collect();
    let body = json!(page).to_string();
    let head =
        format!("{OK}connection: close\r\nlink: <{url}>; rel=\"next\"\r\ncontent-length: {}\r\n\r\n", body.len());
    sends(format!("{head}{body}"))
}

fn challenge(realm: &str) -> Answer {
    sends(format!(
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"{realm}\",service=\"harbor-registry\"\r\ncontent-length: \
         0\r\nconnection: close\r\n\r\n"
    ))
}

fn redirect(to: &str) -> Answer {
    sends(format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
}

/// All of them. `elsewhere` is a host that nothing may be sent to.
pub fn all(elsewhere: &str) -> Vec<Attack> {
    use Shows::{Instance, Project, Pull, Registry};
    let error: &[&str] = &["HarborError"];
    let silence: &[&str] = &["HarborUnreachable"];
    let pull: &[&str] = &["PullFailed", "HarborUnreachable"];
    let hundred = Duration::from_millis(100);
    let spaces: &'static str = Box::leak(" ".repeat(64 << 10).into_boxed_str());
    let deep: String = "[".repeat(200_000);
    let evil = "v2.15.2\u{1b}[2J\u{1b}]0;owned\u{7}\nlevel=error msg=forged\u{202e}\u{0}";
    let mut all = vec![
        attack("an HTML page with 200", INFO, Instance, error, document("<html><body>Log in</body></html>")),
        attack("200 with an empty body", INFO, Instance, error, document("")),
        attack("truncated JSON", INFO, Instance, error, document(r#"{"harbor_version":"v2.1"#)),
        attack("wrong types", INFO, Instance, error, document(r#"{"harbor_version":{"a":[1]}}"#)),
        attack("JSON nested without end", INFO, Instance, error, document(&deep)),
        attack("a body that ends early", INFO, Instance, error, sends(format!("{OK}content-length: 99999\r\n\r\n{{"))),
        attack(
            "a reset in the middle of a body",
            INFO,
            Instance,
            error,
            resets(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{\"a"),
        ),
        attack("a reset before an answer", INFO, Instance, silence, resets(b"")),
        attack(
            "garbage instead of HTTP",
            INFO,
            Instance,
            silence,
            sends(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec()),
        ),
        attack("a negative length", INFO, Instance, silence, sends(format!("{OK}content-length: -1\r\n\r\n{{}}"))),
        attack("no answer", INFO, Instance, silence, repeats("", b"", 1, NEVER)),
        attack("a head that drips", INFO, Instance, silence, repeats("HTTP/1.1 200 OK\r\nx: ", b"a", 100_000, hundred)),
        attack(
            "a body that drips",
            INFO,
            Instance,
            silence,
            repeats("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n", b" ", 99_999, hundred),
        ),
        attack(
            "an error that drips",
            INFO,
            Instance,
            error,
            repeats("HTTP/1.1 500 x\r\ncontent-length: 99999\r\n\r\n", b"x", 99_999, hundred),
        ),
        attack(
            "headers without end",
            INFO,
            Instance,
            silence,
            repeats(
                "HTTP/1.1 200 OK\r\n",
                b"x-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
                1 << 20,
                Duration::ZERO,
            ),
        ),
        attack(
            "early hints without end",
            INFO,
            Instance,
            silence,
            repeats("", b"HTTP/1.1 103 Early Hints\r\n\r\n", 1 << 26, Duration::from_micros(1)),
        ),
        attack(
            "a redirect to a metadata address",
            INFO,
            Instance,
            error,
            redirect("http://169.254.169.254/latest/meta-data/"),
        ),
        attack("a redirect to another host", INFO, Instance, error, redirect(elsewhere)),
        attack("a redirect to itself", INFO, Instance, error, redirect("/api/v2.0/systeminfo")),
        attack(
            "a gzip bomb",
            INFO,
            Instance,
            error,
            sends({
                let mut bytes = format!("{OK}content-encoding: gzip\r\nconnection: close\r\n\r\n").into_bytes();
                bytes.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xed, 0xc1, 1, 1, 0, 0, 0, 0x80, 0x90, 0xfe]);
                bytes
            }),
        ),
        attack(
            "escapes and a new line in the version",
            INFO,
            Instance,
            &["Healthy"],
            document(&json!({"harbor_version": evil}).to_string()),
        ),
        // 8 MiB are read, into a buffer that grows, which takes twice as much where growing copies it.
        Attack {
            memory: 32 * MIB,
            ..attack(
                "a page of 100 MB",
                LIST,
                Registry,
                error,
                repeats("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunked(spaces), 1600, Duration::ZERO),
            )
        },
        attack(
            "a page that says it has 100 MB",
            LIST,
            Registry,
            error,
            repeats("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n", b" ", 1, NEVER),
        ),
        Attack { memory: 64 * MIB, ..attack("pages without end", LIST, Registry, error, endless_pages()) },
        attack("links in a loop", LIST, Registry, error, same_page_with_links("/api/v2.0/registries?page=1")),
        attack("links to another host", LIST, Registry, error, same_page_with_links(elsewhere)),
        attack("ids out of range", LIST, Registry, error, document(r#"[{"id":99999999999999999999999,"name":"a"}]"#)),
        attack("a negative id", LIST, Registry, &["AdoptionRequired"], document(r#"[{"id":-7,"name":"up"}]"#)),
        attack(
            "one name twice",
            LIST,
            Registry,
            &["AdoptionRequired"],
            document(r#"[{"id":1,"name":"up"},{"id":2,"name":"up"}]"#),
        ),
        attack(
            "an id that is no number for what was made",
            "POST /api/v2.0/registries",
            Registry,
            error,
            sends(format!(
                "HTTP/1.1 201 Created\r\nlocation: /api/v2.0/registries/{}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                "9".repeat(40)
            )),
        ),
        Attack {
            recovers: false,
            ..attack(
                "a very long rest",
                INFO,
                Instance,
                &["RateLimited"],
                sends(
                    "HTTP/1.1 429 x\r\nretry-after: 99999999999999\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                ),
            )
        },
        attack("a token service elsewhere", "GET /v2/ ", Pull, pull, challenge(&format!("{elsewhere}/token"))),
        attack("a token service at another path", "GET /v2/ ", Pull, pull, challenge("http://harbor/api/v2.0/users")),
        attack(
            "a token service that climbs",
            "GET /v2/ ",
            Pull,
            pull,
            challenge("http://harbor/service/token/../../api/v2.0/users"),
        ),
        attack(
            "a page of a proxy instead of a challenge",
            "GET /v2/ ",
            Pull,
            &["HarborUnauthorized", "PullBlocked", "PullFailed"],
            document("<html>maintenance</html>"),
        ),
        attack(
            "a token of 10 MB",
            "/service/token",
            Pull,
            &["PullFailed"],
            repeats("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunked(spaces), 160, Duration::ZERO),
        ),
        attack(
            "a token that never comes",
            "/service/token",
            Pull,
            pull,
            repeats("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n", b" ", 99_999, hundred),
        ),
        attack(
            "an error of a manifest that drips",
            "/manifests/",
            Pull,
            &["PullFailed"],
            repeats("HTTP/1.1 500 x\r\ncontent-length: 99999\r\n\r\n", b"x", 99_999, hundred),
        ),
        attack("a redirect of a manifest", "/manifests/", Pull, &["PullFailed"], redirect("http://169.254.169.254/")),
    ];
    let long = json!({"harbor_version": "x%41".repeat(1 << 20)}).to_string();
    all.push(Attack {
        memory: 32 * MIB,
        ..attack("a version without end", INFO, Instance, &["Healthy"], document(&long))
    });
    let long = json!([{"id": 1, "name": "up", "description": "x%41".repeat(1 << 20)}]).to_string();
    all.push(Attack {
        memory: 32 * MIB,
        ..attack("a description without end", LIST, Registry, &["AdoptionRequired"], document(&long))
    });
    for status in ["400 x", "403 x", "404 x", "409 x", "412 x", "418 x", "500 x", "502 x"] {
        for as_json in [false, true] {
            for (on, shows) in [
                (INFO, Instance),
                ("POST /api/v2.0/registries", Registry),
                ("/api/v2.0/projects", Project),
                ("/service/token", Pull),
                ("/manifests/", Pull),
            ] {
                all.push(attack("an echo", on, shows, &[], echoes(status, as_json)));
            }
        }
    }
    all.push(attack(
        "an echo with 200",
        INFO,
        Instance,
        &["Healthy"],
        answers("200 OK", |asked| json!({"harbor_version": echo(asked)}).to_string().into_bytes()),
    ));
    all.push(attack(
        "an echo of a wrong type",
        INFO,
        Instance,
        error,
        answers("200 OK", |asked| json!(echo(asked)).to_string().into_bytes()),
    ));
    all.push(attack(
        "an echo as redirect",
        "/manifests/",
        Pull,
        &[],
        Arc::new(|stream, asked| {
            let target = asked
                .text()
                .lines()
                .find(|line| line.to_lowercase().starts_with("authorization"))
                .unwrap_or_default()
                .to_owned();
            redirect(&format!("http://x/{target}"))(stream, asked)
        }),
    ));
    all.iter_mut().enumerate().for_each(|(number, attack)| attack.number = number);
    all
}
