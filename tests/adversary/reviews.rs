//! Reviews that nobody should send.

/// The largest body that is read.
const LARGEST: usize = 8 * 1024 * 1024;
/// An image that the policy of the tests refuses.
const FOREIGN: &str = r#"{"name":"a","image":"evil.example/x:1"}"#;

/// A review.
pub struct Hostile {
    pub name: &'static str,
    /// Whether it is a Pod with a foreign image, by one of the ways to read it: it must not be admitted.
    pub runs_foreign: bool,
    make: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
}

impl Hostile {
    pub fn body(&self) -> Vec<u8> {
        (self.make)()
    }
}

/// What an API server asks about a Pod with one image of Docker Hub.
pub fn small(uid: &str) -> Vec<u8> {
    let pod = r#"{"metadata":{"namespace":"shop"},"spec":{"containers":[{"name":"a","image":"nginx"}]}}"#;
    create(pod).replace("u-1", uid).into_bytes()
}

fn create(object: &str) -> String {
    request(&format!(r#""operation":"CREATE","object":{object}"#))
}

fn request(rest: &str) -> String {
    let about = r#""uid":"u-1","kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},"namespace":"shop""#;
    review(&format!("{{{about},{rest}}}"))
}

fn review(request: &str) -> String {
    format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{request}}}"#)
}

