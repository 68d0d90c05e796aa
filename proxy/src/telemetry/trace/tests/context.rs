//! What headers say, and what is said in them.

use proptest::prelude::*;

use super::super::context::{Context, Formats, Said, SpanId, TraceId};
use super::super::sampler::Sampler;
use super::{ALL, headers};

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
const TRACE_TEXT: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN_TEXT: &str = "00f067aa0ba902b7";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const W3C: Formats = Formats {
    w3c: true,
    b3: false,
    b3_multi: false,
};
const B3: Formats = Formats {
    w3c: false,
    b3: true,
    b3_multi: false,
};
const B3_MULTI: Formats = Formats {
    w3c: false,
    b3: false,
    b3_multi: true,
};

fn read(pairs: &[(&'static str, &str)]) -> Said {
    Said::read(&headers(pairs), ALL)
}

fn said(sampled: Option<bool>, formats: Formats) -> Said {
    Said {
        parent: TraceId::new(TRACE).zip(SpanId::new(SPAN)),
        sampled,
        debug: false,
        formats,
    }
}

#[test]
fn traceparent_is_read_to_the_letter() {
    let traceparent = |text: &str| read(&[("traceparent", text)]);
    assert_eq!(traceparent(PARENT), said(Some(true), W3C));
    for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
        let text = format!("00-{TRACE_TEXT}-{SPAN_TEXT}-{flags}");
        assert_eq!(traceparent(&text), said(Some(sampled), W3C), "{text}");
    }
    // Versions to come may say more.
    for text in [
        format!("01-{TRACE_TEXT}-{SPAN_TEXT}-01"),
        format!("cc-{TRACE_TEXT}-{SPAN_TEXT}-01-more"),
    ] {
        assert_eq!(traceparent(&text), said(Some(true), W3C), "{text}");
    }
    for bad in [
        String::new(),
        format!("{PARENT}-"),
        format!("{PARENT}-more"),
        format!("{PARENT}0"),
        PARENT[..54].to_owned(),
        PARENT.to_uppercase(),
        format!("ff-{TRACE_TEXT}-{SPAN_TEXT}-01"),
        format!("01-{TRACE_TEXT}-{SPAN_TEXT}-01more"),
        format!("0g-{TRACE_TEXT}-{SPAN_TEXT}-01"),
        format!("00-{}-{SPAN_TEXT}-01", "0".repeat(32)),
        format!("00-{TRACE_TEXT}-{}-01", "0".repeat(16)),
        format!("00_{TRACE_TEXT}-{SPAN_TEXT}-01"),
        format!("00-{TRACE_TEXT}-{SPAN_TEXT}-0x"),
        PARENT.replace('b', "+"),
    ] {
        assert_eq!(traceparent(&bad), Said::default(), "{bad}");
    }
    let twice = read(&[("traceparent", PARENT), ("traceparent", PARENT)]);
    assert_eq!(twice, Said::default());
}

#[test]
fn b3_in_one_header() {
    let b3 = |text: &str| read(&[("b3", text)]);
    let ids = format!("{TRACE_TEXT}-{SPAN_TEXT}");
    assert_eq!(b3(&ids), said(None, B3));
    assert_eq!(b3(&format!("{ids}-1")), said(Some(true), B3));
    assert_eq!(
        b3(&format!("{ids}-0-05e3ac9a4f6e3b90")),
        said(Some(false), B3)
    );
    assert_eq!(b3(&ids.to_uppercase()), said(None, B3));
    let debug = b3(&format!("{ids}-d"));
    assert!(debug.debug && debug.sampled == Some(true));
    let short = b3(&format!("{}-{SPAN_TEXT}-1", &TRACE_TEXT[16..]));
    let (trace, _) = short.parent.unwrap();
    assert_eq!(trace.low(), TRACE as u64);
    for (text, sampled) in [("0", false), ("1", true), ("d", true)] {
        let alone = b3(text);
        assert_eq!((alone.parent, alone.sampled), (None, Some(sampled)));
        assert_eq!(alone.formats, B3);
    }
    for bad in [
        "",
        "2",
        "-",
        TRACE_TEXT,
        &format!("{ids}-"),
        &format!("{ids}-2"),
        &format!("{ids}-1-"),
        &format!("{ids}-1-00f067aa0ba902b"),
        &format!("{ids}-1-{SPAN_TEXT}-1"),
        &format!("{}-{SPAN_TEXT}", "0".repeat(32)),
        &format!("{}-{SPAN_TEXT}", &TRACE_TEXT[1..]),
        &format!("{TRACE_TEXT}-{}", &SPAN_TEXT[1..]),
    ] {
        assert_eq!(b3(bad), Said::default(), "{bad}");
    }
}

#[test]
fn b3_in_several_headers() {
    let ids = [("x-b3-traceid", TRACE_TEXT), ("x-b3-spanid", SPAN_TEXT)];
    let with = |more: &[(&'static str, &str)]| read(&[&ids, more].concat());
    assert_eq!(with(&[]), said(None, B3_MULTI));
    for (text, sampled) in [("1", true), ("true", true), ("0", false), ("false", false)] {
        let told = with(&[("x-b3-sampled", text)]);
        assert_eq!(told, said(Some(sampled), B3_MULTI));
    }
    let debug = with(&[("x-b3-flags", "1"), ("x-b3-sampled", "0")]);
    assert!(debug.debug && debug.sampled == Some(true));
    assert!(!with(&[("x-b3-flags", "0")]).debug);
    assert_eq!(read(&[("x-b3-sampled", "0")]).sampled, Some(false));

    assert_eq!(with(&[("x-b3-sampled", "maybe")]), Said::default());
    assert_eq!(with(&[("x-b3-spanid", SPAN_TEXT)]), Said::default());
    assert_eq!(read(&ids[..1]), Said::default());
    assert_eq!(read(&ids[1..]), Said::default());
}

#[test]
fn w3c_comes_first_and_others_count_where_they_agree() {
    let other = format!("{}-{SPAN_TEXT}-0", "1".repeat(32));
    let differing = read(&[("traceparent", PARENT), ("b3", &other)]);
    assert_eq!(differing, said(Some(true), W3C));

    let same = format!("{TRACE_TEXT}-{}-0", "2".repeat(16));
    let agreeing = read(&[("b3", &same), ("traceparent", PARENT)]);
    let both = Formats { b3: true, ..W3C };
    assert_eq!(agreeing, said(Some(true), both));

    let malformed = read(&[("traceparent", "00-0-0-0"), ("b3", &same)]);
    assert_eq!((malformed.sampled, malformed.formats), (Some(false), B3));
}

#[test]
fn a_format_that_is_not_known_is_not_read() {
    let all = headers(&[("traceparent", PARENT), ("b3", "1"), ("x-b3-sampled", "0")]);
    assert_eq!(Said::read(&all, Formats::default()), Said::default());
    assert_eq!(Said::read(&all, W3C), said(Some(true), W3C));
    let b3 = Said::read(&all, B3_MULTI);
    assert_eq!((b3.parent, b3.sampled), (None, Some(true)));
    assert!(!b3.formats.w3c);
}

fn context(parent: Option<u64>) -> Context {
    Context {
        trace: TraceId::new(TRACE).unwrap(),
        span: SpanId::new(SPAN).unwrap(),
        parent: parent.and_then(SpanId::new),
        sampled: true,
        debug: false,
    }
}

#[test]
fn what_is_written_is_golden() {
    let mut map = headers(&[]);
    context(Some(0xab)).write(&mut map, &Said::default(), ALL);
    let expected = headers(&[
        ("traceparent", PARENT),
        (
            "b3",
            "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1-00000000000000ab",
        ),
        ("x-b3-traceid", TRACE_TEXT),
        ("x-b3-spanid", SPAN_TEXT),
        ("x-b3-parentspanid", "00000000000000ab"),
        ("x-b3-sampled", "1"),
    ]);
    assert_eq!(map, expected);
}

#[test]
fn only_what_was_said_is_changed() {
    let mut map = headers(&[
        ("traceparent", "garbage"),
        ("tracestate", "vendor=1"),
        ("x-b3-traceid", "garbage"),
        ("b3", "1"),
        ("x-other", "1"),
    ]);
    let said = Said::read(&map, ALL);
    context(None).write(&mut map, &said, ALL);
    assert_eq!(map["traceparent"], "garbage");
    assert_eq!(map["tracestate"], "vendor=1");
    assert_eq!(map["x-b3-traceid"], "garbage");
    assert_eq!(map["b3"], format!("{TRACE_TEXT}-{SPAN_TEXT}-1"));
    assert_eq!(map.len(), 5);
}

#[test]
fn a_trace_that_begins_replaces_what_was_no_context() {
    let mut map = headers(&[
        ("traceparent", "garbage"),
        ("traceparent", PARENT),
        ("tracestate", "vendor=1"),
        ("x-b3-parentspanid", "garbage"),
        ("x-b3-flags", "garbage"),
    ]);
    let said = Said::read(&map, ALL);
    assert!(said.formats.is_empty());
    context(None).write(&mut map, &said, ALL);
    assert_eq!(map.get_all("traceparent").iter().count(), 1);
    assert_eq!(map["traceparent"], PARENT);
    for gone in ["tracestate", "x-b3-parentspanid", "x-b3-flags"] {
        assert!(!map.contains_key(gone), "{gone}");
    }
}

#[test]
fn the_state_of_a_trace_that_goes_on_stays() {
    let mut map = headers(&[
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
    ]);
    let said = Said::read(&map, ALL);
    context(None).write(&mut map, &said, ALL);
    assert_eq!(map.get_all("tracestate").iter().count(), 2);
    assert!(!map.contains_key("b3"), "the caller said nothing in it");
}

#[test]
fn a_sampler_keeps_its_share() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut of_ten_thousand = |share| {
        let sampler = Sampler::new(share);
        let ids = (0..10_000).filter_map(|_| TraceId::new(rng.u128(..)));
        ids.filter(|id| sampler.samples(*id)).count()
    };
    assert_eq!(of_ten_thousand(0.0), 0);
    assert_eq!(of_ten_thousand(1.0), 10_000);
    assert_eq!(of_ten_thousand(f64::NAN), 0);
    assert_eq!(of_ten_thousand(7.0), 10_000);
    let percent = of_ten_thousand(0.01);
    assert!((60..140).contains(&percent), "{percent}");
    let most = TraceId::new(u128::MAX).unwrap();
    assert!(Sampler::new(1.0).samples(most));
}

prop_compose! {
    fn any_context()(
        trace in 1_u128..,
        span in 1_u64..,
        parent in proptest::option::of(1_u64..),
        decision in 0..3,
    ) -> Context {
        Context {
            trace: TraceId::new(trace).unwrap(),
            span: SpanId::new(span).unwrap(),
            parent: parent.and_then(SpanId::new),
            sampled: decision > 0,
            debug: decision == 2,
        }
    }
}

fn any_formats() -> impl Strategy<Value = Formats> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(w3c, b3, b3_multi)| Formats {
        w3c,
        b3,
        b3_multi,
    })
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,60}",
        "[0-9a-f]{16}",
        "[0-9a-f]{32}",
        "[01d]",
        "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]{0,4})?",
        "[0-9a-fA-F]{15,33}-[0-9a-f]{15,17}(-[01dx](-[0-9a-f]{16})?)?",
    ]
}

