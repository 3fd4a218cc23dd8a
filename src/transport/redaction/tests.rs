use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;

const PASSWORD: &str = r#"p@ss/w"ord+é&<x>'%1"#;

fn secrets(username: &str, password: &str) -> Redactor {
    let secrets = Redactor::default();
    secrets.learn(username, &SecretString::from(password));
    secrets
}

fn percent(text: &str, kept: &str, upper: bool) -> String {
    let byte = |byte: u8| match char::from(byte) {
        character if byte.is_ascii_alphanumeric() || kept.contains(character) => character.to_string(),
        _ if upper => format!("%{byte:02X}"),
        _ => format!("%{byte:02x}"),
    };
    text.bytes().map(byte).collect()
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#x27;")
}

#[test]
fn redact_finds_a_secret_however_it_is_encoded() {
    let json = serde_json::to_string(PASSWORD).unwrap();
    let json = json.trim_matches('"').to_owned();
    let body = format!(r#"{{"access_key":"up","access_secret":"{json}"}}"#);
    let basic = STANDARD.encode(format!("robot$pilot:{PASSWORD}"));
    let table = [
        PASSWORD.to_owned(),
        json.clone(),
        json.replace('/', r"\/").replace('<', r"\u003c").replace('é', r"\u00e9"),
        serde_json::to_string(&json).unwrap(),
        format!("{PASSWORD:?}"),
        percent(PASSWORD, "-_.~", true),
        percent(PASSWORD, "-_.~!'()*", false),
        percent(PASSWORD, "@:&=+$", true),
        percent(&percent(PASSWORD, "", true), "", true),
        html(PASSWORD),
        html(&json),
        PASSWORD.bytes().map(|byte| format!("{byte:02x}")).collect(),
        STANDARD.encode(PASSWORD),
        STANDARD.encode(&body),
        STANDARD.encode(format!("x{PASSWORD}")),
        basic.clone(),
        percent(&basic, "", true),
        format!("Authorization: Basic {basic}"),
    ];
    let secrets = secrets("robot$pilot", PASSWORD);
    for text in table {
        let said = secrets.redact(&format!("error: <{text}> was sent"));
        assert!(
            said.contains(REDACTED) && said.starts_with("error: <") && said.ends_with("> was sent"),
            "{text}: {said}"
        );
        for word in ["p@ss", "ord+", "p%40ss", "p%2540ss", basic.get(..20).unwrap(), "w\\\"ord"] {
            assert!(!said.contains(word), "{text}: {said}");
        }
    }
}

/// Invisible characters within a secret, and encodings byte by byte.
#[test]
fn redact_finds_a_secret_that_is_broken_or_encoded_byte_by_byte() {
    let (user, password) = ("robot$hp", "c4naryS3cret/pass+word&123");
    let basic = STANDARD.encode(format!("{user}:{password}"));
    let broken = |text: &str, by: &str| format!("{}{by}{}", &text[..10], &text[10..]);
    let bytes = |text: &str, form: fn(u8) -> String| text.bytes().map(form).collect::<String>();
    let wrapped = |text: &str| {
        let encoded = STANDARD.encode(text);
        encoded
            .as_bytes()
            .chunks(76)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let colons = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let between =
        ["\n", "\r\n ", "\u{200b}", "\0", "\u{ad}", "\u{1b}[0m", "\u{1b}[1;31m", "\u{feff}", "\\n", "\\u200b"];
    let mut table: Vec<String> = between.iter().flat_map(|by| [broken(password, by), broken(&basic, by)]).collect();
    table.extend([
        wrapped(&format!("Authorization: Basic {basic}")),
        bytes(password, |byte| format!("\\x{byte:02x}")),
        bytes(password, |byte| format!("\\{byte:03o}")),
        bytes(password, |byte| format!("\\u{{{byte:x}}}")),
        bytes(password, |byte| format!("={byte:02X}")),
        colons(password),
        colons(&basic),
        bytes(&basic, |byte| format!("{byte:02X}")),
    ]);
    let secrets = secrets(user, password);
    for text in table {
        let said = secrets.redact(&format!("you sent: <{text}> end"));
        assert_eq!(said, format!("you sent: <{REDACTED}> end"), "{text:?}");
        // Words before multi-line base64 may be removed with it.
        let message = secrets.message(format!("sent {text}").as_bytes(), false, &[]);
        assert!(message == format!("sent {REDACTED}") || message == REDACTED, "{text:?}: {message}");
    }
}

#[test]
fn redact_of_hostile_text_costs_time_in_proportion_to_its_length() {
    let secrets = secrets("robot", "c4naryS3cret/pass+word&123");
    let took = |text: &str| {
        let begun = std::time::Instant::now();
        secrets.redact(text);
        begun.elapsed().as_secs_f64()
    };
    for piece in ["a", "ab ", "\u{1b}[0", "%25", "\\x41", "=41", "41:", "eyJ", "basic a"] {
        let (short, long) = (took(&piece.repeat(4000)), took(&piece.repeat(16_000)));
        assert!(long < (short + 0.01) * 40.0, "{piece:?}: {short} s, then {long} s");
    }
}

#[test]
fn redact_leaves_texts_alone_that_hold_no_secret() {
    let secrets = secrets("admin", "Harbor12345");
    for text in [
        "",
        "project library not found",
        "100% of %zz and \\u12 and &nope; and é",
        "Basic authentication required",
        "Bearer realm=\"https://harbor/service/token\"",
        "the bearer token expired",
    ] {
        assert_eq!(secrets.redact(text), text);
    }
    assert_eq!(Redactor::default().redact("Harbor12345"), "Harbor12345");
}

#[test]
fn redact_takes_a_short_secret_for_a_whole_word_only_and_a_tiny_one_not_at_all() {
    let table = [
        ("team", "the team of steamers: team-a", "the [redacted] of steamers: [redacted]-a"),
        ("team", "\"access_secret\":\"team\"", "\"access_secret\":\"[redacted]\""),
        ("a", "a cat", "a cat"),
        ("a", "dTph", "[redacted]"),
        ("password", "mypassword1", "my[redacted]1"),
    ];
    for (secret, text, expected) in table {
        assert_eq!(secrets("u", secret).redact(text), expected, "{secret}");
    }
}

#[test]
fn redact_covers_tokens_and_basic_values_of_anybody() {
    let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", "eyJzdWIiOiJyb2JvdCJ9");
    let table = [
        (format!("got Bearer {token}"), "got Bearer [redacted]"),
        (format!("{{\"token\":\"{token}\"}}"), "{\"token\":\"[redacted]\"}"),
        ("bearer 0123456789abcdef0".to_owned(), "bearer [redacted]"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA== sent".to_owned(), "Authorization: Basic [redacted] sent"),
        ("Basic%20dXNlcjpwYXNzd29yZA".to_owned(), "Basic%20[redacted]"),
    ];
    for (text, expected) in table {
        assert_eq!(Redactor::default().redact(&text), expected);
    }
}

#[test]
fn message_is_one_short_line_and_ends_in_no_half_of_a_secret() {
    let secrets = secrets("admin", "Harbor12345");
    let message = |text: &str, cut| secrets.message(text.as_bytes(), cut, &["opaque-token"]);
    assert_eq!(message("a\nb\u{1b}[2J\u{202e}c\0", false), "a b [2J c");
    assert_eq!(message("see opaque-token", false), "see [redacted]");
    assert_eq!(message("password Harbor123", true), "password [redacted]");
    assert_eq!(message("password Harbor123", false), "password Harbor123");
    let long = format!("{}Harbor12345", "x".repeat(LONGEST - 5));
    let said = message(&long, false);
    assert!(said.chars().count() == LONGEST + 1 && said.ends_with("x[reda…"), "{said}");
}

#[test]
fn redact_looks_through_a_long_text_whole() {
    let secrets = secrets("admin", "Harbor12345");
    let line = format!("{} password=Harbor12345\n", "é".repeat(1000));
    let said = secrets.redact(&line.repeat(200));
    assert!(!said.contains("Harbor") && said.matches(REDACTED).count() == 200, "{}", said.len());
    let said = secrets.redact(&"é".repeat(100_000));
    assert_eq!(said.chars().count(), 100_000);
}

#[test]
fn learn_keeps_the_newest_and_a_bounded_number() {
    let secrets = Redactor::default();
    (0..MOST + 10).for_each(|number| secrets.learn("", &SecretString::from(format!("secret-number-{number}"))));
    secrets.learn("", &SecretString::from(format!("secret-number-{MOST}")));
    assert_eq!(secrets.0.lock().pairs.len(), MOST);
    assert_eq!(secrets.redact(&format!("secret-number-{}", MOST + 9)), REDACTED);
}

proptest! {
    #[test]
    fn redact_survives_any_text_and_leaves_no_plain_secret(
        before in ".{0,40}", after in ".{0,40}", secret in "[!-~é]{8,24}", junk in "[%&\\\\u0-9a-f;#x\"é]{0,60}"
    ) {
        let secrets = secrets("u", &secret);
        let said = secrets.redact(&format!("{before}{secret}{after}{junk}"));
        prop_assert!(!said.replace(REDACTED, "\n").contains(&secret), "{said}");
        secrets.redact(&junk);
    }
}
