use std::collections::HashMap;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;

/// The shape of a review: texts, lists, nested objects, a flag, and fields that are not read.
#[derive(Debug, Default)]
struct Taken<'a> {
    text: Option<Text<'a>>,
    list: Option<Vec<Taken<'a>>>,
    inner: Option<Box<Taken<'a>>>,
    flag: Option<bool>,
    map: Option<Map>,
}

fields!(Taken<'a> { b"text" => text, b"list" => list, b"inner" => inner, b"flag" => flag, b"map" => map });

impl<'a> Read<'a> for Box<Taken<'a>> {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        Taken::read(scanner).map(Self::new)
    }
}

#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

impl<'a> Read<'a> for Text<'a> {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        scanner.take_text().map(Self)
    }
}

#[derive(Debug)]
struct Map(HashMap<String, Option<String>>);

impl<'a> Read<'a> for Map {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        let mut map = HashMap::new();
        scanner.object(|key, scanner| {
            let value = if scanner.take_null() { None } else { Some(scanner.take_text()?.into_owned()) };
            map.insert(String::from_utf8(key.into_owned()).map_err(|_| Unread)?, value);
            Ok(())
        })?;
        Ok(Self(map))
    }
}

/// The same fields as `serde_json` reads them.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Reported {
    text: Option<String>,
    list: Option<Vec<Reported>>,
    inner: Option<Box<Reported>>,
    flag: Option<bool>,
    map: Option<HashMap<String, Option<String>>>,
}

impl From<Taken<'_>> for Reported {
    fn from(taken: Taken<'_>) -> Self {
        Self {
            text: taken.text.map(|text| text.0.into_owned()),
            list: taken.list.map(|list| list.into_iter().map(Self::from).collect()),
            inner: taken.inner.map(|inner| Box::new(Self::from(*inner))),
            flag: taken.flag,
            map: taken.map.map(|map| map.0),
        }
    }
}

fn both(text: &[u8]) -> (Option<Reported>, Option<Reported>) {
    (read::<Taken<'_>>(text).ok().map(Reported::from), serde_json::from_slice(text).ok())
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,70}",
        "\\PC{0,20}",
        "[\\\\\"{}\\[\\],:]{0,70}",
        "\\\\{60,70}\"?",
        Just(String::new()),
        Just("text".to_owned()),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaves = prop_oneof![
        texts().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaves.prop_recursive(6, 60, 8, |inner| {
        let key = prop_oneof![
            3 => prop::sample::select(vec!["text", "list", "inner", "flag", "map"]).prop_map(str::to_owned),
            1 => texts(),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Generates objects that mostly have the fields of [`Taken`].
fn fitting() -> impl Strategy<Value = Value> {
    let object = |text, list: Vec<Value>, inner: Value, flag: bool, map, other| {
        let mut object = serde_json::json!({"other": other, "text": text, "flag": flag, "map": map});
        if !list.is_empty() {
            object["list"] = list.into();
        }
        object["inner"] = inner;
        object
    };
    let map = || prop::collection::hash_map(texts(), texts(), 0..4);
    let leaf = (texts(), any::<bool>(), map(), values());
    let leaf = leaf.prop_map(move |(text, flag, map, other)| object(text, vec![], Value::Null, flag, map, other));
    leaf.prop_recursive(4, 20, 3, move |inner| {
        let parts = (texts(), prop::collection::vec(inner.clone(), 0..3), inner, any::<bool>(), map(), values());
        parts.prop_map(move |(text, list, inner, flag, map, other)| object(text, list, inner, flag, map, other))
    })
}

proptest! {
    #[test]
    fn what_fits_is_read_as_serde_json_reads_it(value in fitting()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let (ours, theirs) = both(text.as_bytes());
            prop_assert!(theirs.is_some());
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn what_is_well_formed_is_read_alike_or_not_at_all(value in values()) {
        let (ours, theirs) = both(value.to_string().as_bytes());
        if ours.is_some() {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn what_is_spoilt_never_panics(value in fitting(), at: prop::sample::Index, to: Option<u8>) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        match to {
            Some(byte) => text[at] = byte,
            None => text.truncate(at),
        }
        let (ours, theirs) = both(&text);
        if theirs.is_some() && ours.is_some() {
            prop_assert_eq!(ours, theirs);
        }
    }
}

#[test]
fn an_unread_part_of_any_length_ends_where_it_ends() {
    for length in 0..200 {
        for filling in ["x", "\\\\", "\\\"", "[]{}", "é"] {
            let filling = filling.repeat(length);
            let text = format!(r#"{{"a":[["{filling}"],{{"b":"{filling}"}}],"c":"{filling}","text":"found"}}"#);
            assert_eq!(read::<Taken<'_>>(text.as_bytes()).unwrap().text.map(|text| text.0).as_deref(), Some("found"));
        }
    }
    for unended in ["", "{", "[", r#"{"a":["#, r#"{"a":["]"#, r#"{"a":"#, r#"{"a":1"#, r#"{"a":1}}"#] {
        assert_eq!(read::<Taken<'_>>(unended.as_bytes()).unwrap_err(), Unread, "{unended}");
    }
}
