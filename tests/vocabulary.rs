//! The words of the project: those of Kubernetes, kube-rs, controller-runtime, Harbor and OCI, in short and plain English.
//!
//! Checks Markdown, the texts of the chart, of `config` and of the examples, the files at the top level, and comments and
//! string literals of `src`. It does not check inline code and fenced code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Words and phrases to avoid, in lower case, and what to write instead.
const AVOID: &[(&[&str], &str)] = &[
    (&["told", "tells"], "reported, logged, sent; says"),
    (&["nobody", "anybody"], "no client, no Pod, none; or name the subject"),
    (&["somebody"], "a person, a client, another process"),
    (&["whoever", "whomever", "whom", "everybody"], "callers, clients, users"),
    (&["anew", "again and again"], "again, rebuilt, recompiled"),
    (&["in force"], "active"),
    (&["goes by", "go by"], "uses, follows"),
    (&["made out", "makes out"], "computed, found"),
    (&["left alone", "leave alone", "leaves alone"], "not modified, skipped, backed off"),
    (&["hangs up", "hang up"], "closes the connection"),
    (&["beat", "beats"], "resync"),
    (&["stands in the way", "stand in the way", "in the way"], "blocks"),
    (&["hear of", "hears", "hears of"], "receives, sees, is notified"),
    (&["definitions of the kinds"], "CRDs"),
    (&["certificate authority", "certificate authorities", "authorities"], "CA, CA certificates"),
    (&["leaf"], "serving certificate"),
    (&["of its own accord"], "without a change"),
    (&["by and by"], "gradually"),
    (&["is away", "are away", "be away", "was away"], "is unreachable"),
    (&["comes back", "come back"], "recovers, answers again"),
    (&["way out"], "recovery, fix"),
    (&["is wanted of"], "is required of"),
    (&["lets go", "lets images go"], "deletes, evicts"),
    (&["looks at", "look at", "looked at", "looked whether"], "reconciles, reads, checks"),
    (&["by hand"], "manually"),
    (&["from nothing"], "cold start"),
    (&["the double"], "the fake Harbor"),
    (&["odd about"], "invalid, shadowed"),
    (&["ere", "hence", "thereby", "thus"], "before, so, therefore"),
    (&["lest", "upon", "in vain"], "so that … not, on, without effect"),
    (&["for ever", "forever", "of late", "seldom"], "permanently, lately, rarely"),
    (&["as it were", "whose turn", "sooner or later"], "plain words"),
    (&["of no account"], "is ignored"),
    (&["lies in", "lie in"], "is in"),
    (&["shall"], "must"),
    (&["so many"], "N"),
];

/// Literals of `src` with words of other projects or of Rust code, and why they stay.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("apiVersion: beat.k8s.elastic.co/v1", "the API group of Elastic Beats"),
    ("Authorities", "the name of a type in its Debug text"),
];

/// Generated files. Their texts are doc comments in `src`.
const GENERATED: &[&str] = &["docs/reference.md", "charts/harbor-pilot/files/crds"];

