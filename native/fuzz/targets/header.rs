#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| billdogeng::fuzzing::header(bytes));
