//! References that people write, and the edges of the grammar.

/// A digest of `digits` hexadecimal digits.
fn digest(algorithm: &str, digits: usize) -> String {
    let hex: String = "0123456789abcdef".chars().cycle().take(digits).collect();
    format!("{algorithm}:{hex}")
}

/// The whole corpus.
pub(crate) fn all() -> Vec<String> {
    let mut all: Vec<String> = WRITTEN.iter().map(|&text| text.to_owned()).collect();
    all.extend(digests());
    all.extend(lengths());
    all.extend(identifiers());
    all.extend(one_unusual_character());
    all
}

#[rustfmt::skip]
const WRITTEN: &[&str] = &[
    // Short names.
    "nginx", "nginx:1", "nginx:latest", "nginx:1.27-alpine", "library/nginx", "bitnami/redis",
    "bitnami/redis:7.4", "a", "0", "a/b", "a/b/c", "a/b/c/d/e/f/g", "library/library", "library/a/b",
    "docker", "io/x",
    // Docker Hub by its names.
    "docker.io/nginx", "docker.io/nginx:1", "docker.io/library/nginx", "docker.io/bitnami/redis",
    "docker.io/a/b/c", "index.docker.io/nginx", "index.docker.io/nginx:1", "index.docker.io/library/nginx",
    "index.docker.io/a/b", "registry-1.docker.io/library/nginx", "registry.hub.docker.com/library/nginx",
    "hub.docker.com/r/library/nginx", "Docker.io/nginx", "DOCKER.IO/library/nginx", "Index.docker.io/nginx",
    "docker.io:443/nginx", "docker.io:443/a/b", "index.docker.io:443/nginx", "docker.io./nginx", "docker.io",
    "index.docker.io", "docker.io/", "index.docker.io/", "docker.io//nginx", "docker.io/docker.io/nginx",
    "docker.io/index.docker.io/nginx", "docker.io/localhost/nginx", "docker.io:latest",
    "index.docker.io:latest", "docker.io/nginx/", "docker.io/library/", "docker.io/Library/nginx",
    // Other registries.
    "ghcr.io/org/app", "ghcr.io/org/app:v1.2.3", "quay.io/prometheus/node-exporter:v1.8.2",
    "gcr.io/distroless/static", "registry.k8s.io/pause:3.10", "mcr.microsoft.com/dotnet/aspnet:9.0",
    "public.ecr.aws/docker/library/nginx", "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/app:7",
    "harbor.example.com/dockerhub/library/nginx:1", "harbor.example.com:8443/proxy/app", "registry/app",
    "registry:5000/app", "registry:5000/app:1", "registry:5000", "registry:5000/", "example.com/a",
    "example.com/a:b", "example.com", "example.com:80", "example.com:80/a:80",
    // Prefixes that must not be mistaken for each other.
    "harbor.corp/x", "harbor.corp.evil/x", "harbor.corp@x", "user@harbor.corp/x", "harbor.corp:443/x",
    "harbor.corp:443@x", "user:pass@harbor.corp/x", "harbor.corp%2fevil/x", "harbor.corp\\evil/x",
    "harbor.corp#x/y", "harbor.corp?x/y", "harbor.corp/../x", "harbor.corp/./x", ".harbor.corp/x",
    "harbor..corp/x", "harbor.corp-/x", "-harbor.corp/x", "harbor-.corp/x", "harbor.-corp/x", "harbor_corp/x",
    "harbor_corp.io/x", "my_host.example/app", "my_host.example/app:1", "my_host.example:80/app", "a__b.c/d",
    "a_b.c/d/e@x",
    // localhost.
    "localhost", "localhost:5000", "localhost/a", "localhost/a:1", "localhost:5000/a", "localhost:5000/a/b:c",
    "LOCALHOST/a", "Localhost:5000/a", "localhost./a", "localhost:/a", "localhost//a", "localhost/",
    "localhosts/a",
    // Ports.
    "a:0/b", "a:00000/b", "a:65535/b", "a:65536/b", "a:99999999999999999999/b", "a:/b", "a:b/c", "a:8o/b",
    "a:80:80/b", "a.b:/c", "a.b:-1/c", "a.b:+1/c", "a.b: 80/c", "a.b:80 /c", "a.b:٣/c", "a:80/b:80/c",
    // Upper case.
    "Nginx", "nginX", "NGINX:1", "A/b", "a/B", "A/B", "Foo/bar", "FOO/bar:BAZ", "foo/Bar", "Example.COM/a",
    "ExAmple/a/b", "example.com/A", "example.com/a:TAG", "EXAMPLE:5000/a", "a/b:Tag", "a/b:T", "É/a", "a/É",
    "É.x/a", "a.b/é",
    // IP addresses.
    "127.0.0.1/a", "127.0.0.1:5000/a", "127.0.0.1", "127.0.0.1:5000", "999.999.999.999/a", "1.2/a",
    "1.2.3.4.5/a", "[::1]/a", "[::1]:5000/a", "[::1]:5000/a:b", "[::1]", "[::1]:5000", "[fe80::1]/a",
    "[fe80::1%eth0]/a", "[FE80::A]/a", "[fe80:0:0:0:0:0:0:1]:443/a/b", "[::ffff:1.2.3.4]/a", "[]/a", "[:]/a",
    "[g]/a", "[::1/a", "::1]/a", "::1/a", "fe80::1/a", "[::1]a/b", "a[::1]/b", "[[::1]]/a", "[::1].b/a",
    "[::1]:/a", "[abc]/a", "[123]/a", "[::1]/A",
    // Tags.
    "a:b", "a:B", "a:0", "a:_", "a:__", "a:_b", "a:b.", "a:b-", "a:.b", "a:-b", "a:b.c-d_e", "a:b:c", "a::b",
    "a:", ":a", ":", "::", "a:b/", "a:b c", "a: b", "a:b ", "a:b+c", "a:é", "a:~b", "a:b@", "a:@", "a/b:",
    "a/b:c/d", "a:b/c:d",
    // Separators.
    "a.b", "a-b", "a_b", "a__b", "a___b", "a____b", "a--b", "a---------b", "a..b", "a.-b", "a-.b", "a._b",
    "a_.b", "a-_b", "a_-b", "a__-b", ".a", "-a", "_a", "__a", "a.", "a-", "a_", "a__", "a.b.c_d__e-f---g",
    "a/.b", "a/-b", "a/_b", "a./b", "a-/b", "a_/b", "a/b.", "a/b-", "a/b_", "a/..", "..", "../a", "a/../b",
    ".", "./a", "-", "_",
    // Empty parts.
    "", "/", "//", "/a", "a/", "a//b", "/a/b", "a/b/", "a/b//", "///", "@", "@@", "a@", "@a", "a@b", "a@:",
    "a@@b", "a@b:c", "a@sha256", "a@sha256:", "@sha256:", ":@", "/:", "/@", "a/:b", "a/@b",
    // Schemes and other habits.
    "http://a/b", "https://a.b/c", "https://registry.example.com/a:1", "docker://nginx",
    "docker-pullable://nginx", "oci://a.b/c", "oci:a", "containers-storage:a", "docker-archive:a.tar",
    "file:///a", "git@github.com:a/b.git", "nginx latest", "nginx,redis", "nginx;", "nginx|cat", "$(IMAGE)",
    "${IMAGE}", "{{ .Values.image }}", "<image>", "*", "nginx:*", "nginx:>=1", "\"nginx\"", "'nginx'",
    "`nginx`", "nginx\\", "a\\b", "a%2Fb", "nginx#1", "nginx?x=1", "~a", "a~b", "a+b", "a=b", "a&b", "a!b",
    "(a)", "a^b",
    // White space and control characters.
    " ", " nginx", "nginx ", "ngi nx", "\tnginx", "nginx\t", "nginx\n", "\nnginx", "nginx\r\n", "nginx\0",
    "\0", "a\u{7f}b", "a\u{80}b", "a\u{a0}b", "\u{feff}nginx", "nginx\u{200b}", "nginx\u{2028}", "a /b",
    "a/ b", "a.b /c", "nginx:1\n", "nginx\n:1", "a.b/c\n", "a.b\n/c",
    // Letters of other scripts, and those that change length or script with their case.
    "nginх", "ñginx", "nginx:ñ", "ｎginx", "日本/語", "例え.jp/a", "xn--r8jz45g.jp/a", "bücher.example/a", "a/ß",
    "ẞ/a", "İ/a", "a/İ", "\u{212a}/a", "a/\u{212a}", "ſ/a", "a/ſ", "Σ/a", "a/ς", "🐳", "🐳/a", "a/🐳:1",
    "a\u{301}/b", "a:１", "１/a", "\u{1c5}/a", "a/\u{1c5}", "ǅ.x/a", "\u{10ffff}", "\u{fffd}", "\u{e000}/a",
];

