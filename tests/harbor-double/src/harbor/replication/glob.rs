//! Patterns of filters: `*` and `?` within a component, `**` over components, `[a-z]`, `{a,b}`, `\` before what is meant as
//! it stands.

/// Whether the whole text matches. An empty pattern matches everything.
///
/// # Errors
/// A bracket that is not closed.
pub(crate) fn matches(pattern: &str, text: &str) -> Result<bool, String> {
    if pattern.is_empty() {
        return Ok(true);
    }
    let (pattern, text): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), text.split('/').collect());
    path(&pattern, &text)
}

/// The names that a pattern without wildcards stands for: `app/{a,b}` is two.
pub(crate) fn specific(pattern: &str) -> Option<Vec<String>> {
    let plain = !pattern.is_empty() && !pattern.contains(['*', '?', '[', '\\', ']', '^']);
    let one_pair = pattern.split('/').all(|component| component.matches('{').count() <= 1);
    (plain && one_pair).then(|| choices(pattern).ok())?
}

fn syntax() -> String {
    "syntax error in pattern".to_owned()
}

/// One pattern for each choice between braces.
fn choices(pattern: &str) -> Result<Vec<String>, String> {
    let Some((head, rest)) = pattern.split_once('{') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let mut depth = 1;
    let mut parts = vec![String::new()];
    let mut characters = rest.chars();
    for character in characters.by_ref() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    if depth > 0 {
        return Err(syntax());
    }
    let tail = characters.as_str();
    let mut all = Vec::new();
    for part in parts {
        all.extend(choices(&format!("{head}{part}{tail}"))?);
    }
    Ok(all)
}

fn path(pattern: &[&str], text: &[&str]) -> Result<bool, String> {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => Ok(true),
        (None, Some(_)) => Ok(false),
        (Some((&"**", rest)), None) => path(rest, text),
        (Some((&"**", rest)), Some((_, more))) => Ok(path(rest, text)? || path(pattern, more)?),
        (Some(_), None) => Ok(false),
        (Some((first, rest)), Some((word, more))) => {
            let word: Vec<char> = word.chars().collect();
            // A bracket that is not closed is an error only where the pattern gets as far as that.
            for choice in choices(first)? {
                if component(&choice.chars().collect::<Vec<char>>(), &word)? {
                    return path(rest, more);
                }
            }
            Ok(false)
        }
    }
}

fn component(pattern: &[char], text: &[char]) -> Result<bool, String> {
    let Some((first, rest)) = pattern.split_first() else {
        return Ok(text.is_empty());
    };
    if *first == '*' {
        return Ok(component(rest, text)? || !text.is_empty() && component(pattern, &text[1..])?);
    }
    let (fits, rest) = match first {
        '?' => (!text.is_empty(), rest),
        '[' => class(rest, text.first().copied())?,
        '\\' => {
            let (literal, rest) = rest.split_first().ok_or_else(syntax)?;
            (text.first() == Some(literal), rest)
        }
        literal => (text.first() == Some(literal), rest),
    };
    Ok(fits && component(rest, &text[1..])?)
}

/// A class after its `[`: whether the character is in it, and what follows.
fn class(pattern: &[char], found: Option<char>) -> Result<(bool, &[char]), String> {
    let end = pattern.iter().position(|each| *each == ']').ok_or_else(syntax)?;
    let negated = matches!(pattern.first(), Some('^' | '!'));
    let members = &pattern[usize::from(negated)..end];
    let within = found.is_some_and(|found| {
        members.contains(&found) && found != '-'
            || members.windows(3).any(|range| range[1] == '-' && range[0] <= found && found <= range[2])
    });
    Ok((found.is_some() && within != negated, &pattern[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_doublestar_does() {
        for (pattern, yes, no) in [
            ("app/{single,multi}", "app/multi", "app/other"),
            ("production/**", "production/team/app", "staging/app"),
            ("**", "a/b/c", "\u{0}never"),
            ("v*", "v1.2", "1.2"),
            ("a/*", "a/b", "a/b/c"),
            ("v?", "v1", "v12"),
            ("[a-c]x", "bx", "dx"),
            ("1.{2,4}", "1.4", "1.3"),
            ("**/app", "app", "app/x"),
        ] {
            assert_eq!(matches(pattern, yes), Ok(true), "{pattern} {yes}");
            if no != "\u{0}never" {
                assert_eq!(matches(pattern, no), Ok(false), "{pattern} {no}");
            }
        }
        assert!(matches("a/{b", "a/b").is_err());
        assert_eq!(matches("a/{b", "c/b"), Ok(false));
        assert_eq!(matches("", "anything"), Ok(true));
    }

    #[test]
    fn names_without_wildcards_are_spelled_out() {
        assert_eq!(specific("app/{a,b}"), Some(vec!["app/a".to_owned(), "app/b".to_owned()]));
        assert_eq!(specific("app/*"), None);
        assert_eq!(specific(""), None);
    }
}
