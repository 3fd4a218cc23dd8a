use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn worth(last: i64) -> Worth {
    Worth { refused: false, ready: true, last: at(last) }
}

fn holding(name: &str, namespaces: &[&str], last: i64) -> Holding {
    let namespaces = namespaces.iter().map(|name| Arc::from(*name)).collect();
    Holding { name: name.to_owned(), namespaces, worth: worth(last) }
}

/// N images of each namespace, the first the oldest.
fn holdings(counts: &[(&str, usize)]) -> Vec<Holding> {
    let mut all = Vec::new();
    for (namespace, count) in counts {
        let name = |number| format!("{namespace}-{number:04}");
        all.extend((0..*count).map(|number| holding(&name(number), &[namespace], i64::try_from(number).unwrap())));
    }
    all
}

#[test]
fn room_is_taken_from_the_namespace_with_the_most_and_never_from_a_smaller_one() {
    let caps = Caps { total: 10, of_namespace: 6 };
    let in_place_of = |name: &str| Room::InPlaceOf(name.to_owned());
    let table = [
        ("there is room", vec![("flood", 5), ("shop", 1)], "flood", Room::Free),
        ("its cap is reached", vec![("flood", 6), ("shop", 1)], "flood", Room::None(Full::Namespace)),
        ("others have room", vec![("flood", 6), ("shop", 1)], "shop", Room::Free),
        ("full, and it has none", vec![("flood", 6), ("bank", 4)], "shop", in_place_of("flood-0000")),
        ("full, and it has the most", vec![("flood", 5), ("bank", 5)], "flood", Room::None(Full::Total)),
        ("full, and it would have as many", vec![("flood", 6), ("bank", 4)], "bank", in_place_of("flood-0000")),
        ("full, and it would have more", vec![("flood", 5), ("bank", 4), ("a", 1)], "bank", Room::None(Full::Total)),
        ("more than full", vec![("flood", 40), ("shop", 1)], "shop", in_place_of("flood-0000")),
    ];
    for (what, counts, namespace, expected) in table {
        assert_eq!(Holdings::new(&holdings(&counts)).room(namespace, &caps), expected, "{what}");
    }
}

#[test]
fn room_is_made_by_the_image_that_is_worth_the_least() {
    let worth = |refused, ready, last| Worth { refused, ready, last: at(last) };
    let worths = [
        ("refused", worth(true, true, 0)),
        ("warm", worth(false, true, 1)),
        ("newer", worth(false, false, 9)),
        ("failing", worth(false, false, 5)),
    ];
    let mut images: Vec<Holding> =
        worths.iter().map(|(name, worth)| Holding { worth: *worth, ..holding(name, &["flood"], 0) }).collect();
    for expected in ["failing", "newer", "warm"] {
        let caps = Caps { total: images.len(), of_namespace: 100 };
        assert_eq!(Holdings::new(&images).room("shop", &caps), Room::InPlaceOf(expected.to_owned()));
        images.retain(|image| image.name != expected);
    }
}

#[test]
fn owner_of_an_image_is_the_smallest_namespace_that_uses_it() {
    let mut images = holdings(&[("flood", 8)]);
    // The namespace `flood` also requests the images of `shop`.
    images.push(holding("nginx", &["flood", "shop"], 0));
    images.push(holding("stray", &[], 0));
    let holdings = Holdings::new(&images);
    assert_eq!((holdings.count("flood"), holdings.count("shop"), holdings.count("")), (8, 1, 1));
}

#[test]
fn room_never_exceeds_a_cap_and_gives_each_namespace_its_share_whatever_they_ask_for() {
    // Requests in a different order for each seed: a linear congruential generator.
    for seed in 0..20_u64 {
        let caps = Caps { total: 60, of_namespace: 25 };
        let names = ["flood-a", "flood-b", "flood-c", "shop", "bank"];
        let wants = [1000, 1000, 1000, 7, 12];
        let mut ledger = Ledger::default();
        let (mut state, now) = (seed, Instant::now());
        let mut asked = [0_usize; 5];
        for step in 0..4000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let which = usize::try_from(state >> 33).unwrap() % names.len();
            if asked[which] >= wants[which] {
                continue;
            }
            let room = ledger.holdings().room(names[which], &caps);
            if let Room::InPlaceOf(victim) = &room {
                assert!(!victim.starts_with("shop") && !victim.starts_with("bank"), "{victim} had to go");
                ledger.deleted(victim.clone(), now);
            }
            if !matches!(room, Room::None(_)) {
                asked[which] += usize::from(which >= 3);
                ledger.created(names[which], format!("{}-{step}", names[which]), worth(step), now);
            }
            assert!(ledger.holdings().total <= caps.total);
            assert!(names.iter().all(|name| ledger.holdings().count(name) <= caps.of_namespace));
        }
        assert_eq!((ledger.holdings().count("shop"), ledger.holdings().count("bank")), (7, 12), "seed {seed}");
        assert_eq!(ledger.holdings().total, caps.total);
    }
}

#[test]
fn ledger_counts_what_the_watch_does_not_show_yet() {
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let mut ledger = Ledger::default();
    ledger.refresh(|| holdings(&[("shop", 2)]), now);
    ledger.created("shop", "new".to_owned(), worth(0), now);
    ledger.deleted("shop-0000".to_owned(), now);
    let shown = |ledger: &mut Ledger, images: &[(&str, usize)], at| {
        ledger.refresh(|| holdings(images), at);
        (ledger.holdings().total, ledger.holdings().count("shop"))
    };
    assert_eq!(shown(&mut ledger, &[("shop", 2)], later(2)), (2, 2), "the watch shows neither");
    assert_eq!(shown(&mut ledger, &[("shop", 0)], later(2)), (2, 2), "not rebuilt within a second");
    assert_eq!(shown(&mut ledger, &[("shop", 2)], later(40)), (2, 2), "what it never shows did not happen");
    ledger.created("shop", "shop-0001".to_owned(), worth(0), later(40));
    assert_eq!(shown(&mut ledger, &[("shop", 2)], later(50)), (2, 2), "counted once");
}
