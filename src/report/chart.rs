//! One SVG chart, drawn by `plotters`: lines with gaps where a value is missing, or stacked shares.
//!
//! The SVG carries light-mode colours; the page's style sheet overrides each of them by attribute selector
//! (`svg [fill="#52514E"]`), so one drawing serves light and dark mode. Keep [`INK`], [`GRID`] and [`SERIES`] in
//! step with `report.css`; a test compares them.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::log::charts::{AxisRange, Kind};

/// Text and axis descriptions.
pub const INK: RGBColor = RGBColor(0x52, 0x51, 0x4E);
/// Grid lines and axes.
pub const GRID: RGBColor = RGBColor(0xE1, 0xE0, 0xD9);
/// Colours of the curves, in order. Readers with any of the common colour blindnesses can tell them apart.
pub const SERIES: [RGBColor; 6] = [
    RGBColor(0x2A, 0x78, 0xD6),
    RGBColor(0xEB, 0x68, 0x34),
    RGBColor(0x1B, 0xAF, 0x7A),
    RGBColor(0xED, 0xA1, 0x00),
    RGBColor(0x4A, 0x3A, 0xA7),
    RGBColor(0xE3, 0x49, 0x48),
];

/// Width and height of a chart in SVG units; the page scales it to its column.
const SIZE: (u32, u32) = (640, 290);
/// Fewer points than this are drawn as they are, without a moving average.
const SMOOTH_FROM: usize = 24;
const FONT: &str = "sans-serif";

/// One curve. A value that is not finite is a gap.
#[derive(Clone, Debug)]
pub struct Curve {
    /// `(step, value)`, steps ascending.
    pub points: Vec<(f64, f64)>,
}

/// A horizontal line with a label: a threshold, or the model that a stage began from.
#[derive(Clone, Debug)]
pub struct Guide {
    pub at: f64,
    pub label: String,
}

/// All that is drawn of one chart.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub kind: Kind,
    pub range: AxisRange,
    /// Description of the value axis, with its unit.
    pub unit: &'static str,
    pub curves: Vec<Curve>,
    pub guides: Vec<Guide>,
}

/// The message of `plotters` when it cannot draw.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ChartError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for ChartError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

