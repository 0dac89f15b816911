//! Writes a JSON document with serde_json a number of times, and prints how long that took.
//!
//! ```text
//! bench_serde FILE    then lines on standard input: a number of times; on standard output: ns in all
//! ```

use serde_json::Value;
use std::error::Error;
use std::hint::black_box;
use std::io::stdin;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: bench_serde FILE")?;
    let document: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let mut out = Vec::new();
    for line in stdin().lines() {
        let times: u32 = line?.trim().parse()?;
        let start = Instant::now();
        for _ in 0..times {
            out.clear();
            serde_json::to_writer(&mut out, black_box(&document))?;
            black_box(&out);
        }
        println!("{}", start.elapsed().as_nanos());
    }
    Ok(())
}
