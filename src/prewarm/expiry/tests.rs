use serde_json::json;

use super::*;

const DAY: i64 = 24 * 3600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// Created at 0 for the namespace `first`, managed or by a user.
fn cached(ours: bool) -> CachedImage {
    let metadata = if ours {
        json!({"name": "a", "labels": {SOURCE: "admission"}, "annotations": {REQUESTED_BY: "first"}})
    } else {
        json!({"name": "a", "labels": {"app.kubernetes.io/managed-by": "argocd"}})
    };
    let object = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage", "metadata": metadata,
        "spec": {"image": "h.example/hub/a:1"}});
    let mut cached: CachedImage = serde_json::from_value(object).unwrap();
    cached.metadata.creation_timestamp = Some(Time(at(0)));
    cached
}

fn asked(second: i64, namespace: &str) -> LastUse {
    LastUse { at: at(second), namespaces: vec![namespace.into()] }
}

/// Time of the last request, the namespaces, and the expiry, in seconds.
fn reported(status: &CachedImageStatus) -> (Option<i64>, String, Option<i64>) {
    let seconds = |time: &Time| time.0.as_second() - at(0).as_second();
    let last = status.last_requested_at.as_ref().map(seconds);
    (last, status.requested_by.join(" "), status.expires_at.as_ref().map(seconds))
}

fn stamped(cached: &CachedImage, asked: Option<&LastUse>) -> CachedImageStatus {
    stamp(cached, cached.status.clone().unwrap_or_default(), asked, EXPIRE_AFTER)
}

#[test]
fn an_image_that_admission_asked_for_was_asked_for_when_it_was_made() {
    assert_eq!(reported(&stamped(&cached(true), None)), (Some(0), "first".to_owned(), Some(DAY)));
    let status = stamped(&cached(true), Some(&asked(5, "second")));
    assert_eq!(reported(&status), (Some(5), "second first".to_owned(), Some(DAY + 5)));
}

#[test]
fn cached_image_of_a_user_shows_its_requesters_and_never_expires() {
    assert_eq!(reported(&stamped(&cached(false), None)), (None, String::new(), None));
    assert_eq!(reported(&stamped(&cached(false), Some(&asked(9, "shop")))), (Some(9), "shop".to_owned(), None));
}

#[test]
fn ten_thousand_requests_of_a_day_write_a_handful_of_statuses() {
    let mut image = cached(true);
    let mut writes = 0;
    for number in 0..10_000 {
        let request = asked(number * DAY / 10_000, &format!("team-{}", number % 3));
        let status = stamped(&image, Some(&request));
        if image.status.as_ref() != Some(&status) {
            image.status = Some(status);
            writes += 1;
        }
    }
    assert_eq!(writes, 4, "the first, and one each quarter of the lifetime");
    let (last, by, expires) = reported(image.status.as_ref().unwrap());
    assert!(last.unwrap() >= DAY * 3 / 4 && expires.unwrap() == last.unwrap() + DAY, "{last:?} {expires:?}");
    assert!(by.contains("team-") && by.contains("first"), "{by}");
}

#[test]
fn a_status_that_is_written_anyway_takes_the_request_along() {
    let mut image = cached(true);
    image.status = Some(stamped(&image, None));
    let request = asked(60, "shop");
    assert_eq!(stamped(&image, Some(&request)), image.status.clone().unwrap(), "too soon for a write of its own");
    let next = CachedImageStatus { attempts: Some(1), ..image.status.clone().unwrap() };
    let status = stamp(&image, next, Some(&request), EXPIRE_AFTER);
    assert_eq!(reported(&status), (Some(60), "shop first".to_owned(), Some(DAY + 60)));
}

#[test]
fn requesters_are_few_and_the_newest_come_first() {
    let mut image = cached(true);
    for number in 0..20 {
        image.status = Some(stamped(&image, Some(&asked(number * DAY, &format!("team-{number}")))));
    }
    let by = image.status.unwrap().requested_by;
    assert_eq!((by.len(), by[0].as_str(), by[1].as_str()), (REQUESTERS, "team-19", "team-18"));
}