type Context<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl Drawing {
    /// The chart as an `<svg>` element. A chart without any finite value is drawn empty.
    pub fn svg(&self) -> Result<String, ChartError> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw(&root)?;
            root.present()?;
        }
        Ok(svg)
    }

    fn draw(&self, root: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), ChartError> {
        let layers = match self.kind {
            Kind::Lines => self.curves.iter().map(|curve| curve.points.clone()).collect(),
            Kind::Stacked => stack(&self.curves.iter().map(smoothed).collect::<Vec<_>>()),
        };
        let (x, y) = (self.steps(&layers), self.values(&layers));
        let mut context = ChartBuilder::on(root)
            .margin(8)
            .margin_right(16)
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        mesh(&mut context, self.unit, y)?;
        match self.kind {
            Kind::Lines => lines(&mut context, &self.curves)?,
            Kind::Stacked => areas(&mut context, &layers)?,
        }
        for guide in &self.guides {
            draw_guide(&mut context, guide, x)?;
        }
        Ok(())
    }

    /// The step axis: what the data covers, never empty.
    fn steps(&self, layers: &[Vec<(f64, f64)>]) -> (f64, f64) {
        let (low, high) = bounds(layers.iter().flatten().map(|point| point.0)).unwrap_or((0.0, 1.0));
        if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
    }

    /// The value axis: data, guides and [`AxisRange`], with some space around them, never empty.
    fn values(&self, layers: &[Vec<(f64, f64)>]) -> (f64, f64) {
        let required: &[f64] = match self.range {
            AxisRange::Data => &[],
            AxisRange::FromZero => &[0.0],
            AxisRange::Unit => &[0.0, 1.0],
        };
        let data = layers.iter().flatten().map(|point| point.1);
        let all = data.chain(self.guides.iter().map(|guide| guide.at)).chain(required.iter().copied());
        let (low, high) = bounds(all).unwrap_or((0.0, 1.0));
        let padding = if high > low { (high - low) * 0.06 } else { low.abs().max(1.0) * 0.1 };
        // Shares and counts start on the axis itself: space below zero would suggest negative values.
        let keep_floor = self.range != AxisRange::Data && low == 0.0;
        let keep_ceiling = self.range == AxisRange::Unit && high <= 1.0;
        (if keep_floor { low } else { low - padding }, if keep_ceiling { 1.0 } else { high + padding })
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |found, value| match found {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

fn mesh(context: &mut Context<'_, '_>, unit: &str, y: (f64, f64)) -> Result<(), ChartError> {
    let text = (FONT, 18).into_font().color(&INK);
    let digits = decimals(y.1 - y.0);
    context
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_desc("step")
        .y_desc(unit)
        .x_labels(8)
        .y_labels(6)
        // Steps are whole numbers. In a short run some ticks fall between them; those get no label.
        .x_label_formatter(&|x| if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
        .y_label_formatter(&|y| tick(*y, digits))
        .draw()?;
    Ok(())
}

/// Digits after the point that about six ticks need on an axis of this length.
fn decimals(length: f64) -> usize {
    (1.0 - (length / 2.0).log10().floor()).clamp(0.0, 6.0) as usize
}

fn tick(value: f64, digits: usize) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size > 0.0 && size < 1e-3 && digits > 3 => format!("{value:.0e}"),
        // A tick that should be zero is not exactly zero; it is shown as "0", not as "-0.00".
        size if size < 1e-12 => "0".to_owned(),
        _ => format!("{value:.digits$}"),
    }
}

fn lines(context: &mut Context<'_, '_>, curves: &[Curve]) -> Result<(), ChartError> {
    let colored = || curves.iter().zip(SERIES.iter().cycle());
    for (curve, color) in colored() {
        if curve.points.len() >= SMOOTH_FROM {
            polyline(context, &curve.points, color.mix(0.28).stroke_width(1))?;
        } else {
            let dots = curve.points.iter().filter(|point| point.1.is_finite());
            context.draw_series(dots.map(|point| Circle::new(*point, 3, color.filled())))?;
        }
    }
    for (curve, color) in colored() {
        polyline(context, &smoothed(curve).points, color.stroke_width(2))?;
    }
    Ok(())
}

/// Draws each run of finite points as one line; a point between two gaps becomes a dot.
fn polyline(context: &mut Context<'_, '_>, points: &[(f64, f64)], style: ShapeStyle) -> Result<(), ChartError> {
    for part in points.split(|point| !point.1.is_finite()) {
        match part {
            [] => {}
            [one] => {
                context.draw_series([Circle::new(*one, 3, style.filled())])?;
            }
            _ => {
                context.draw_series([PathElement::new(part.to_vec(), style)])?;
            }
        }
    }
    Ok(())
}

/// The curve itself if it is short, its moving average otherwise.
fn smoothed(curve: &Curve) -> Curve {
    let points = &curve.points;
    Curve { points: if points.len() >= SMOOTH_FROM { moving_average(points) } else { points.clone() } }
}

/// Mean over a twelfth of the curve around each point. Gaps stay gaps and are left out of the means.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let radius = (points.len() / 24).max(1);
    let mean = |at: usize| {
        let near = &points[at.saturating_sub(radius)..(at + radius + 1).min(points.len())];
        let finite: Vec<f64> = near.iter().map(|point| point.1).filter(|value| value.is_finite()).collect();
        finite.iter().sum::<f64>() / finite.len() as f64
    };
    let at = |(index, point): (usize, &(f64, f64))| (point.0, if point.1.is_finite() { mean(index) } else { f64::NAN });
    points.iter().enumerate().map(at).collect()
}

/// Running sums over the curves at each step; a missing share counts as 0. The curves have equal lengths.
fn stack(curves: &[Curve]) -> Vec<Vec<(f64, f64)>> {
    let mut sum: Vec<f64> = vec![0.0; curves.iter().map(|curve| curve.points.len()).max().unwrap_or(0)];
    let layer = |curve: &Curve| {
        let add = |(sum, point): (&mut f64, &(f64, f64))| {
            *sum += if point.1.is_finite() { point.1 } else { 0.0 };
            (point.0, *sum)
        };
        sum.iter_mut().zip(&curve.points).map(add).collect()
    };
    curves.iter().map(layer).collect()
}

