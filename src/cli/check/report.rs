//! Output formats of `check`.

use std::fmt::Write;

use serde::Serialize;
use serde_json::json;

/// One image.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) file: String,
    /// Starts at 1, as does the column.
    pub(super) line: usize,
    pub(super) column: usize,
    /// `Kind namespace/name`.
    pub(super) object: String,
    /// `container web`.
    pub(super) place: String,
    pub(super) violations: Vec<Violation>,
}

/// The violations of policies.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) level: Level,
    pub(super) message: String,
}

/// The effect on the Pod. SARIF uses the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// The Pod is rejected.
    Error,
    /// The user gets a warning.
    Warning,
    /// The audit log has an annotation.
    Note,
}

impl Checked {
    pub(super) fn is_refused(&self) -> bool {
        self.violations.iter().any(|violation| violation.level == Level::Error)
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// `file:line:column: error: object: message`, as compilers do.
pub(super) fn text(checked: &[Checked]) -> String {
    let mut out = String::new();
    for (image, violation) in violations(checked) {
        let Checked { file, line, column, object, .. } = image;
        let (level, message) = (violation.level.name(), &violation.message);
        // Writing to a string cannot fail.
        let line = format!("{file}:{line}:{column}: {level}: {object}: {message}");
        let _ = writeln!(out, "{}", crate::cli::output::escaped(&line));
    }
    out
}

/// A list of objects.
pub(super) fn json(checked: &[Checked]) -> String {
    let list = violations(checked).map(|(image, violation)| {
        json!({
            "file": image.file, "line": image.line, "column": image.column, "object": image.object,
            "level": violation.level, "message": violation.message,
        })
    });
    format!("{:#}\n", list.collect::<serde_json::Value>())
}

/// One `testcase` for each image.
pub(super) fn junit(checked: &[Checked]) -> String {
    let failures = checked.iter().filter(|image| image.is_refused()).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let counts = format!("tests=\"{}\" failures=\"{failures}\" errors=\"0\"", checked.len());
    let _ = writeln!(out, "<testsuites {counts}>\n  <testsuite name=\"harbor-pilot check\" {counts}>");
    for image in checked {
        let (name, file) = (escaped(&format!("{}: {}", image.object, image.place)), escaped(&image.file));
        let _ = writeln!(out, "    <testcase name=\"{name}\" classname=\"{file}\">");
        for violation in &image.violations {
            let message = escaped(&format!("line {}: {}", image.line, violation.message));
            let _ = match violation.level {
                Level::Error => writeln!(out, "      <failure message=\"{message}\"/>"),
                level => writeln!(out, "      <system-out>{}: {message}</system-out>", level.name()),
            };
        }
        out.push_str("    </testcase>\n");
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// Static Analysis Results Interchange Format 2.1.0 (OASIS).
pub(super) fn sarif(checked: &[Checked]) -> String {
    let results = violations(checked).map(|(image, violation)| {
        json!({
            "ruleId": "image-policy",
            "level": violation.level,
            "message": {"text": format!("{}: {}", image.object, violation.message)},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": uri(&image.file)},
                "region": {"startLine": image.line, "startColumn": image.column},
            }}],
        })
    });
    let results: Vec<_> = results.collect();
    let rule = json!({"id": "image-policy", "shortDescription": {"text": "An ImagePolicy does not allow the image."}});
    let driver = json!({"name": "harbor-pilot", "version": env!("CARGO_PKG_VERSION"), "rules": [rule]});
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    });
    format!("{log:#}\n")
}

fn violations(checked: &[Checked]) -> impl Iterator<Item = (&Checked, &Violation)> {
    checked.iter().flat_map(|image| image.violations.iter().map(move |violation| (image, violation)))
}

/// Escapes for XML, which cannot contain most control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            character if character.is_control() => out.push('?'),
            character => out.push(character),
        }
    }
    out
}

/// A relative reference (RFC 3986).
fn uri(file: &str) -> String {
    let mut out = String::with_capacity(file.len());
    for byte in file.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked() -> Vec<Checked> {
        let image = |line, violations| Checked {
            file: "my app.yaml".to_owned(),
            line,
            column: 14,
            object: "Deployment shop/web".to_owned(),
            place: "container <web>".to_owned(),
            violations,
        };
        let violation = |level, message: &str| Violation { level, message: message.to_owned() };
        vec![
            image(7, vec![violation(Level::Error, "image \"a\" & so on"), violation(Level::Note, "noted")]),
            image(9, vec![]),
        ]
    }

    #[test]
    fn text_starts_with_file_and_line() {
        let reported = text(&checked());
        assert!(
            reported.starts_with("my app.yaml:7:14: error: Deployment shop/web: image \"a\" & so on\n"),
            "{reported}"
        );
    }

    #[test]
    fn junit_has_a_test_case_for_each_image() {
        let reported = junit(&checked());
        assert_eq!(reported.matches("<testcase ").count(), 2);
        assert_eq!(reported.matches("tests=\"2\" failures=\"1\"").count(), 2);
        assert!(reported.contains("<failure message=\"line 7: image &quot;a&quot; &amp; so on\"/>"), "{reported}");
        assert!(reported.contains("container &lt;web&gt;"), "{reported}");
    }

    #[test]
    fn sarif_has_level_and_position() {
        let list: serde_json::Value = serde_json::from_str(&json(&checked())).unwrap();
        assert_eq!((&list[0]["level"], &list[0]["line"]), (&json!("error"), &json!(7)));
        let log: serde_json::Value = serde_json::from_str(&sarif(&checked())).unwrap();
        let result = &log["runs"][0]["results"][0];
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "my%20app.yaml");
        assert_eq!((&result["level"], &place["region"]["startLine"]), (&json!("error"), &json!(7)));
    }
}