fn digests() -> Vec<String> {
    let sha256 = digest("sha256", 64);
    let mut texts: Vec<String> = [
        "nginx@{}",
        "nginx:1@{}",
        "nginx@{}:1",
        "nginx@{}@{}",
        "nginx:@{}",
        "@{}",
        "{}",
        ":1@{}",
        "a/b:c@{}",
        "a.b:80/c:d@{}",
        "a.b/c@{}",
        "docker.io/nginx@{}",
        "index.docker.io/nginx:1@{}",
        "localhost@{}",
        "localhost/a@{}",
        "[::1]:80/a:b@{}",
        "nginx@ {}",
        "nginx @{}",
        "nginx@{} ",
        "nginx@{}\n",
        "nginx@{}/",
        "nginx/@{}",
        "nginx@x{}",
        "NGINX@{}",
        "a/B:c@{}",
        "my_host.example/app:1@{}",
        "a@b/c@{}",
        "a@b:1/c@{}",
    ]
    .iter()
    .map(|pattern| pattern.replace("{}", &sha256))
    .collect();
    for (algorithm, digits) in [
        ("sha256", 0),
        ("sha256", 1),
        ("sha256", 31),
        ("sha256", 32),
        ("sha256", 63),
        ("sha256", 65),
        ("sha256", 128),
        ("sha384", 64),
        ("sha384", 95),
        ("sha384", 96),
        ("sha384", 97),
        ("sha512", 64),
        ("sha512", 127),
        ("sha512", 128),
        ("sha512", 129),
        ("sha1", 40),
        ("sha224", 56),
        ("md5", 32),
        ("md5", 31),
        ("blake3", 64),
        ("sha3-256", 64),
        ("SHA256", 64),
        ("Sha256", 64),
        ("sha-256", 64),
        ("sha256+b64", 64),
        ("sha256.x", 64),
        ("sha256_x-y+z.w", 64),
        ("sha256+", 64),
        ("+sha256", 64),
        ("sha256++b64", 64),
        ("sha256+64", 64),
        ("256", 64),
        ("", 64),
        ("a", 64),
        ("sha256 ", 64),
        ("sha256:sha256", 64),
        ("ſha256", 64),
        ("sha256é", 64),
        ("multihash+base58", 46),
    ] {
        texts.push(format!("a/b@{}", digest(algorithm, digits)));
        texts.push(format!("a.b/c:d@{}", digest(algorithm, digits)));
    }
    let hex = &sha256["sha256:".len()..];
    texts.push(format!("nginx@sha256:{}", hex.to_uppercase()));
    texts.push(format!("nginx@sha256:{}F", &hex[1..]));
    texts.push(format!("nginx@sha256:{}g", &hex[1..]));
    texts.push(format!("nginx@sha256:{}_", &hex[1..]));
    texts.push(format!("nginx@sha256:{}é", &hex[2..]));
    texts.push(format!("nginx@sha512:{}", digest("", 128)[1..].to_uppercase()));
    texts.push(format!("nginx@md5:{}", digest("", 32)[1..].to_uppercase()));
    texts
}

