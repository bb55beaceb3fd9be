#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prism_fuzz::engine::run(bytes));
