use weft_proto::names::env;

use super::read;
use crate::telemetry::HeaderLabelSettings;

fn label(variables: &[(&str, &str)]) -> Option<HeaderLabelSettings> {
    read(variables).unwrap().header_label
}

#[test]
fn nothing_is_a_label_unless_somebody_says_so() {
    assert_eq!(label(&[]), None);
    assert_eq!(label(&[(env::METRICS_HEADER_VALUES, "5")]), None);
    let chosen = (env::METRICS_HEADER_LABEL, "tenant=X-Tenant-Id");
    let settings = label(&[chosen]).unwrap();
    assert_eq!(&*settings.label, "tenant");
    assert_eq!(settings.header, "x-tenant-id");
    assert_eq!(settings.values, 50);
    let settings = label(&[chosen, (env::METRICS_HEADER_VALUES, "500")]).unwrap();
    assert_eq!(settings.values, 500);
}

#[test]
fn what_cannot_be_is_told_with_its_mend() {
    for (name, value) in [
        (env::METRICS_HEADER_LABEL, "tenant"),
        (env::METRICS_HEADER_LABEL, "outcome=x-tenant"),
        (env::METRICS_HEADER_LABEL, "tenant=authorization"),
        (env::METRICS_HEADER_VALUES, "0"),
        (env::METRICS_HEADER_VALUES, "501"),
    ] {
        let errors = read(&[(name, value)]).unwrap_err();
        let told: Vec<_> = errors.iter().map(|error| error.variable).collect();
        assert_eq!(told, [name], "{value}");
    }
}
