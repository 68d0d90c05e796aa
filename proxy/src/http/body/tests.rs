use http_body_util::BodyExt;

use super::*;

#[tokio::test]
async fn bodies_say_what_hyper_asks() {
    let mut request = RequestBody::full("abc");
    assert_eq!(
        (request.is_end_stream(), request.size_hint().exact()),
        (false, Some(3))
    );
    assert_eq!(
        request.frame().await.unwrap().unwrap().into_data().unwrap(),
        "abc"
    );
    assert_eq!(
        (request.is_end_stream(), request.size_hint().exact()),
        (true, Some(0))
    );
    assert!(request.frame().await.is_none());
    let mut response = ResponseBody::full("abc");
    assert_eq!(
        (response.is_end_stream(), response.size_hint().exact()),
        (false, Some(3))
    );
    assert_eq!(
        response
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "abc"
    );
    assert_eq!(
        (response.is_end_stream(), response.size_hint().exact()),
        (true, Some(0))
    );
    assert!(matches!(RequestBody::full(""), RequestBody::Empty));
    assert!(matches!(ResponseBody::full(""), ResponseBody::Empty));
    assert!(RequestBody::Empty.is_end_stream() && ResponseBody::Empty.is_end_stream());
}

#[test]
fn reset_codes_are_found_in_the_chain() {
    assert_eq!(BodyError::idle().reset_reason(), Some(h2::Reason::CANCEL));
    let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
    let nested = BodyError::Other(Box::new(BodyError::Other(Box::new(refused))));
    assert_eq!(nested.reset_reason(), Some(h2::Reason::REFUSED_STREAM));
    let plain = BodyError::Other(Box::new(std::io::Error::other("x")));
    assert_eq!(plain.reset_reason(), None);
}
