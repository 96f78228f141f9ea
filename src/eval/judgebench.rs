//! JudgeBench (ScalerLab/JudgeBench): pairs with one right answer; a pairwise judge plays both orders.

use super::case::{Answer, Answered, Decision};
use super::figures::{Figure, Figures, Reading};
use super::interval::Drawn;
use super::outcome::Outcome;

/// The name in tables and flags.
pub const NAME: &str = "judgebench";

/// Groups by what their `source` begins with.
const GROUPS: [(&str, &str); 4] = [
    ("Knowledge", "mmlu-pro"),
    ("Reasoning", "livebench-reasoning"),
    ("Math", "livebench-math"),
    ("Coding", "livecodebench"),
];

/// The decisions of a row. A judge of single responses says the same in both orders.
fn games(row: &Answered) -> Vec<Option<Decision>> {
    match &row.answer {
        Answer::Decisions(decisions) => decisions.clone(),
        Answer::Comparisons(comparisons) => comparisons.decisions(0, 1),
        Answer::Scores(_) | Answer::Credit(_) => vec![match super::rewardbench::outcome(row) {
            Outcome::Right => Some(Decision::Right),
            Outcome::Tie => Some(Decision::Tie),
            Outcome::Wrong => Some(Decision::Wrong),
            Outcome::Missing => None,
        }],
    }
}

/// Right games less wrong ones: above 0 is right, as the benchmark counts two games.
fn balance(games: &[Option<Decision>]) -> i32 {
    let one = |game: &Option<Decision>| match game {
        Some(Decision::Right) => 1,
        Some(Decision::Wrong) => -1,
        Some(Decision::Tie) | None => 0,
    };
    games.iter().map(one).sum()
}

fn official(games: &[Option<Decision>]) -> f64 {
    f64::from(u8::from(balance(games) > 0))
}

fn every_game(games: &[Option<Decision>]) -> f64 {
    f64::from(u8::from(!games.is_empty() && games.iter().all(|game| *game == Some(Decision::Right))))
}

fn first_game(games: &[Option<Decision>]) -> f64 {
    f64::from(u8::from(games.first() == Some(&Some(Decision::Right))))
}

/// The credit of a row by the benchmark's own rule.
pub(super) fn credit(row: &Answered) -> f64 {
    official(&games(row))
}

/// Groups and the mean over all rows. The benchmark takes a right game and a tie as right, and a null as a tie, in silence:
/// a second reading wants every game right, a third takes the first game alone.
pub fn figures(rows: &[Answered]) -> Figures {
    let played: Vec<Vec<Option<Decision>>> = rows.iter().map(games).collect();
    let games_of = |what: &dyn Fn(&Option<Decision>) -> bool| {
        let all = played.iter().flatten().count().max(1) as f64;
        played.iter().flatten().filter(|game| what(game)).count() as f64 / all
    };
    let two_games = played.iter().filter(|games| games.len() > 1).count();
    let mut readings = vec![reading(
        "official",
        "right in more games than wrong, over both orders; a null is a tie and one right game with a tie is right",
        rows,
        &played,
        official,
    )];
    let mut notes = Vec::new();
    if two_games > 0 {
        readings.push(reading("every game", "right in both orders", rows, &played, every_game));
        readings.push(reading("one game", "right in the first order", rows, &played, first_game));
        let flips = played.iter().filter(|games| matches!(games[..], [first, second] if first != second)).count();
        notes.push(format!(
            "{flips} of {two_games} verdicts differ between the two orders ({:.1} %)",
            100.0 * flips as f64 / two_games as f64
        ));
    } else {
        notes.push("each response is scored alone, so both orders give the same decision".into());
    }
    Figures {
        benchmark: NAME,
        rows: rows.len(),
        ties: games_of(&|game| *game == Some(Decision::Tie)),
        missing: games_of(&|game| game.is_none()),
        readings,
        notes,
    }
}

fn reading(
    name: &'static str,
    rule: &'static str,
    rows: &[Answered],
    played: &[Vec<Option<Decision>>],
    credit: fn(&[Option<Decision>]) -> f64,
) -> Reading {
    let drawn = |prefix: &str| -> Vec<Drawn> {
        let kept: Vec<_> = rows.iter().zip(played).filter(|(row, _)| row.case.subset.starts_with(prefix)).collect();
        let weight = 1.0 / kept.len() as f64;
        let row = |(row, games): &(&Answered, &Vec<Option<Decision>>)| Drawn {
            value: credit(games),
            weight,
            stratum: 0,
            cluster: row.case.prompt,
        };
        kept.iter().map(row).collect()
    };
    let present = GROUPS.iter().filter(|(_, prefix)| rows.iter().any(|row| row.case.subset.starts_with(prefix)));
    let parts = present.map(|(group, prefix)| Figure::of(*group, &drawn(prefix))).collect();
    Reading { name, rule, headline: Figure::of("all pairs", &drawn("")), parts, subsets: Vec::new() }
}