fn areas(context: &mut Context<'_, '_>, layers: &[Vec<(f64, f64)>]) -> Result<(), ChartError> {
    let mut floor: Option<Vec<(f64, f64)>> = None;
    for (layer, color) in layers.iter().zip(SERIES.iter().cycle()) {
        let top = widen(layer);
        let bottom = floor.unwrap_or_else(|| top.iter().map(|point| (point.0, 0.0)).collect());
        let outline: Vec<(f64, f64)> = top.iter().copied().chain(bottom.into_iter().rev()).collect();
        if top.len() > 1 {
            context.draw_series([Polygon::new(outline, color.mix(0.85).filled())])?;
        }
        floor = Some(top);
    }
    Ok(())
}

/// A single step becomes a band of width one: an area without width would be invisible.
fn widen(layer: &[(f64, f64)]) -> Vec<(f64, f64)> {
    match layer {
        [(x, y)] => vec![(x - 0.5, *y), (x + 0.5, *y)],
        _ => layer.to_vec(),
    }
}

fn draw_guide(context: &mut Context<'_, '_>, guide: &Guide, x: (f64, f64)) -> Result<(), ChartError> {
    if !guide.at.is_finite() {
        return Ok(());
    }
    let ends = [(x.0, guide.at), (x.1, guide.at)];
    context.draw_series(DashedLineSeries::new(ends, 5, 4, INK.stroke_width(1)))?;
    let style = (FONT, 16).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Bottom));
    let label = EmptyElement::at((x.0, guide.at)) + Text::new(guide.label.clone(), (6, -2), style);
    context.draw_series([label])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::check_balanced;

    fn drawing(kind: Kind, curves: &[&[(f64, f64)]]) -> Drawing {
        let curves = curves.iter().map(|points| Curve { points: points.to_vec() }).collect();
        Drawing {
            kind,
            range: AxisRange::Unit,
            unit: "share",
            curves,
            guides: vec![Guide { at: 0.5, label: "half".into() }],
        }
    }

    #[test]
    fn any_data_gives_a_drawing() {
        let wild = [(0.0, f64::NAN), (1.0, 1.0), (2.0, f64::INFINITY), (3.0, -1e300), (4.0, 0.0), (5.0, 0.0)];
        let cases: [&[&[(f64, f64)]]; 5] = [&[], &[&[]], &[&[(7.0, 0.5)]], &[&wild, &wild], &[&[(1.0, f64::NAN)]]];
        for curves in cases {
            for kind in [Kind::Lines, Kind::Stacked] {
                let svg = drawing(kind, curves).svg().unwrap();
                check_balanced(&svg).unwrap();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn a_gap_splits_the_line() {
        let points = [(0.0, 0.1), (1.0, 0.2), (2.0, f64::NAN), (3.0, 0.3), (4.0, 0.4)];
        let color = format!("stroke=\"#{:02X}{:02X}{:02X}\"", SERIES[0].0, SERIES[0].1, SERIES[0].2);
        let count = |points: &[(f64, f64)]| drawing(Kind::Lines, &[points]).svg().unwrap().matches(&color).count();
        assert_eq!(count(&points), 2);
        assert_eq!(count(&points[..2]), 1);
    }

    #[test]
    fn shares_stack_to_their_sum() {
        let curve = |value| Curve { points: vec![(1.0, value), (2.0, f64::NAN)] };
        let layers = stack(&[curve(0.25), curve(0.5)]);
        assert_eq!(layers, [[(1.0, 0.25), (2.0, 0.0)], [(1.0, 0.75), (2.0, 0.0)]]);
    }

    #[test]
    fn the_style_sheet_knows_every_colour() {
        let css = include_str!("report.css");
        for color in SERIES.iter().chain([&INK, &GRID]) {
            let hex = format!("\"#{:02X}{:02X}{:02X}\"", color.0, color.1, color.2);
            assert!(css.contains(&hex), "report.css has no rule for {hex}");
        }
    }
}