#[test]
fn a_restart_lets_an_image_live_a_quarter_longer_at_most_and_never_shorter() {
    let hour = 3600;
    for restart in 0..30 {
        for asked_at in (0..30).filter(|asked_at| *asked_at < restart) {
            let mut image = cached(true);
            image.status = Some(stamped(&image, None));
            // As the controller does: a request that is due is written at once, else it stays in memory.
            let request = asked(asked_at * hour, "shop");
            if is_due(&image, request.at) {
                image.status = Some(stamped(&image, Some(&request)));
            }
            let written = image.status.as_ref().unwrap().last_requested_at.clone().unwrap().0;
            let before = last_used(written, Some(request.at), Some(at(-hour)), EXPIRE_AFTER);
            assert_eq!(before, request.at, "asked at {asked_at} h");

            let after = last_used(written, None, Some(at(restart * hour)), EXPIRE_AFTER);
            assert!(after >= request.at, "asked at {asked_at} h, restart at {restart} h: it would go early");
            assert!(after <= at(asked_at * hour + DAY / 4), "asked at {asked_at} h, restart at {restart} h");
            assert!(after <= at(restart * hour), "no request since");
            assert!(after <= last_used(written, None, None, EXPIRE_AFTER), "who has not begun to note knows less");
        }
    }
}

fn record(name: &str, last: i64) -> ExpiryCandidate {
    ExpiryCandidate {
        name: name.to_owned(),
        image: name.to_owned(),
        namespaces: Vec::new(),
        last: at(last),
        expires: at(last + DAY),
        ready: true,
        refused: false,
    }
}

fn caps(total: usize) -> Caps {
    Caps { total, of_namespace: usize::MAX }
}

/// The records to delete, with the cause.
fn chosen(records: &[ExpiryCandidate], in_use: &[&str], caps: &Caps, wanted: usize, now: i64) -> Vec<String> {
    let in_use: HashSet<String> = in_use.iter().map(ToString::to_string).collect();
    let chosen = choose(records, &in_use, caps, wanted, at(now));
    assert!(chosen.is_empty() || is_any_due(records, caps, wanted, at(now)), "{chosen:?}");
    chosen.iter().map(|(record, cause)| format!("{} {cause:?}", record.name)).collect()
}

#[test]
fn choose_takes_what_is_unused_and_of_too_many_the_oldest_and_what_is_in_use_last() {
    let records: Vec<ExpiryCandidate> =
        (0..6).map(|number| record(&number.to_string(), i64::from(number) * 100)).collect();
    let late = DAY + 150;
    let table = [
        ("young", vec![], 10, 0, 1000, vec![]),
        ("two are unused", vec![], 10, 0, late, vec!["0 Unused", "1 Unused"]),
        ("one of them runs", vec!["0"], 10, 0, late, vec!["1 Unused"]),
        ("two too many", vec![], 4, 0, 1000, vec!["0 TooMany", "1 TooMany"]),
        ("the oldest runs", vec!["0"], 4, 0, 1000, vec!["1 TooMany", "2 TooMany"]),
        ("all run", vec!["0", "1", "2", "3", "4", "5"], 4, 0, late, vec!["0 TooMany", "1 TooMany"]),
        ("one wants room", vec!["0"], 6, 1, 1000, vec!["1 TooMany"]),
        ("many want room", vec![], 6, 100, 1000, vec!["0 TooMany"]),
        ("all run, and one wants room", vec!["0", "1", "2", "3", "4", "5"], 6, 1, 1000, vec![]),
    ];
    for (what, in_use, total, wanted, now, expected) in table {
        assert_eq!(chosen(&records, &in_use, &caps(total), wanted, now), expected, "{what}");
    }
}

#[test]
fn what_was_asked_for_just_now_is_not_one_too_many() {
    let records = [record("new", 0), record("newer", 30)];
    let none = Caps { total: 0, of_namespace: 0 };
    assert!(choose(&records, &HashSet::new(), &none, 0, at(59)).is_empty());
    assert_eq!(choose(&records, &HashSet::new(), &none, 0, at(61)).len(), 1);
    let short = [ExpiryCandidate { expires: at(40), ..record("short", 0) }];
    assert!(choose(&short, &HashSet::new(), &none, 0, at(9)).is_empty());
    assert_eq!(choose(&short, &HashSet::new(), &none, 0, at(10)).len(), 1);
}

