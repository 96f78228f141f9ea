//! Bars of shares with their intervals, and histograms of two series, as SVG in the colours of [`super::chart`].

use std::fmt::Write;

use super::html::escape;

const INK: &str = "#52514E";
const GRID: &str = "#E1E0D9";
const SERIES: [&str; 2] = ["#2A78D6", "#EB6834"];

/// A share with its interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    pub label: String,
    /// A share of 1.
    pub value: f64,
    pub interval: Option<[f64; 2]>,
    /// Rows behind it.
    pub rows: usize,
}

/// Horizontal bars from 0 to 100 %, with a line at `guide` (what guessing gives).
pub fn bars(bars: &[Bar], guide: Option<f64>) -> String {
    const ROW: f64 = 26.0;
    let (left, right, width) = (214.0, 118.0, 664.0);
    let height = ROW * bars.len() as f64 + 26.0;
    let x = |share: f64| left + (width - left - right) * share.clamp(0.0, 1.0);
    let mut svg =
        format!("<svg viewBox=\"0 0 {width} {height:.0}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\n");
    for tick in 0..=4 {
        let (at, label) = (x(f64::from(tick) / 4.0), format!("{} %", 25 * tick));
        let bottom = height - 20.0;
        let _ = writeln!(svg, "<line x1=\"{at:.1}\" y1=\"2\" x2=\"{at:.1}\" y2=\"{bottom:.0}\" stroke=\"{GRID}\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\" font-size=\"12\" fill=\"{INK}\">{label}</text>",
            height - 6.0
        );
    }
    if let Some(guide) = guide {
        let at = x(guide);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"2\" x2=\"{at:.1}\" y2=\"{:.0}\" stroke=\"{INK}\" stroke-dasharray=\"4 3\"/>",
            height - 20.0
        );
    }
    for (index, bar) in bars.iter().enumerate() {
        let middle = ROW * index as f64 + 15.0;
        let end = x(bar.value);
        let label: String = if bar.label.chars().count() > 27 {
            bar.label.chars().take(26).chain(['…']).collect()
        } else {
            bar.label.clone()
        };
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"13\" fill=\"{INK}\">{}</text>",
            left - 8.0,
            middle + 4.5,
            escape(&label)
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.0}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\" fill=\"{}\"/>",
            middle - 7.0,
            (end - left).max(1.0),
            SERIES[0]
        );
        if let Some([low, high]) = bar.interval {
            let (low, high) = (x(low), x(high));
            let _ = writeln!(
                svg,
                "<path d=\"M{low:.1} {0:.1}V{1:.1}M{low:.1} {middle:.1}H{high:.1}M{high:.1} {0:.1}V{1:.1}\" stroke=\"{INK}\" \
                 stroke-width=\"1.5\" fill=\"none\"/>",
                middle - 4.0,
                middle + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" font-size=\"13\" fill=\"{INK}\">{:.1} % of {}</text>",
            width - right + 8.0,
            middle + 4.5,
            100.0 * bar.value,
            bar.rows
        );
    }
    svg + "</svg>\n"
}

/// A column of a histogram: where it stands, and how many there are of each series.
#[derive(Clone, Debug, PartialEq)]
pub struct Bin {
    pub label: String,
    pub counts: [usize; 2],
}

/// Values in columns: each of its own if there are few different ones, else in 20 of equal width. A value is given with its
/// series, 0 or 1.
pub fn bins(values: &[(f64, usize)]) -> Vec<Bin> {
    const COLUMNS: usize = 20;
    let mut different: Vec<f64> = values.iter().map(|(value, _)| *value).collect();
    different.sort_by(f64::total_cmp);
    different.dedup();
    let (Some(&low), Some(&high)) = (different.first(), different.last()) else { return Vec::new() };
    let few = different.len() <= COLUMNS;
    let width = (high - low) / COLUMNS as f64;
    let mut bins: Vec<Bin> = match few {
        true => different.iter().map(|value| Bin { label: format!("{value}"), counts: [0; 2] }).collect(),
        false => (0..COLUMNS)
            .map(|i| Bin { label: format!("{:.2}", low + (i as f64 + 0.5) * width), counts: [0; 2] })
            .collect(),
    };
    for (value, series) in values {
        let column = match few {
            true => different.partition_point(|other| other < value),
            false => (((value - low) / width) as usize).min(COLUMNS - 1),
        };
        bins[column].counts[*series] += 1;
    }
    bins
}

/// A histogram; the two series stand beside each other, or one alone takes the whole column.
pub fn histogram(bins: &[Bin], series: usize) -> String {
    let (width, height, left, bottom) = (640.0, 250.0, 54.0, 34.0);
    let most = bins.iter().flat_map(|bin| bin.counts).max().unwrap_or(0).max(1);
    let column = (width - left - 10.0) / bins.len().max(1) as f64;
    let y = |count: usize| (height - bottom) - (height - bottom - 12.0) * count as f64 / most as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\n");
    for tick in [0, most / 2, most] {
        let at = y(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{:.0}\" y2=\"{at:.1}\" stroke=\"{GRID}\"/>",
            width - 10.0
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"12\" fill=\"{INK}\">{tick}</text>",
            left - 6.0,
            at + 4.0
        );
    }
    // A label that would touch the one before is left out.
    let longest = bins.iter().map(|bin| bin.label.chars().count()).max().unwrap_or(1) as f64;
    let every = ((longest * 7.5 + 8.0) / column).ceil().max(1.0) as usize;
    for (index, bin) in bins.iter().enumerate() {
        let start = left + column * index as f64;
        for (of, count) in bin.counts.iter().take(series).enumerate() {
            let each = column * 0.84 / series as f64;
            let x = start + column * 0.08 + each * of as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{each:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                y(*count),
                height - bottom - y(*count),
                SERIES[of]
            );
        }
        if index % every == 0 {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\" font-size=\"12\" fill=\"{INK}\">{}</text>",
                start + column / 2.0,
                height - bottom + 18.0,
                escape(&bin.label)
            );
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::super::html::tests::check_balanced;
    use super::*;

    #[test]
    fn few_values_have_columns_of_their_own_and_many_share() {
        let few = bins(&[(7.0, 0), (7.0, 1), (-1.5, 1), (7.0, 0)]);
        assert_eq!(few, [Bin { label: "-1.5".into(), counts: [0, 1] }, Bin { label: "7".into(), counts: [2, 1] }]);
        let many: Vec<(f64, usize)> = (0..=100).map(|i| (f64::from(i), 0)).collect();
        let many = bins(&many);
        assert_eq!((many.len(), many[0].label.as_str(), many[0].counts[0], many[19].counts[0]), (20, "2.50", 5, 6));
        assert!(bins(&[]).is_empty());
    }

    #[test]
    fn drawings_are_well_formed_whatever_they_show() {
        let bar = |value: f64| Bar {
            label: "<a> & a very long name of a subset".into(),
            value,
            interval: Some([0.2, 1.4]),
            rows: 3,
        };
        for svg in [
            bars(&[bar(0.5), bar(1.01), bar(0.0)], Some(0.5)),
            bars(&[], None),
            histogram(&bins(&[(1.0, 0), (2.0, 1)]), 2),
            histogram(&[], 1),
        ] {
            check_balanced(&svg).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        // The last bar ends at 100 %, whatever its value.
        assert!(bars(&[bar(1.01)], None).contains("width=\"332.0\""), "{}", bars(&[bar(1.01)], None));
    }
}
