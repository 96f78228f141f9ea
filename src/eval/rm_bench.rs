//! RM-Bench (THU-KEG/RM-Bench): three styles of a chosen and of a rejected response, every one against every other.

use super::case::{Answer, Answered};
use super::figures::{Figure, Figures, Reading};
use super::interval::Drawn;
use super::outcome::Outcome;

/// The name in tables and flags.
pub const NAME: &str = "rm-bench";

/// Styles of a response: concise, detailed plain text, detailed markdown.
pub const STYLES: usize = 3;
const STYLE_NAMES: [&str; STYLES] = ["concise", "plain", "markdown"];

/// A row belongs to the domain that its `domain` begins with: the two halves of safety are one.
const DOMAINS: [&str; 4] = ["chat", "math", "code", "safety"];

/// A difficulty: its name, and whether a cell (style of the chosen, style of the rejected response) is of it.
type Level = (&'static str, fn(usize, usize) -> bool);

/// Difficulties by their cells: in the hard ones the chosen response has the plainer style, in the easy ones the richer.
const LEVELS: [Level; 3] = [
    ("hard", |chosen, rejected| chosen < rejected),
    ("normal", |chosen, rejected| chosen == rejected),
    ("easy", |chosen, rejected| chosen > rejected),
];

/// The index of a row's domain.
fn domain(row: &Answered) -> Option<usize> {
    DOMAINS.iter().position(|domain| row.case.subset.starts_with(domain))
}

/// The nine decisions of a row: `[style of the chosen][style of the rejected response]`.
pub(super) fn cells(row: &Answered) -> [[Outcome; STYLES]; STYLES] {
    let score = |scores: &[Option<f64>], index: usize| scores.get(index).copied().flatten();
    let cell = |chosen: usize, rejected: usize| match &row.answer {
        Answer::Scores(scores) => Outcome::of(score(scores, chosen), score(scores, STYLES + rejected)),
        Answer::Comparisons(comparisons) => comparisons.outcome(chosen, STYLES + rejected),
        Answer::Decisions(_) | Answer::Credit(_) => Outcome::Missing,
    };
    std::array::from_fn(|chosen| std::array::from_fn(|rejected| cell(chosen, rejected)))
}

/// Domains, levels and the nine cells. A tie is wrong; both means, over domains and over levels, are the same number.
pub fn figures(rows: &[Answered]) -> Figures {
    let decisions: Vec<_> = rows.iter().map(cells).collect();
    let all = || decisions.iter().flatten().flatten();
    let share = |of: Outcome| all().filter(|outcome| **outcome == of).count() as f64 / all().count().max(1) as f64;
    let mut notes = Vec::new();
    let present: Vec<usize> =
        (0..DOMAINS.len()).filter(|domain_index| rows.iter().any(|row| domain(row) == Some(*domain_index))).collect();
    let absent: Vec<&str> =
        (0..DOMAINS.len()).filter(|index| !present.contains(index)).map(|index| DOMAINS[index]).collect();
    if !absent.is_empty() {
        notes.push(format!(
            "not the whole benchmark: without {}; means are those of the domains that are there",
            absent.join(", ")
        ));
    }
    let strangers = rows.iter().filter(|row| domain(row).is_none()).count();
    if strangers > 0 {
        notes.push(format!("{strangers} rows are of no known domain ({}) and are left out", DOMAINS.join(", ")));
    }
    let sets = Selection { rows, decisions: &decisions, present: &present };
    let readings = vec![
        sets.reading("official", "a tie or a missing verdict is wrong", Outcome::strict),
        sets.reading("half", "a tie or a missing verdict counts one half", Outcome::half),
    ];
    Figures {
        benchmark: NAME,
        rows: rows.len(),
        ties: share(Outcome::Tie),
        missing: share(Outcome::Missing),
        readings,
        notes,
    }
}

/// Rows with their decisions, and the domains that are there.
struct Selection<'a> {
    rows: &'a [Answered],
    decisions: &'a [[[Outcome; STYLES]; STYLES]],
    present: &'a [usize],
}

impl Selection<'_> {
    /// Rows of these domains, each with its mean over the cells that are kept; domains count alike.
    fn drawn(&self, domains: &[usize], keep: &dyn Fn(usize, usize) -> bool, credit: fn(Outcome) -> f64) -> Vec<Drawn> {
        let count = |of: usize| self.rows.iter().filter(|row| domain(row) == Some(of)).count() as f64;
        let value = |cells: &[[Outcome; STYLES]; STYLES]| {
            let kept = (0..STYLES * STYLES).map(|cell| (cell / STYLES, cell % STYLES)).filter(|(i, j)| keep(*i, *j));
            let credits: Vec<f64> = kept.map(|(i, j)| credit(cells[i][j])).collect();
            credits.iter().sum::<f64>() / credits.len() as f64
        };
        let row = |(row, cells): (&Answered, &[[Outcome; STYLES]; STYLES])| {
            let stratum = domain(row).filter(|of| domains.contains(of))?;
            let weight = 1.0 / (domains.len() as f64 * count(stratum));
            Some(Drawn { value: value(cells), weight, stratum, cluster: row.case.prompt })
        };
        self.rows.iter().zip(self.decisions).filter_map(row).collect()
    }

    fn reading(&self, name: &'static str, rule: &'static str, credit: fn(Outcome) -> f64) -> Reading {
        let every = |_: usize, _: usize| true;
        let mut parts: Vec<Figure> =
            self.present.iter().map(|of| Figure::of(DOMAINS[*of], &self.drawn(&[*of], &every, credit))).collect();
        parts.extend(LEVELS.iter().map(|(level, keep)| Figure::of(*level, &self.drawn(self.present, keep, credit))));
        let mut subsets = Vec::new();
        for of in self.present {
            for (level, keep) in &LEVELS {
                subsets.push(Figure::of(format!("{}, {level}", DOMAINS[*of]), &self.drawn(&[*of], keep, credit)));
            }
        }
        for cell in 0..STYLES * STYLES {
            let (i, j) = (cell / STYLES, cell % STYLES);
            let name = format!("{} above {}", STYLE_NAMES[i], STYLE_NAMES[j]);
            subsets.push(Figure::of(name, &self.drawn(self.present, &|a, b| (a, b) == (i, j), credit)));
        }
        let headline = Figure::of("mean of the domains", &self.drawn(self.present, &every, credit));
        Reading { name, rule, headline, parts, subsets }
    }
}
