#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walferry_fuzz::resp::TARGET.check_both(data));
