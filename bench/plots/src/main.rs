//! Draws what `bin/bench` measured.
//!
//! ```text
//! bench_plots FOLDER    reads FOLDER/results/*.json; writes FOLDER/*.svg, a file per chart, and FOLDER/report.html
//! ```

mod chart;
mod report;

use chart::Chart;
use serde::Deserialize;
use std::error::Error;
use std::path::Path;

/// The measurements of one part of `bin/bench`.
#[derive(Deserialize)]
struct Part {
    title: String,
    /// The command that measures it again.
    command: String,
    machine: String,
    /// How it was measured.
    notes: String,
    #[serde(default)]
    tables: Vec<Vec<Vec<String>>>,
    #[serde(default)]
    charts: Vec<Chart>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: bench_plots FOLDER")?;
    let folder = Path::new(&folder);
    let mut files: Vec<_> = std::fs::read_dir(folder.join("results"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut parts = Vec::new();
    for file in files {
        let part: Part = serde_json::from_slice(&std::fs::read(&file)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let mut pictures = Vec::new();
        for chart in &part.charts {
            let svg = chart.svg()?;
            std::fs::write(folder.join(format!("{}.svg", chart.file)), &svg)?;
            pictures.push(svg);
        }
        parts.push((part, pictures));
    }
    let report = folder.join("report.html");
    std::fs::write(&report, report::html(&parts)?)?;
    println!("{}", report.display());
    Ok(())
}