/// On both sides of every bound: 128 characters of a tag, 255 of a name.
fn lengths() -> Vec<String> {
    let mut texts = Vec::new();
    for length in [1, 127, 128, 129, 1000] {
        texts.push(format!("a:{}", "t".repeat(length)));
        texts.push(format!("a.b:80/c:{}", "T".repeat(length)));
        texts.push(format!("a:{}@{}", "t".repeat(length), digest("sha256", 64)));
        texts.push(format!("a:{}", "é".repeat(length)));
    }
    for length in [246, 247, 248, 254, 255, 256, 257, 1000, 100_000] {
        let fill = |prefix: &str| format!("{prefix}{}", "a".repeat(length - prefix.len()));
        for prefix in
            ["", "library/", "b/", "docker.io/", "index.docker.io/", "localhost/", "example.com/", "c.d:5000/"]
        {
            texts.push(fill(prefix));
        }
        // The same bound without the host.
        for host in ["docker.io/", "example.com/", "example.com:5000/", "[::1]/", "my_host.example/", "X/"] {
            texts.push(format!("{host}{}", fill("b/")));
            texts.push(format!("{host}{}:tag", fill("")));
            texts.push(format!("{host}{}@{}", fill("b/"), digest("sha256", 64)));
        }
    }
    texts.push(format!("{}/a", "h".repeat(300)));
    texts.push(format!("{}.example/a", "h".repeat(300)));
    texts.push(vec!["a"; 128].join("/"));
    texts.push(vec!["a"; 129].join("/"));
    texts.push("a".repeat(100) + &"-".repeat(100) + "b");
    texts
}

/// 64 hexadecimal digits are the id of a local image, alone; one more or less and they are a name.
fn identifiers() -> Vec<String> {
    let id = digest("", 64)[1..].to_owned();
    vec![
        id.clone(),
        id[1..].to_owned(),
        format!("{id}0"),
        id.to_uppercase(),
        format!("{id}:1"),
        format!("library/{id}"),
        format!("docker.io/{id}"),
        format!("docker.io/library/{id}"),
        format!("example.com/{id}"),
        format!("{id}/a"),
        format!("{id}\n"),
        format!("g{}", &id[1..]),
        format!("{id}@{}", digest("sha256", 64)),
        "1".repeat(64),
        "a".repeat(64),
        "g".repeat(64),
    ]
}

/// Every character of ASCII in each part.
fn one_unusual_character() -> Vec<String> {
    (0..128_u8)
        .map(char::from)
        .flat_map(|unusual| {
            [
                format!("a{unusual}b"),
                format!("a{unusual}b/c"),
                format!("x.y{unusual}z/c"),
                format!("x.y:8{unusual}0/c"),
                format!("x.y/a{unusual}b"),
                format!("a:b{unusual}c"),
                format!("a:{unusual}"),
                format!("a@sha{unusual}256:{}", &digest("", 64)[1..]),
                format!("a@sha256:{unusual}{}", &digest("", 63)[1..]),
            ]
        })
        .collect()
}