#[test]
fn texts_use_the_words_of_kubernetes_and_harbor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for file in texts(root) {
        let name = file.strip_prefix(root).unwrap().display();
        let text = fs::read_to_string(&file).unwrap();
        for (line, word, instead) in hits(&text, is_markdown(&file)) {
            found.push(format!("{name}:{line}: \"{word}\": write {instead}"));
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

#[test]
fn comments_and_literals_of_src_use_the_words_of_kubernetes_and_harbor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &["rs"], &mut files);
    assert!(files.len() > 200, "only {} files: have they moved?", files.len());
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().display().to_string();
        let text = comments_and_literals(&fs::read_to_string(&file).unwrap());
        for (line, word, instead) in hits(&text, false) {
            found.push(format!("{name}:{line}: \"{word}\": write {instead}"));
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

#[test]
fn comments_and_literals_keeps_lines_and_drops_code() {
    let told = "told();\nlet a = \"told \\\" {told}\"; // told\nlet b = '\"'; let c = told;";
    let found: Vec<_> = hits(&comments_and_literals(told), false).into_iter().map(|(line, ..)| line).collect();
    assert_eq!(found, [2]);
    assert_eq!(comments_and_literals(told).matches("told").count(), 2);
    assert_eq!(comments_and_literals("r#\"a \"told\" b\"#; told").matches("told").count(), 1);
}

#[test]
fn hits_finds_whole_words_and_phrases_in_any_case_and_across_lines() {
    for (text, expected) in [
        ("Told once", vec![(1, "told")]),
        ("it is untold", vec![]),
        ("one\nrules in force.", vec![(2, "in force")]),
        ("in forced order", vec![]),
        ("- rules are in\n  force", vec![(1, "in force")]),
        ("# rules are in\n# force", vec![(1, "in force")]),
        ("| rules are in |\n| force |", vec![]),
        ("rules are in\n\nforce", vec![]),
        ("heartbeat", vec![]),
    ] {
        let found: Vec<_> = hits(text, true).into_iter().map(|(line, word, _)| (line, word)).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn hits_skips_code_of_markdown() {
    let text = "`told` and `a told`\n```text\ntold\n```\n";
    assert_eq!(hits(text, true), []);
    assert_eq!(hits("# `told`", false).len(), 1);
}

#[test]
fn texts_has_no_generated_files_and_each_of_them_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = texts(root);
    for generated in GENERATED {
        assert!(root.join(generated).exists(), "{generated}");
        assert!(!files.iter().any(|file| file.starts_with(root.join(generated))), "{generated}");
    }
}

/// The files whose texts users and contributors read.
fn texts(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "justfile", "deny.toml"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    for (directory, extensions) in [
        ("docs", &["md"][..]),
        ("charts", &["md", "yaml", "txt", "tpl"]),
        ("config", &["yaml", "lua"]),
        ("examples", &["md", "yaml"]),
        ("image", &["md", "sh"]),
        (".github", &["md", "yaml", "yml"]),
    ] {
        collect(&root.join(directory), extensions, &mut files);
    }
    files.retain(|file| !GENERATED.iter().any(|generated| file.starts_with(root.join(generated))));
    files.sort();
    assert!(files.len() > 100, "only {} files: have they moved?", files.len());
    files
}

/// The comments and string literals of Rust code, each in its line. Placeholders (`{name}`) are code.
fn comments_and_literals(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            literal(rest)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if let Some(character) = ["'\"'", "'\\\"'"].iter().find(|character| rest.starts_with(**character)) {
            // A character that does not begin a literal.
            rest = &rest[character.len()..];
            continue;
        } else {
            kept.extend(Some(first).filter(|character| *character == '\n'));
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let (text, after) = rest.split_at(length);
        if EXCEPTIONS.iter().all(|(literal, _)| !text.contains(literal)) {
            kept.push(' ');
            kept.push_str(&if first == '"' { without_placeholders(text) } else { text.to_owned() });
        } else {
            kept.extend(text.matches('\n'));
        }
        rest = after;
    }
    kept
}

/// The length of the string literal at the beginning of a text.
fn literal(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, character)| {
        let ends = *character == '"' && !escaped;
        escaped = *character == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

fn without_placeholders(text: &str) -> String {
    let mut inside = false;
    let kept = text.chars().filter(|character| {
        inside = (inside || *character == '{') && *character != '}';
        !inside || *character == '\n'
    });
    kept.collect()
}

fn collect(directory: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, extensions, files);
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
            files.push(path);
        }
    }
}

fn is_markdown(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "md")
}

/// The words of [`AVOID`] in a text: the line in which each begins, the word, and what to write instead.
fn hits(text: &str, markdown: bool) -> Vec<(usize, &'static str, &'static str)> {
    let lines = prose(text, markdown);
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        // A phrase continues in the next line of its paragraph.
        let next = lines.get(index + 1).filter(|next| !next.is_empty()).map_or("", String::as_str);
        let paragraph = format!("{line} {next}");
        for (words, instead) in AVOID {
            let begins = |word: &&&str| positions(&paragraph, word).any(|at| at < line.len());
            found.extend(words.iter().filter(begins).map(|word| (index + 1, *word, *instead)));
        }
    }
    found
}

/// Each line in lower case, without what marks lists and comments. Lines of code are empty.
fn prose(text: &str, markdown: bool) -> Vec<String> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let fence = markdown && line.trim_start().starts_with("```");
        fenced ^= fence;
        let line = line.trim_start_matches([' ', '#', '-', '*', '>']).trim_end().to_lowercase();
        let line = if markdown { without_code(&line) } else { line };
        lines.push(if fence || fenced { String::new() } else { line });
    }
    lines
}

/// A line without its inline code. A span that continues in another line is checked.
fn without_code(line: &str) -> String {
    let parts: Vec<_> = line.split('`').collect();
    if parts.len() % 2 == 0 { line.to_owned() } else { parts.into_iter().step_by(2).collect::<Vec<_>>().join("`") }
}

/// Where a whole word or phrase begins.
fn positions(text: &str, word: &str) -> impl Iterator<Item = usize> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !text[..*at].chars().next_back().is_some_and(is_word)
            && !text[at + word.len()..].chars().next().is_some_and(is_word)
    })
}
