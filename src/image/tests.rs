use proptest::prelude::*;

use super::ImageRefError as E;
use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn image(text: &str) -> ImageRef {
    ImageRef::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn names_are_completed_as_a_container_runtime_does() {
    let table = [
        ("nginx", "docker.io", "library/nginx"),
        ("nginx:1.27", "docker.io", "library/nginx"),
        ("docker.io", "docker.io", "library/docker.io"),
        ("localhost", "docker.io", "library/localhost"),
        ("192.168.0.1:80", "docker.io", "library/192.168.0.1"),
        ("docker.io/nginx", "docker.io", "library/nginx"),
        ("index.docker.io/nginx", "docker.io", "library/nginx"),
        ("index.docker.io/bitnami/redis", "docker.io", "bitnami/redis"),
        ("library/foo/bar", "docker.io", "library/foo/bar"),
        ("bitnami/redis", "docker.io", "bitnami/redis"),
        ("registry-1.docker.io/nginx", "registry-1.docker.io", "nginx"),
        ("ghcr.io/nginx", "ghcr.io", "nginx"),
        ("localhost/fooo/bar", "localhost", "fooo/bar"),
        ("localhost:5000/a", "localhost:5000", "a"),
        ("LOCALDOMAIN/debian", "LOCALDOMAIN", "debian"),
        ("Foo/bar", "Foo", "bar"),
        ("DOCKER.IO/nginx", "DOCKER.IO", "nginx"),
        ("Docker/docker", "Docker", "docker"),
        ("test:5000/repo", "test:5000", "repo"),
        ("test:0000005000/repo", "test:0000005000", "repo"),
        ("[fc00::1]:5000/docker", "[fc00::1]:5000", "docker"),
        ("[::]/docker/x", "[::]", "docker/x"),
        ("[:::::]/x", "[:::::]", "x"),
        ("xn--n3h.com/myimage", "xn--n3h.com", "myimage"),
        ("a.b-c.d/e", "a.b-c.d", "e"),
        ("docker---rules/docker", "docker.io", "docker---rules/docker"),
        ("dock__er/docker", "docker.io", "dock__er/docker"),
        ("foo_bar.com/x", "", "foo_bar.com/x"),
        ("foo_bar.com:8080", "docker.io", "library/foo_bar.com"),
    ];
    for (text, host, repository) in table {
        let image = image(text);
        assert_eq!((image.host(), image.repository()), (host, repository), "{text}");
    }
}

#[test]
fn tag_and_digest_are_both_kept_and_none_is_invented() {
    let digest = format!("sha256:{HEX}");
    let table = [
        ("nginx".to_owned(), None, None, "docker.io/library/nginx".to_owned()),
        ("nginx:1.27".to_owned(), Some("1.27"), None, "docker.io/library/nginx:1.27".to_owned()),
        (format!("nginx@{digest}"), None, Some(&*digest), format!("docker.io/library/nginx@{digest}")),
        (format!("h:1/a:T_-.x@{digest}"), Some("T_-.x"), Some(&*digest), format!("h:1/a:T_-.x@{digest}")),
        ("foo_bar.com/x:y".to_owned(), Some("y"), None, "foo_bar.com/x:y".to_owned()),
        ("[::1]:50/x:_".to_owned(), Some("_"), None, "[::1]:50/x:_".to_owned()),
    ];
    for (text, tag, digest, full) in table {
        let image = image(&text);
        assert_eq!((image.tag(), image.digest(), image.as_str()), (tag, digest, &*full), "{text}");
    }
    assert_eq!(image("a/b:c").name(), "docker.io/a/b");
}

#[test]
fn what_a_container_runtime_refuses_is_refused_for_the_same_reason() {
    let table = [
        ("", E::Format),
        (HEX, E::Identifier),
        (" nginx", E::Format),
        ("nginx ", E::Format),
        ("nginx\n", E::Format),
        (":tag", E::Format),
        ("nginx:", E::Format),
        ("nginx@", E::Format),
        ("nginx:a:b", E::Format),
        ("nginx:-a", E::Format),
        ("nginx:.a", E::Format),
        ("nginx:a/b", E::Format),
        ("a//b", E::Format),
        ("/a", E::Format),
        ("a/", E::Format),
        ("example.com/", E::Format),
        ("a..b", E::Format),
        ("a._b", E::Format),
        ("a___b", E::Format),
        ("a-_b", E::Format),
        ("a-", E::Format),
        ("-a", E::Format),
        ("_a", E::Format),
        ("https://github.com/docker/docker", E::Format),
        ("user@harbor.corp/x", E::Format),
        ("harbor.corp@x", E::Format),
        ("-a.b/c", E::Format),
        ("a-.b/c", E::Format),
        ("a..b/c", E::Format),
        ("a.b:/c", E::Format),
        ("a.b:x/c", E::Format),
        ("a:1:2/c", E::Format),
        ("fc00::1:5000/debian", E::Format),
        ("[]/x", E::Format),
        ("[::1/x", E::Format),
        ("[::1]5/x", E::Format),
        ("[fc00::1]", E::Format),
        ("[fc00::1]:5000", E::Format),
        ("[fe80::1%eth0]:5000/debian", E::Format),
        ("[2001:db8:3:4::192.0.2.33]:5000/debian", E::Format),
        ("näme", E::Format),
        ("nginx:ä", E::Format),
        ("Nginx", E::Uppercase),
        ("docker/Docker", E::Uppercase),
        ("test:5000/Upper/lower:tag", E::Uppercase),
        ("nginx@SHA256:x", E::Uppercase),
        ("nÄme", E::Uppercase),
        ("Foo_bar.com/x", E::Uppercase),
        ("nginx:\u{212a}", E::Uppercase),
    ];
    for (text, error) in table {
        assert_eq!(ImageRef::parse(text), Err(error), "{text:?}");
    }
    assert_eq!(image(&format!("docker.io/{HEX}")).repository(), format!("library/{HEX}"));
    assert_eq!(image(&format!("{HEX}0")).repository(), format!("library/{HEX}0"));
    assert_eq!(image(&format!("{HEX}:1")).tag(), Some("1"));
}

#[test]
fn digests_are_judged_by_algorithm_length_and_case() {
    let table = [
        (format!("sha256:{HEX}"), None),
        (format!("sha384:{HEX}{}", &HEX[..32]), None),
        (format!("sha512:{HEX}{HEX}"), None),
        (format!("sha256:{}", &HEX[..63]), Some(E::DigestLength)),
        (format!("sha256:{HEX}0"), Some(E::DigestLength)),
        (format!("sha512:{HEX}"), Some(E::DigestLength)),
        (format!("sha256:{}", HEX.to_uppercase()), Some(E::DigestFormat)),
        (format!("SHA256:{HEX}"), Some(E::DigestFormat)),
        (format!("md5:{}", &HEX[..32]), Some(E::DigestAlgorithm)),
        (format!("sha256+b64:{HEX}"), Some(E::DigestAlgorithm)),
        (format!("a.b-c_d+e:{HEX}"), Some(E::DigestAlgorithm)),
        (format!("sha256:{}", &HEX[..31]), Some(E::Format)),
        (format!("sha256:{}g", &HEX[..63]), Some(E::Format)),
        (format!("256:{HEX}"), Some(E::Format)),
        (format!("sha256++b:{HEX}"), Some(E::Format)),
        (format!("sha256:{HEX}@sha256:{HEX}"), Some(E::Format)),
    ];
    for (digest, error) in table {
        assert_eq!(ImageRef::parse(&format!("nginx:1@{digest}")).err(), error, "{digest}");
    }
}

#[test]
fn the_repository_may_have_255_bytes_and_the_host_does_not_count() {
    let long = |n: usize| "a".repeat(n);
    let fits = [
        format!("example.com/{}:tag", long(255)),
        format!("{}/x", "h".repeat(300) + ".com"),
        long(247),
        format!("docker.io/{}", long(247)),
        format!("b/{}", long(253)),
        format!("a_b.c/{}", long(249)),
        format!("nginx:{}", long(128)),
    ];
    for text in fits {
        assert!(ImageRef::parse(&text).is_ok(), "{text}");
    }
    let refused = [
        (format!("example.com/{}:tag", long(256)), E::TooLong),
        (long(248), E::TooLong),
        (format!("docker.io/{}", long(248)), E::TooLong),
        (format!("b/{}", long(254)), E::TooLong),
        (format!("a_b.c/{}", long(250)), E::TooLong),
        (format!("{}@md5:{}", long(248), &HEX[..32]), E::TooLong),
        (format!("nginx:{}", long(129)), E::Format),
    ];
    for (text, error) in refused {
        assert_eq!(ImageRef::parse(&text), Err(error), "{text}");
    }
}

#[test]
fn moving_keeps_repository_tag_and_digest() {
    let harbor = ImagePrefix::new("harbor.example:8443", "dockerhub").unwrap();
    assert_eq!((harbor.host(), harbor.path()), ("harbor.example:8443", "dockerhub"));
    let moved = image(&format!("nginx:1@sha256:{HEX}")).moved_under(&harbor).unwrap();
    assert_eq!(moved.as_str(), format!("harbor.example:8443/dockerhub/library/nginx:1@sha256:{HEX}"));
    assert_eq!(moved, image(moved.as_str()));
    assert_eq!(image("a_b.c/d").moved_under(&harbor).unwrap().repository(), "dockerhub/a_b.c/d");

    let long = image(&format!("ghcr.io/{}", "a".repeat(246)));
    assert_eq!(long.moved_under(&harbor), Err(E::TooLong));
    assert!(image(&format!("ghcr.io/{}", "a".repeat(245))).moved_under(&harbor).is_ok());
}

#[test]
fn a_prefix_that_would_be_read_differently_is_refused() {
    let table = [
        ("harbor", "p", E::Format),
        ("index.docker.io", "p", E::Format),
        ("a_b.c", "p", E::Format),
        ("harbor.example/x", "p", E::Format),
        ("", "p", E::Format),
        ("harbor.example", "", E::Format),
        ("harbor.example", "/p", E::Format),
        ("harbor.example", "p/", E::Format),
        ("harbor.example", "p:1", E::Format),
        ("harbor.example", "P", E::Uppercase),
    ];
    for (host, path, error) in table {
        assert_eq!(ImagePrefix::new(host, path), Err(error), "{host} {path}");
    }
    for host in ["localhost", "h:1", "[::1]:443", "HARBOR", "docker.io"] {
        assert!(ImagePrefix::new(host, "p/q").is_ok(), "{host}");
    }
}

#[test]
fn serde_uses_the_full_text_and_refuses_what_does_not_parse() {
    let image: ImageRef = serde_json::from_str(r#""nginx:\u0031""#).unwrap();
    assert_eq!(serde_json::to_string(&image).unwrap(), r#""docker.io/library/nginx:1""#);
    let error = serde_json::from_str::<ImageRef>(r#""Nginx""#).unwrap_err();
    assert!(error.to_string().contains("must be lowercase"), "{error}");
}

/// Generates texts from the characters that matter to the grammar: many are valid, the others nearly.
fn near_references() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b1",
        "A",
        ".",
        "..",
        "_",
        "__",
        "___",
        "-",
        "--",
        ":",
        "/",
        "//",
        "@",
        "[::1]",
        "[",
        "]",
        "localhost",
        "docker.io",
        "index.docker.io",
        "library",
        "5000",
        "sha256:",
        "sha512:",
        HEX,
        " ",
        "\n",
        "é",
        "\u{130}",
        "\u{212a}",
        "+",
        "nginx",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_full_form_parses_to_the_same_value(text in near_references()) {
        if let Ok(image) = ImageRef::parse(&text) {
            prop_assert_eq!(ImageRef::parse(image.as_str()), Ok(image.clone()));
            let mut whole = if image.host().is_empty() { String::new() } else { format!("{}/", image.host()) };
            whole += image.repository();
            whole += &image.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
            whole += &image.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
            prop_assert_eq!(whole, image.to_string());
        }
    }

    #[test]
    fn moving_gives_what_parsing_the_joined_text_gives(text in near_references(), host in near_references(), path in near_references()) {
        if let (Ok(image), Ok(prefix)) = (ImageRef::parse(&text), ImagePrefix::new(&host, &path))
            && let Ok(moved) = image.moved_under(&prefix)
        {
            prop_assert_eq!(moved.host(), &host);
            prop_assert_eq!(moved.repository(), format!("{path}/{}", image.repository()));
            prop_assert_eq!(ImageRef::parse(moved.as_str()), Ok(moved));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = ImageRef::parse(&text);
        let _ = ImagePrefix::new(&text, &text);
    }
}
