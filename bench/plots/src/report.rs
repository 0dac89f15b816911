//! The page with all charts and tables. It stands alone: the charts are part of it.

use crate::Part;
use std::error::Error;
use std::fmt::Write;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:860px;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}\
    td,th{border-bottom:1px solid #ddd;padding:.3em .8em;text-align:right}\
    td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}code{background:#f3f3f3;padding:.1em .3em}";

/// Returns the page of these parts, each with its charts as SVG.
pub fn html(parts: &[(Part, Vec<String>)]) -> Result<String, Box<dyn Error>> {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Measurements</title>\
         <style>{STYLE}</style><h1>Measurements</h1>\n"
    );
    for (part, pictures) in parts {
        let (title, command) = (escaped(&part.title), escaped(&part.command));
        writeln!(page, "<h2>{title}</h2>\n<p><code>{command}</code></p>")?;
        for svg in pictures {
            writeln!(page, "{svg}")?;
        }
        for table in &part.tables {
            write_table(&mut page, table)?;
        }
        let (notes, machine) = (escaped(&part.notes), escaped(&part.machine));
        writeln!(page, "<p>{notes} {machine}</p>")?;
    }
    page.push_str("</html>\n");
    Ok(page)
}

fn write_table(page: &mut String, rows: &[Vec<String>]) -> std::fmt::Result {
    page.push_str("<table>");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        page.push_str("<tr>");
        for cell in row {
            write!(page, "<{tag}>{}</{tag}>", escaped(cell))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_charts_the_tables_and_the_command() {
        let part: Part = serde_json::from_str(
            r#"{"title":"A & B","command":"bin/bench --only x","machine":"2 cores.","notes":"In turns.",
                "tables":[[["what","ns"],["a < b","3"]]],
                "charts":[{"file":"x","title":"T","kind":"line","plot":{"x":{"label":"n","log":true},
                           "y":{"label":"ns","log":false},"series":[{"name":"s","points":[[1,2],[10,3]]}]}}]}"#,
        )
        .unwrap();
        let pictures = vec![part.charts[0].svg().unwrap()];
        let page = html(&[(part, pictures)]).unwrap();
        for expected in [
            "A &amp; B",
            "<svg",
            "<td>a &lt; b</td>",
            "bin/bench --only x",
        ] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
    }
}
