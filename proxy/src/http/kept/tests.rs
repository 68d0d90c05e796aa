use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Mark(u8);

#[test]
fn nothing_of_a_head_is_lost() {
    let mut request = Request::put("http://api.shop/a?b=c")
        .version(Version::HTTP_2)
        .header("set", "1")
        .header("te", "trailers")
        .header("set", "2")
        .extension(Mark(7))
        .body(())
        .unwrap();
    let mut secret = HeaderValue::from_static("secret");
    secret.set_sensitive(true);
    request.headers_mut().insert("authorization", secret);

    let (head, ()) = request.into_parts();
    let kept = KeptHead::of(&head);
    for _ in 0..2 {
        let again = kept.request("body");
        assert_eq!(*again.body(), "body");
        let (again, _) = again.into_parts();
        assert_eq!(again.method, head.method);
        assert_eq!(again.uri, head.uri);
        assert_eq!(again.version, Version::HTTP_2);
        assert_eq!(again.headers, head.headers);
        assert!(again.headers["authorization"].is_sensitive());
        assert_eq!(again.extensions.get::<Mark>(), Some(&Mark(7)));
    }
}

proptest! {
    #[test]
    fn fields_keep_their_order(fields in prop::collection::vec((0..8_u8, any::<u16>()), 0..30)) {
        let mut request = Request::new(());
        for (name, value) in fields {
            let name: HeaderName = format!("x-{name}").parse().unwrap();
            request.headers_mut().append(name, value.into());
        }
        let (head, ()) = request.into_parts();
        let again = KeptHead::of(&head).request(());
        let order = |headers: &HeaderMap| -> Vec<_> {
            headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        prop_assert_eq!(order(again.headers()), order(&head.headers));
    }
}
