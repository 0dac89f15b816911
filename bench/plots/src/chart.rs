//! One chart: lines or steps over a logarithmic or linear axis, or panels of bars.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;
use std::error::Error;

const WIDTH: u32 = 800;
const HEIGHT: u32 = 420;
/// Of a bar, and of the space around it.
const BAR: i32 = 34;
const FONT: &str = "sans-serif";
/// Colours that differ for people with any colour vision (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// A chart, as `bin/bench` describes it.
#[derive(Deserialize)]
pub struct Chart {
    /// Its file's name, without `.svg`.
    pub file: String,
    title: String,
    kind: Kind,
    /// Of lines and steps.
    plot: Option<Plot>,
    /// Of bars.
    #[serde(default)]
    panels: Vec<Panel>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Points joined by lines.
    Line,
    /// A histogram: each point holds from its place to that of the next.
    Steps,
    /// Panels of bars.
    Bars,
}

#[derive(Deserialize)]
struct Plot {
    x: Axis,
    y: Axis,
    series: Vec<Series>,
}

#[derive(Deserialize)]
struct Axis {
    label: String,
    log: bool,
}

#[derive(Deserialize)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

#[derive(Deserialize)]
struct Panel {
    title: String,
    bars: Vec<(String, f64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Done = Result<(), Box<dyn Error>>;

impl Chart {
    /// Returns it as SVG.
    pub fn svg(&self) -> Result<String, Box<dyn Error>> {
        let mut svg = String::new();
        let height = match self.kind {
            Kind::Bars => 50 + self.panels.iter().map(Panel::height).sum::<i32>() as u32,
            Kind::Line | Kind::Steps => HEIGHT,
        };
        {
            let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            area.fill(&WHITE)?;
            let area = area.titled(&self.title, (FONT, 20))?;
            match (self.kind, &self.plot) {
                (Kind::Bars, _) => draw_panels(&area, &self.panels)?,
                (kind, Some(plot)) => plot.draw(&area, kind == Kind::Steps)?,
                (_, None) => return Err(format!("{}: no plot", self.file).into()),
            }
            area.present()?;
        }
        // For those who hear it.
        let label = self.title.replace('&', "&amp;").replace('"', "&quot;");
        let labelled = format!("<svg role=\"img\" aria-label=\"{label}\"");
        Ok(svg.replacen("<svg", &labelled, 1))
    }
}

impl Plot {
    fn draw(&self, area: &Area, steps: bool) -> Done {
        let (x, y) = (self.range(|p| p.0, &self.x), self.range(|p| p.1, &self.y));
        match (self.x.log, self.y.log) {
            (true, true) => {
                self.draw_on(area, (x.0..x.1).log_scale(), (y.0..y.1).log_scale(), steps)
            }
            (true, false) => self.draw_on(area, (x.0..x.1).log_scale(), y.0..y.1, steps),
            (false, true) => self.draw_on(area, x.0..x.1, (y.0..y.1).log_scale(), steps),
            (false, false) => self.draw_on(area, x.0..x.1, y.0..y.1, steps),
        }
    }

    fn draw_on<X, Y>(&self, area: &Area, x: X, y: Y, steps: bool) -> Done
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(76)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let points = match steps {
                true => stairs(&series.points),
                false => series.points.clone(),
            };
            chart
                .draw_series(LineSeries::new(
                    points.iter().copied(),
                    colour.stroke_width(2),
                ))?
                .label(&series.name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 2), (x + 18, y + 2)], colour.filled())
                });
            if !steps {
                let dot = |point: &(f64, f64)| Circle::new(*point, 3, colour.filled());
                chart.draw_series(points.iter().map(dot))?;
            }
        }
        if self.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(match steps {
                    true => SeriesLabelPosition::UpperRight,
                    false => SeriesLabelPosition::UpperLeft,
                })
                .background_style(WHITE.mix(0.85))
                .border_style(RGBColor(200, 200, 200))
                .label_font((FONT, 14))
                .draw()?;
        }
        Ok(())
    }

    /// From the least to the most of all series; from 0 on a linear axis.
    fn range(&self, of: impl Fn(&(f64, f64)) -> f64, axis: &Axis) -> (f64, f64) {
        let values = self.series.iter().flat_map(|series| &series.points).map(of);
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| !axis.log || *value > 0.0) {
            (least, most) = (least.min(value), most.max(value));
        }
        match axis.log {
            true => (least / 1.2, most * 1.3),
            false => (0.0, most * 1.1),
        }
    }
}

/// The outline of a histogram's bars.
fn stairs(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let ends = points.iter().skip(1).map(|next| next.0);
    let bars = points.iter().zip(ends);
    bars.flat_map(|(&(x, y), end)| [(x, y), (end, y)]).collect()
}

impl Panel {
    fn height(&self) -> i32 {
        36 + BAR * self.bars.len() as i32
    }
}

fn draw_panels(area: &Area, panels: &[Panel]) -> Done {
    let names = TextStyle::from((FONT, 15)).pos(Pos::new(HPos::Right, VPos::Center));
    let numbers = TextStyle::from((FONT, 15)).pos(Pos::new(HPos::Left, VPos::Center));
    let (from, room) = (250, WIDTH as i32 - 250 - 90);
    let mut top = 0;
    for (index, panel) in panels.iter().enumerate() {
        let most = panel.bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
        let title = (FONT, 16).into_font().style(FontStyle::Bold);
        area.draw(&Text::new(panel.title.as_str(), (20, top + 8), title))?;
        for (row, (name, value)) in panel.bars.iter().enumerate() {
            let middle = top + 36 + BAR * row as i32 + BAR / 2;
            let to = from + 1.max((f64::from(room) * value / most) as i32);
            let corners = [(from, middle - BAR / 3), (to, middle + BAR / 3)];
            area.draw(&Rectangle::new(corners, COLOURS[index].filled()))?;
            area.draw(&Text::new(
                name.as_str(),
                (from - 10, middle),
                names.clone(),
            ))?;
            area.draw(&Text::new(short(*value), (to + 8, middle), numbers.clone()))?;
        }
        top += panel.height();
    }
    Ok(())
}

/// A number of at most three digits and its unit: 1.5k, 20M.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 999_500_000.0 => (value / 1e9, "G"),
        large if large >= 999_500.0 => (value / 1e6, "M"),
        large if large >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match value.abs() {
        at_least if at_least >= 100.0 => 0,
        at_least if at_least >= 10.0 => 1,
        at_least if at_least >= 1.0 || at_least == 0.0 => 2,
        small => 2 + (-small.log10()).ceil().max(0.0) as usize,
    };
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.00012, "0.00012"),
            (1.0, "1"),
            (7.25, "7.25"),
            (99.96, "100"),
            (20_000.0, "20k"),
            (742_081.0, "742k"),
            (999_600.0, "1M"),
            (1e9, "1G"),
        ];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn a_histogram_holds_each_value_up_to_the_next_place() {
        let outline = stairs(&[(1.0, 5.0), (2.0, 7.0), (4.0, 0.0)]);
        assert_eq!(outline, [(1.0, 5.0), (2.0, 5.0), (2.0, 7.0), (4.0, 7.0)]);
    }
}