fn any_pairs() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let names = prop::sample::select(vec![
        "traceparent",
        "tracestate",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
        "x-other",
    ]);
    prop::collection::vec((names, any_value()), 0..8)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(context in any_context(), formats in any_formats()) {
        prop_assume!(!formats.is_empty());
        let mut map = headers(&[]);
        context.write(&mut map, &Said::default(), formats);
        let said = Said::read(&map, ALL);
        prop_assert_eq!(said.parent, Some((context.trace, context.span)));
        prop_assert_eq!(said.sampled, Some(context.sampled));
        prop_assert_eq!(said.formats, formats);
        if !formats.w3c {
            prop_assert_eq!(said.debug, context.debug);
        }
    }

    #[test]
    fn whatever_comes_what_follows_understands(
        pairs in any_pairs(),
        known in any_formats(),
        context in any_context(),
    ) {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, &**value)).collect();
        let before = headers(&pairs);
        let mut after = before.clone();
        let said = Said::read(&before, known);
        context.write(&mut after, &said, known);
        // Others are left alone.
        let others = |map: &http::HeaderMap| {
            map.get_all("x-other").iter().cloned().collect::<Vec<_>>()
        };
        prop_assert_eq!(others(&before), others(&after));
        if known.is_empty() {
            prop_assert_eq!(before, after);
        } else {
            let next = Said::read(&after, known);
            prop_assert_eq!(next.parent, Some((context.trace, context.span)));
            prop_assert_eq!(next.sampled, Some(context.sampled));
        }
    }

    #[test]
    fn a_larger_share_samples_what_a_smaller_one_does(
        trace in 1_u128..,
        one in 0.0..=1.0_f64,
        other in 0.0..=1.0_f64,
    ) {
        let trace = TraceId::new(trace).unwrap();
        let (less, more) = (one.min(other), one.max(other));
        prop_assert!(!Sampler::new(less).samples(trace) || Sampler::new(more).samples(trace));
    }
}