/// N images of each namespace; those named `used-` are in use.
fn of_namespaces(counts: &[(&str, usize)]) -> (Vec<ExpiryCandidate>, Vec<String>) {
    let mut records = Vec::new();
    for (namespace, count) in counts {
        records.extend((0..*count).map(|number| ExpiryCandidate {
            namespaces: vec![namespace.trim_start_matches("used-").into()],
            ..record(&format!("{namespace}-{number:03}"), i64::try_from(number).unwrap())
        }));
    }
    let in_use = records.iter().filter(|record| record.name.starts_with("used-"));
    let in_use = in_use.map(|record| record.image.clone()).collect();
    (records, in_use)
}

#[test]
fn choose_takes_from_the_namespaces_with_the_most_images_and_nothing_from_those_with_their_share() {
    let table = [
        (
            "in use by a flood, idle by a small one",
            vec![("used-flood", 30), ("shop", 5)],
            (20, 100),
            vec![("used-flood", 15)],
        ),
        (
            "idle ones of a large namespace first",
            vec![("used-flood", 12), ("ci", 18)],
            (20, 100),
            vec![("ci", 8), ("used-flood", 2)],
        ),
        ("a namespace over its cap", vec![("used-flood", 30), ("shop", 5)], (100, 10), vec![("used-flood", 20)]),
        ("idle before used of one namespace", vec![("used-flood", 8), ("flood", 8)], (100, 10), vec![("flood", 6)]),
        (
            "two floods level",
            vec![("used-a", 30), ("used-b", 20), ("used-shop", 2)],
            (22, 100),
            vec![("used-a", 20), ("used-b", 10)],
        ),
        ("all small", vec![("used-a", 5), ("used-b", 5)], (10, 5), vec![]),
    ];
    for (what, counts, (total, of_namespace), expected) in table {
        let (records, in_use) = of_namespaces(&counts);
        let in_use: Vec<&str> = in_use.iter().map(String::as_str).collect();
        let deleted = chosen(&records, &in_use, &Caps { total, of_namespace }, 0, 10_000);
        let mut by_kind: BTreeMap<&str, usize> = BTreeMap::new();
        for name in &deleted {
            *by_kind.entry(name.rsplit_once('-').unwrap().0).or_default() += 1;
        }
        assert_eq!(by_kind.into_iter().collect::<Vec<_>>(), expected, "{what}");
    }
}

#[test]
fn choose_lets_room_for_a_namespace_at_its_cap_only_by_what_it_does_not_use() {
    let (records, in_use) = of_namespaces(&[("used-shop", 15), ("shop", 5), ("bank", 5)]);
    let in_use: Vec<&str> = in_use.iter().map(String::as_str).collect();
    let caps = Caps { total: 100, of_namespace: 20 };
    assert!(chosen(&records, &in_use, &caps, 0, 10_000).is_empty());
    assert_eq!(chosen(&records, &in_use, &caps, 50, 10_000), ["shop-000 TooMany", "shop-001 TooMany"]);
}

#[test]
fn choose_keeps_what_scans_refused_although_nothing_asks_for_it_and_bounds_it() {
    let refused = |name: &str, last| ExpiryCandidate { refused: true, ..record(name, last) };
    let records = [refused("bad", 0), record("good", 0), refused("worse", 5), refused("worst", 9)];
    let late = 30 * DAY;
    assert_eq!(chosen(&records, &[], &caps(15), 0, late), ["good Unused"]);
    assert_eq!(chosen(&records, &[], &caps(10), 0, late), ["good Unused", "bad Unused"]);
    let young = [refused("bad", 0), record("one", 100), record("two", 200)];
    assert_eq!(chosen(&young, &[], &caps(2), 0, 1000), ["one TooMany"], "it goes last");
}
