use crate::outcome::Outcome;
use crate::policy::FallbackTrigger as Trigger;
use crate::resilience::fallback::is_triggered;

/// Every outcome against every trigger: each trigger takes its own and no other.
#[test]
fn each_trigger_takes_its_own_outcomes() {
    let cases = [
        (Trigger::CircuitOpen, &[Outcome::CircuitOpen][..]),
        (Trigger::NoEndpoints, &[Outcome::NoEndpoints]),
        (Trigger::Overload, &[Outcome::Overflow, Outcome::Shed]),
        (
            Trigger::Timeout,
            &[Outcome::RequestTimeout, Outcome::TryTimeout],
        ),
        (Trigger::RetriesExhausted, &[]),
    ];
    for (trigger, own) in cases {
        for outcome in Outcome::ALL {
            assert_eq!(
                is_triggered(&[trigger], outcome, false),
                own.contains(&outcome),
                "{trigger:?} {outcome}"
            );
            let exhausted = trigger == Trigger::RetriesExhausted;
            assert_eq!(
                is_triggered(&[trigger], outcome, true),
                own.contains(&outcome) || exhausted
            );
            assert!(!is_triggered(&[], outcome, true));
        }
    }
}
