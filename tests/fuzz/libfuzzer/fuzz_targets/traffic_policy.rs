#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::traffic_policy::target(data));
