//! One SVG chart, drawn by `plotters`: lines with gaps where a value is missing, or stacked shares.
//!
//! The SVG carries light-mode colours; the page's style sheet overrides each of them by attribute selector
//! (`svg [fill="#52514E"]`), which is how one drawing serves light and dark. Keep [`INK`], [`GRID`] and [`SERIES`] in
//! step with `report.css`; a test compares them.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Text and axis descriptions.
pub const INK: RGBColor = RGBColor(0x52, 0x51, 0x4E);
/// Grid lines and axes.
pub const GRID: RGBColor = RGBColor(0xE1, 0xE0, 0xD9);
/// Colours of the curves, in order; told apart by readers with any common colour vision.
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

/// How the curves share the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every curve against the axis; the steps faint, their moving average strong.
    Lines,
    /// Areas on top of each other, the first curve at the bottom; moving averages, if there are many steps.
    Stacked,
}

/// What the value axis must show besides the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Only the data.
    Data,
    /// The data and zero.
    FromZero,
    /// At least zero to one.
    Unit,
}

/// A horizontal line with a name: a threshold, or the untrained model.
#[derive(Clone, Debug)]
pub struct Guide {
    pub at: f64,
    pub label: String,
}

/// All that is drawn.
#[derive(Clone, Debug)]
pub struct Chart {
    pub kind: Kind,
    pub span: Span,
    /// Description of the value axis, with its unit.
    pub unit: &'static str,
    pub curves: Vec<Curve>,
    pub guides: Vec<Guide>,
}

/// What `plotters` says when it cannot draw.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ChartError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for ChartError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

type Context<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl Chart {
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

    /// The value axis: data, guides and [`Span`], with some air, never empty.
    fn values(&self, layers: &[Vec<(f64, f64)>]) -> (f64, f64) {
        let required: &[f64] = match self.span {
            Span::Data => &[],
            Span::FromZero => &[0.0],
            Span::Unit => &[0.0, 1.0],
        };
        let data = layers.iter().flatten().map(|point| point.1);
        let all = data.chain(self.guides.iter().map(|guide| guide.at)).chain(required.iter().copied());
        let (low, high) = bounds(all).unwrap_or((0.0, 1.0));
        let air = if high > low { (high - low) * 0.06 } else { low.abs().max(1.0) * 0.1 };
        // Shares and counts start on the axis itself: air below zero would suggest negative values.
        let keep_floor = self.span != Span::Data && low == 0.0;
        let keep_ceiling = self.span == Span::Unit && high <= 1.0;
        (if keep_floor { low } else { low - air }, if keep_ceiling { 1.0 } else { high + air })
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
        // Steps are whole numbers; a short run has ticks between them, which stay blank.
        .x_label_formatter(&|x| if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
        .y_label_formatter(&|y| tick(*y, digits))
        .draw()?;
    Ok(())
}

/// Digits after the point that tell about six ticks over `span` apart.
fn decimals(span: f64) -> usize {
    (1.0 - (span / 2.0).log10().floor()).clamp(0.0, 6.0) as usize
}

fn tick(value: f64, digits: usize) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size > 0.0 && size < 1e-3 && digits > 3 => format!("{value:.0e}"),
        // Rounds a tick that is zero but for rounding errors to plain zero, never "-0.00".
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

/// Mean over a twelfth of the curve around each point; gaps stay gaps and count for nothing.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = (points.len() / 24).max(1);
    let mean = |at: usize| {
        let near = &points[at.saturating_sub(reach)..(at + reach + 1).min(points.len())];
        let finite: Vec<f64> = near.iter().map(|point| point.1).filter(|value| value.is_finite()).collect();
        finite.iter().sum::<f64>() / finite.len() as f64
    };
    let at = |(index, point): (usize, &(f64, f64))| (point.0, if point.1.is_finite() { mean(index) } else { f64::NAN });
    points.iter().enumerate().map(at).collect()
}

/// Running sums over the curves at each step; a missing share counts as none. Curves of equal length by construction.
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

/// A single step as a band of width one, so that it can be seen as an area.
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

    fn chart(kind: Kind, curves: &[&[(f64, f64)]]) -> Chart {
        let curves = curves.iter().map(|points| Curve { points: points.to_vec() }).collect();
        Chart { kind, span: Span::Unit, unit: "share", curves, guides: vec![Guide { at: 0.5, label: "half".into() }] }
    }

    #[test]
    fn any_data_gives_a_drawing() {
        let wild = [(0.0, f64::NAN), (1.0, 1.0), (2.0, f64::INFINITY), (3.0, -1e300), (4.0, 0.0), (5.0, 0.0)];
        let cases: [&[&[(f64, f64)]]; 5] = [&[], &[&[]], &[&[(7.0, 0.5)]], &[&wild, &wild], &[&[(1.0, f64::NAN)]]];
        for curves in cases {
            for kind in [Kind::Lines, Kind::Stacked] {
                let svg = chart(kind, curves).svg().unwrap();
                check_balanced(&svg).unwrap();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn a_gap_splits_the_line() {
        let points = [(0.0, 0.1), (1.0, 0.2), (2.0, f64::NAN), (3.0, 0.3), (4.0, 0.4)];
        let color = format!("stroke=\"#{:02X}{:02X}{:02X}\"", SERIES[0].0, SERIES[0].1, SERIES[0].2);
        let count = |points: &[(f64, f64)]| chart(Kind::Lines, &[points]).svg().unwrap().matches(&color).count();
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
