use super::*;

fn log(percent: u32, fields: &[Wire]) -> wire::AccessLog {
    wire::AccessLog {
        percent,
        fields: fields.iter().map(|field| (*field).into()).collect(),
    }
}

fn refused(log: &wire::AccessLog) -> String {
    decode(log).unwrap_err().to_string()
}

#[test]
fn every_field_is_known_by_the_name_that_the_wire_has_for_it() {
    for (number, field) in (1..).zip(LogField::ALL) {
        let message = wire::AccessLog {
            percent: 7,
            fields: vec![number],
        };
        let decoded = decode(&message).unwrap();
        assert_eq!((decoded.percent, &*decoded.fields), (7, &[field][..]));
        let spelled = Wire::try_from(number).unwrap().as_str_name();
        let plain = |name: &str| name.replace('_', "").to_lowercase();
        let spelled = plain(spelled.trim_start_matches("ACCESS_LOG_FIELD_"));
        assert_eq!(spelled, plain(field.name()));
    }
}

#[test]
fn what_breaks_the_rules_is_refused_with_its_place() {
    assert_eq!(refused(&log(1, &[])), "fields: missing");
    assert_eq!(refused(&log(101, &[Wire::Path])), "percent: over 100");
    let twice = log(1, &[Wire::Path, Wire::Query, Wire::Path]);
    assert_eq!(refused(&twice), "fields: path twice");
    let none = log(1, &[Wire::Unspecified]);
    assert_eq!(refused(&none), "fields[0]: unspecified");
    let newer = wire::AccessLog {
        percent: 1,
        fields: vec![Wire::Path.into(), 99],
    };
    assert_eq!(refused(&newer), "fields[1]: unknown value 99");
    let bare = wire::InboundAccessLog {
        rules: vec![wire::AccessLogRule::default()],
        otherwise: None,
    };
    assert_eq!(
        inbound(&bare).unwrap_err().to_string(),
        "rules[0].matches: missing"
    );
}