fn pod(spec: &str) -> String {
    create(&format!(r#"{{"metadata":{{}},"spec":{{{spec}}}}}"#))
}

fn annotated(annotations: &str, containers: &str) -> String {
    create(&format!(r#"{{"metadata":{{"annotations":{{{annotations}}}}},"spec":{{"containers":[{containers}]}}}}"#))
}

/// `@` of a text, filled with so many of the units, between commas, that it is of this size.
fn filled(text: &str, unit: &str, size: usize) -> Vec<u8> {
    let many = size.saturating_sub(text.len()) / (unit.len() + 1);
    text.replacen('@', &vec![unit; many.max(1)].join(","), 1).into_bytes()
}

/// The same without commas.
fn padded(text: &str, unit: &str, size: usize) -> Vec<u8> {
    text.replacen('@', &unit.repeat(size.saturating_sub(text.len()) / unit.len()), 1).into_bytes()
}

/// All of them.
pub fn hostile() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add = |name, runs_foreign, make: Box<dyn Fn() -> Vec<u8> + Send + Sync>| {
        all.push(Hostile { name, runs_foreign, make });
    };
    // Lists and maps as long as a body.
    let lists: [(&str, bool, String, &str); 19] = [
        ("empty containers", false, pod(r#""containers":[@]"#), "{}"),
        ("null containers", false, pod(r#""containers":[@]"#), "null"),
        ("images", true, pod(r#""containers":[@]"#), FOREIGN),
        ("short images", true, pod(r#""containers":[@]"#), r#"{"image":"a.b/c"}"#),
        ("images of Docker Hub", false, pod(r#""containers":[@]"#), r#"{"image":"a"}"#),
        ("init containers", true, pod(r#""initContainers":[@]"#), FOREIGN),
        ("ephemeral containers", true, pod(r#""ephemeralContainers":[@]"#), FOREIGN),
        ("empty volumes", false, pod(r#""volumes":[@]"#), "{}"),
        ("image volumes", true, pod(r#""volumes":[@]"#), r#"{"name":"v","image":{"reference":"evil.example/x"}}"#),
        ("pull secrets", true, pod(&format!(r#""containers":[{FOREIGN}],"imagePullSecrets":[@]"#)), "{}"),
        ("unknown lists", true, pod(&format!(r#""containers":[{FOREIGN}],"unknown":[@]"#)), "[]"),
        (
            "labels",
            true,
            create(&format!(r#"{{"metadata":{{"labels":{{@}}}},"spec":{{"containers":[{FOREIGN}]}}}}"#)),
            r#""a":"b""#,
        ),
        (
            "empty labels",
            true,
            create(&format!(r#"{{"metadata":{{"labels":{{@}}}},"spec":{{"containers":[{FOREIGN}]}}}}"#)),
            r#""":"""#,
        ),
        ("annotations", true, annotated("@", FOREIGN), r#""a":"b""#),
        ("containers with escaped keys", true, pod(r#""containers":[@]"#), r#"{"\u0069mage":"evil.example/x"}"#),
        ("containers with escaped values", true, pod(r#""containers":[@]"#), r#"{"image":"\u0065vil.example/x"}"#),
        ("images that are invalid", true, pod(r#""containers":[@]"#), r#"{"image":"UPPER/..//:@sha256:x"}"#),
        ("a workload with containers", false, workload("Deployment"), FOREIGN),
        ("a workload with empty containers", false, workload("Deployment"), "{}"),
    ];
    for (name, foreign, text, unit) in lists {
        add(name, foreign, Box::new(move || filled(&text, unit, LARGEST)));
    }
    let updates: [(&str, bool, String); 3] = [
        (
            "an old object with containers",
            true,
            request(&format!(
                r#""operation":"UPDATE","object":{{"spec":{{"containers":[{FOREIGN}]}}}},"oldObject":{{"spec":{{"containers":[@]}}}}"#
            )),
        ),
        (
            "an old object at a creation",
            true,
            request(&format!(
                r#""operation":"CREATE","oldObject":{{"spec":{{"containers":[@]}}}},"object":{{"spec":{{"containers":[{FOREIGN}]}}}}"#
            )),
        ),
        (
            "ephemeral containers of an old object",
            true,
            request(&format!(
                r#""operation":"UPDATE","subResource":"ephemeralcontainers","object":{{"spec":{{"ephemeralContainers":[{FOREIGN}]}}}},"oldObject":{{"spec":{{"ephemeralContainers":[@]}}}}"#
            )),
        ),
    ];
    for (name, foreign, text) in updates {
        add(name, foreign, Box::new(move || filled(&text, r#"{"name":"b","image":"evil.example/y"}"#, LARGEST)));
    }
    // Values as long as a body.
    let values: [(&str, bool, String, &str); 22] = [
        ("a long image", true, pod(r#""containers":[{"image":"evil.example/@"}]"#), "a"),
        ("a long image with escapes", true, pod(r#""containers":[{"image":"evil.example/@"}]"#), "\\u0061"),
        ("a long name", true, pod(r#""containers":[{"name":"@","image":"evil.example/x"}]"#), "n"),
        ("a long key", true, pod(&format!(r#""@":1,"containers":[{FOREIGN}]"#)), "k"),
        ("a long key with escapes", true, pod(&format!(r#""@":1,"containers":[{FOREIGN}]"#)), "\\n"),
        ("surrogate pairs", true, pod(r#""containers":[{"name":"@","image":"evil.example/x"}]"#), "\\ud83d\\ude00"),
        ("lone surrogates", true, pod(r#""containers":[{"name":"@","image":"evil.example/x"}]"#), "\\ud83d"),
        ("backslashes", true, pod(r#""containers":[{"name":"@","image":"evil.example/x"}]"#), "\\\\"),
        ("control characters", true, pod(r#""containers":[{"name":"@","image":"evil.example/x"}]"#), "\u{1}"),
        ("null characters", true, pod(r#""containers":[{"image":"evil.example/@"}]"#), "\\u0000"),
        ("a long uid", true, create(&object()).replace("u-1", "@"), "u"),
        ("a long uid of control characters", true, create(&object()).replace("u-1", "@"), "\u{1}"),
        ("a long namespace", true, create(&object()).replace("shop", "@"), "n"),
        ("a long operation", false, request(&format!(r#""operation":"@","object":{}"#, object())), "O"),
        ("a long kind", false, create(&object()).replace(r#""kind":"Pod""#, r#""kind":"@""#), "K"),
        (
            "a long subresource",
            false,
            request(&format!(r#""operation":"CREATE","subResource":"@","object":{}"#, object())),
            "s",
        ),
        ("a long apiVersion", true, create(&object()).replace("admission.k8s.io/v1", "@"), "v"),
        ("a number of many digits", true, pod(&format!(r#""a":@,"containers":[{FOREIGN}]"#)), "9"),
        ("deep lists", true, pod(&format!(r#""containers":[{FOREIGN}],"a":@"#)), "["),
        ("deep objects", true, pod(&format!(r#""containers":[{FOREIGN}],"a":@"#)), "{\"a\":"),
        ("whitespace", true, pod(&format!(r#""containers":[{FOREIGN}]@"#)), " "),
        (
            "an earlier image that is long",
            true,
            annotated(r#""harbor-pilot.dev/original-images":"@""#, FOREIGN),
            "[[\\\"",
        ),
    ];
    for (name, foreign, text, unit) in values {
        add(name, foreign, Box::new(move || padded(&text, unit, LARGEST)));
    }
    // Products of an annotation and containers.
    for (name, annotation, unit) in [
        ("names to keep for each container", "harbor-pilot.dev/keep-images", "b"),
        ("originals for each container", "harbor-pilot.dev/original-images", r#"{\"b\":\"evil.example/y\"}"#),
    ] {
        add(
            name,
            true,
            Box::new(move || {
                let value = vec![unit; 255 * 1024 / (unit.len() + 1)].join(",");
                filled(&annotated(&format!(r#""{annotation}":"{value}""#), "@"), FOREIGN, 1024 * 1024)
            }),
        );
    }
    // Small ones that are odd.
    let unusual: [(&str, bool, Vec<u8>); 29] = [
        ("nothing", false, Vec::new()),
        ("one byte", false, b"{".to_vec()),
        ("a list", false, b"[]".to_vec()),
        ("a text", false, b"\"x\"".to_vec()),
        ("a number", false, b"1e999999".to_vec()),
        ("a byte order mark", true, [b"\xef\xbb\xbf", create(&object()).as_bytes()].concat()),
        ("bytes after the end", true, (create(&object()) + "x").into_bytes()),
        ("two documents", true, (create(&object()) + &create(&object())).into_bytes()),
        ("a comment", true, (create(&object()) + "// x").into_bytes()),
        ("invalid UTF-8 in an image", true, invalid(r#""image":"evil.example/!""#)),
        ("invalid UTF-8 beside an image", true, invalid(r#""image":"evil.example/x","other":"!""#)),
        ("an image twice", true, pod(r#""containers":[{"image":"nginx","image":"evil.example/x"}]"#).into_bytes()),
        ("containers twice", true, pod(&format!(r#""containers":[],"containers":[{FOREIGN}]"#)).into_bytes()),
        (
            "an object twice",
            true,
            request(&format!(r#""operation":"CREATE","object":{{}},"object":{}"#, object())).into_bytes(),
        ),
        (
            "a request twice",
            true,
            review(&format!(r#"{{}},"request":{{"uid":"u-1","object":{}}}"#, object())).into_bytes(),
        ),
        ("no uid", true, create(&object()).replace(r#""uid":"u-1","#, "").into_bytes()),
        ("a uid that is a number", true, create(&object()).replace("\"u-1\"", "1").into_bytes()),
        ("a uid that is a little too long", true, create(&object()).replace("u-1", &"u".repeat(129)).into_bytes()),
        ("another version", true, create(&object()).replace("k8s.io/v1\"", "k8s.io/v1beta1\"").into_bytes()),
        (
            "an update without an old object",
            true,
            request(&format!(r#""operation":"UPDATE","object":{}"#, object())).into_bytes(),
        ),
        ("no object", false, request(r#""operation":"CREATE""#).into_bytes()),
        ("an object that is a list", false, create("[]").into_bytes()),
        ("an object that is a text", false, create("\"x\"").into_bytes()),
        ("no request", false, review("null").into_bytes()),
        ("containers that are no list", true, pod(&format!(r#""containers":{FOREIGN}"#)).into_bytes()),
        ("an image that is a number", false, pod(r#""containers":[{"image":1}]"#).into_bytes()),
        (
            "dryRun that is a text",
            true,
            request(&format!(r#""dryRun":"x","operation":"CREATE","object":{}"#, object())).into_bytes(),
        ),
        ("a name that is no number", true, pod(&format!(r#""a":NaN,"containers":[{FOREIGN}]"#)).into_bytes()),
        ("images in a namespace of 60 KB", true, long_namespace()),
    ];
    for (name, foreign, body) in unusual {
        add(name, foreign, Box::new(move || body.clone()));
    }
    all
}

fn object() -> String {
    format!(r#"{{"metadata":{{}},"spec":{{"containers":[{FOREIGN}]}}}}"#)
}

fn workload(kind: &str) -> String {
    let object = r#"{"metadata":{},"spec":{"template":{"spec":{"containers":[@]}}}}"#;
    create(object).replace(
        r#""group":"","version":"v1","kind":"Pod""#,
        &format!(r#""group":"apps","version":"v1","kind":"{kind}""#),
    )
}

/// `!` stands for a byte that is no UTF-8.
fn invalid(container: &str) -> Vec<u8> {
    let text = pod(&format!(r#""containers":[{{{container}}}]"#));
    text.bytes().map(|byte| if byte == b'!' { 0xff } else { byte }).collect()
}

fn long_namespace() -> Vec<u8> {
    let containers = vec![FOREIGN; 100].join(",");
    pod(&format!(r#""containers":[{containers}]"#)).replace("shop", &"n".repeat(60_000)).into_bytes()
}
