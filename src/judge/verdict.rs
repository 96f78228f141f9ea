//! The verdict of a judgement: parsed from the judge's text, or a typed reason why there is none.
//!
//! A judgement is `<rubrics>` (one rubric per line) `</rubrics> <eval>…</eval> <answer>N</answer>`, each tag exactly once,
//! in this order, the answer last. Where only the primary rubrics count, it has no section of them; of two responses, the
//! answer is A for the first or B for the second. A failure is never a number: it is counted, and left out of every mean.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::form::{JudgeMode, RubricMode};
use crate::setting::{Finding, Relations, Rule, Severity, count, number, section};

/// Which of two responses a pairwise judgement prefers, in the order they were shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    First,
    Second,
}

/// The result of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A score within the rules' range.
    Score(f64),
    /// A preference, in pairwise mode.
    Prefer(Side),
    Failed(Failure),
}

/// Why a judgement has no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// A tag is missing, misplaced or repeated, a section is empty or too long, or there is text outside the sections.
    Malformed,
    /// The tags are right, but the answer is no score that the rules allow, or no preference.
    OutOfRange,
    /// The length limit cut the text before the answer was complete.
    Truncated,
    /// There is no text.
    Missing,
    /// The judge could not be reached. The policy did not cause that, so it is neither rewarded nor penalised.
    Unavailable,
}

section! {
    /// What counts as a verdict.
    pub struct VerdictRules {
        /// Lowest score.
        pub min: f64 = 1.0 => number(-SCORE_MAX, SCORE_MAX);
        /// Highest score.
        pub max: f64 = 10.0 => number(-SCORE_MAX, SCORE_MAX);
        /// Allows up to three digits after the point, which is the precision of the rewards' arithmetic.
        pub decimals: bool = false => Rule::Flag;
        /// Requires the sections `<rubrics>` and `<eval>`, in order and not empty. If off, any text may precede the answer.
        pub require_sections: bool = true => Rule::Flag;
        /// The most rubrics (lines that are not blank) in `<rubrics>`; 0: any number.
        pub max_rubrics: usize = 3 => count(0, 1000);
    }
}

/// The most digits after the point of a score.
const DECIMALS: usize = 3;
/// The largest magnitude of a score. Up to here, an f32 (the type in the op `score_margin`) distinguishes thousandths.
const SCORE_MAX: f64 = 1000.0;

impl Copy for VerdictRules {}

impl Relations for VerdictRules {
    fn relations(&self) -> Vec<Finding> {
        let Self { min, max, decimals, .. } = *self;
        let refused = |reason: &str| vec![Finding::new(Severity::Refused, &["min", "max"], reason)];
        // How many scores there are to choose from, in units of the smallest digit that is allowed.
        let scale = if decimals { 1000.0 } else { 1.0 };
        match (max * scale).floor() - (min * scale).ceil() {
            _ if min >= max => refused("scores need min < max"),
            steps if steps < 1.0 && decimals => refused("fewer than two scores of three decimals lie between them"),
            steps if steps < 1.0 => {
                refused("fewer than two whole numbers lie between them: widen the range, or set decimals = true")
            }
            _ => Vec::new(),
        }
    }
}

/// How a judgement is read: what follows from a judge's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JudgementFormat {
    pub rules: VerdictRules,
    pub mode: JudgeMode,
    pub rubrics: RubricMode,
}

impl JudgementFormat {
    /// The tags that a judgement needs.
    fn tags(&self) -> &'static [&'static str] {
        match (self.rules.require_sections, self.rubrics.generates()) {
            (true, true) => &TAGS,
            (true, false) => &TAGS[2..],
            (false, _) => &TAGS[4..],
        }
    }
}

/// What a judgement says beside its verdict. Both are empty where tags are missing or misplaced, and where sections are not
/// required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sections {
    /// The rubrics that the judge wrote, one a line, without white space around them.
    pub rubrics: Vec<String>,
    pub evaluation: String,
}

/// The tags of a judgement, in their order.
pub(super) const TAGS: [&str; 6] = ["<rubrics>", "</rubrics>", "<eval>", "</eval>", "<answer>", "</answer>"];
/// Those of its thoughts.
pub(super) const THINK: [&str; 2] = ["<think>", "</think>"];

/// What a prompt opens and leaves to the judge to close, from how the prompt ends: `<think>\n` for models that always think,
/// usually nothing. A block that the prompt opens and closes itself is none.
pub(super) fn opened(end_of_prompt: &str) -> &str {
    let openings = [THINK[0], TAGS[0], TAGS[2], TAGS[4]];
    let tag = openings.iter().find(|tag| end_of_prompt.trim_end().ends_with(*tag));
    tag.and_then(|tag| end_of_prompt.rfind(tag)).map_or("", |at| &end_of_prompt[at..])
}

impl Verdict {
    /// Parses a judgement. `finished` says that generation ended with an end-of-text token and not at its limit.
    /// A block `<think>…</think>` at the start is skipped. It takes time linear in the text, and never panics.
    pub fn parse(text: &str, finished: bool, format: &JudgementFormat) -> Self {
        Self::parse_after("", text, finished, format).0
    }

    /// The same with the sections, for a text whose beginning stands in the prompt: `opened` is usually empty, and `<think>` for
    /// models whose chat template opens their thoughts.
    pub fn parse_after(opened: &str, text: &str, finished: bool, format: &JudgementFormat) -> (Self, Sections) {
        match (opened, text.trim()) {
            (_, "") => (Self::Failed(Failure::Missing), Sections::default()),
            ("", text) => read(text, finished, format),
            (opened, text) => read(format!("{opened}{text}").trim_start(), finished, format),
        }
    }

    /// The verdict as a number: a score; of a preference, 1 for the first response and 0 for the second, so that a mean over
    /// votes is the share that prefers the first. `None` for a failure.
    pub fn score(&self) -> Option<f64> {
        match self {
            Self::Score(score) => Some(*score),
            Self::Prefer(Side::First) => Some(1.0),
            Self::Prefer(Side::Second) => Some(0.0),
            Self::Failed(_) => None,
        }
    }

    /// The name in rows: `score`, `first` or `second` for a preference, or that of the failure.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Score(_) => "score",
            Self::Prefer(Side::First) => "first",
            Self::Prefer(Side::Second) => "second",
            Self::Failed(failure) => failure.name(),
        }
    }

    /// Why there is no verdict; `None` where there is one.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Failed(failure) => Some(*failure),
            _ => None,
        }
    }
}

impl Failure {
    /// The name in metrics: `malformed`, `out_of_range`, …
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OutOfRange => "out_of_range",
            Self::Truncated => "truncated",
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Reads a text without white space around it.
fn read(text: &str, finished: bool, format: &JudgementFormat) -> (Verdict, Sections) {
    match parts(text, finished, format) {
        Err(failure) => (Verdict::Failed(failure), Sections::default()),
        Ok((sections, answer)) => {
            let verdict = match format.mode {
                JudgeMode::Pointwise => score(answer, &format.rules).map(Verdict::Score),
                JudgeMode::Pairwise => preference(answer).map(Verdict::Prefer),
            };
            (verdict.unwrap_or(Verdict::Failed(Failure::OutOfRange)), sections)
        }
    }
}

/// The sections and the answer of a judgement whose tags are right.
fn parts<'a>(text: &'a str, finished: bool, format: &JudgementFormat) -> Result<(Sections, &'a str), Failure> {
    // An incomplete text is truncated if it reached the length limit, and malformed otherwise.
    let short = if finished { Failure::Malformed } else { Failure::Truncated };
    let text = match text.strip_prefix(THINK[0]) {
        Some(thoughts) => thoughts.split_once(THINK[1]).ok_or(short)?.1.trim_start(),
        None => text,
    };
    let wanted = format.tags();
    let tags = tags(text, wanted)?;
    if tags.len() < wanted.len() {
        return Err(short);
    }
    let [open, close] = [&tags[tags.len() - 2], &tags[tags.len() - 1]];
    if close.end != text.len() {
        return Err(Failure::Malformed);
    }
    let sections = if format.rules.require_sections {
        sections(text, &tags, &format.rules).ok_or(Failure::Malformed)?
    } else {
        Sections::default()
    };
    Ok((sections, text[open.end..close.start].trim()))
}

/// Finds the `wanted` tags, each at most once and in order; anything else is malformed. The last ones may be missing.
fn tags(text: &str, wanted: &[&str]) -> Result<Vec<Range<usize>>, Failure> {
    let mut found = Vec::with_capacity(wanted.len());
    for (at, _) in text.match_indices('<') {
        if let Some(tag) = wanted.iter().position(|tag| text[at..].starts_with(tag)) {
            if tag != found.len() {
                return Err(Failure::Malformed);
            }
            found.push(at..at + wanted[tag].len());
        }
    }
    Ok(found)
}

/// The sections, if none is empty and there is no text before, between or after them. `tags`: those of the rubrics, if the judge
/// writes some, of the evaluation and of the answer.
fn sections(text: &str, tags: &[Range<usize>], rules: &VerdictRules) -> Option<Sections> {
    let inside = |pair: usize| text[tags[2 * pair].end..tags[2 * pair + 1].start].trim();
    let count = tags.len() / 2;
    let blank = |range: Range<usize>| text[range].trim().is_empty();
    let outside = (0..count).all(|pair| {
        let before = pair.checked_sub(1).map_or(0, |before| tags[2 * before + 1].end);
        blank(before..tags[2 * pair].start)
    });
    let evaluation = inside(count - 2);
    let rubrics: Vec<String> = match count {
        3 => inside(0).lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect(),
        _ => Vec::new(),
    };
    let rubrics_fit =
        count < 3 || (!rubrics.is_empty() && (rules.max_rubrics == 0 || rubrics.len() <= rules.max_rubrics));
    (rubrics_fit && outside && !evaluation.is_empty()).then(|| Sections { rubrics, evaluation: evaluation.to_string() })
}

/// A preference is one letter.
fn preference(text: &str) -> Option<Side> {
    match text {
        "A" => Some(Side::First),
        "B" => Some(Side::Second),
        _ => None,
    }
}

/// A score in plain notation: digits without a leading zero and, where allowed, a point and up to three more.
fn score(text: &str, rules: &VerdictRules) -> Option<f64> {
    let (unsigned, sign) = match text.strip_prefix('-') {
        Some(rest) if rules.min < 0.0 => (rest, -1.0),
        _ => (text, 1.0),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let whole = match unsigned.split_once('.') {
        Some((whole, fraction)) if rules.decimals && digits(fraction) && fraction.len() <= DECIMALS => whole,
        Some(_) => return None,
        None => unsigned,
    };
    if !digits(whole) || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let score = sign * unsigned.parse::<f64>().ok()?;
    (rules.min..=rules.max).contains(&score).then_some(score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::Valid;
    use proptest::prelude::*;

    const GOOD: &str =
        "<rubrics>\n- follows the request\n- is brief\n</rubrics>\n<eval>\nBoth hold.\n</eval>\n<answer>8</answer>";

    fn parse(text: &str) -> Verdict {
        Verdict::parse(text, true, &JudgementFormat::default())
    }

    fn with(rules: VerdictRules) -> JudgementFormat {
        JudgementFormat { rules, ..JudgementFormat::default() }
    }

    fn failed(text: &str, failure: Failure) {
        assert_eq!(parse(text), Verdict::Failed(failure), "{text}");
    }

    #[test]
    fn a_judgement_is_read() {
        for (text, score) in [
            (GOOD.to_string(), 8.0),
            (format!("\n{GOOD} \n\n"), 8.0),
            (GOOD.replace('8', " 10\n"), 10.0),
            (GOOD.replace('8', "1"), 1.0),
            (GOOD.replace("Both", "a < b, 3 <eva and <b>Both</b>"), 8.0),
            (format!("<think>\nan <answer>3</answer>?\n</think>\n\n{GOOD}"), 8.0),
        ] {
            assert_eq!(parse(&text), Verdict::Score(score), "{text}");
        }
        // Cut right after the answer: the answer is there.
        assert_eq!(Verdict::parse(GOOD, false, &JudgementFormat::default()), Verdict::Score(8.0));
    }

    #[test]
    fn what_the_prompt_opened_counts() {
        let always = "<|im_start|>assistant\n<think>\n";
        assert_eq!(opened(always), "<think>\n");
        assert_eq!(opened("<|im_start|>assistant\n<think>\n\n</think>\n\n"), "");
        assert_eq!(opened("<|im_start|>assistant\n<think>\n\n</think>\n\n<rubrics>\n"), "<rubrics>\n");
        assert_eq!(opened("<|im_start|>assistant\n"), "");
        assert_eq!(opened("Reasoning in <think>: off<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"), "");
        let format = JudgementFormat::default();
        let after = |opened: &str, text: &str, finished| Verdict::parse_after(opened, text, finished, &format).0;
        for (opened, text) in [
            ("<think>\n", format!("is it an <answer>3</answer>?\n</think>\n\n{GOOD}")),
            ("<think>\n", format!("</think>{GOOD}")),
            ("<think>", format!("<think>\nagain</think>{GOOD}")),
            ("<rubrics>\n", GOOD["<rubrics>\n".len()..].to_string()),
        ] {
            assert_eq!(after(opened, &text, true), Verdict::Score(8.0), "{opened}{text}");
        }
        assert_eq!(after("<think>\n", GOOD, true), Verdict::Failed(Failure::Malformed), "the thoughts never end");
        assert_eq!(after("<think>\n", "well, it is", false), Verdict::Failed(Failure::Truncated));
        assert_eq!(after("<think>\n", " ", true), Verdict::Failed(Failure::Missing));
        assert_eq!(after("", &format!("thoughts</think>\n{GOOD}"), true), Verdict::Failed(Failure::Malformed));
    }

    #[test]
    fn tags_must_be_there_once_and_in_order() {
        for tag in TAGS {
            failed(&GOOD.replace(tag, ""), Failure::Malformed);
            failed(&GOOD.replace(tag, &format!("{tag}{tag}")), Failure::Malformed);
            failed(&GOOD.replace(tag, &tag.to_uppercase()), Failure::Malformed);
            failed(&format!("{tag}{GOOD}"), Failure::Malformed);
        }
        failed(&format!("Sure. {GOOD}"), Failure::Malformed);
        failed(&format!("{GOOD} Done."), Failure::Malformed);
        failed(&format!("{GOOD}\n<answer>9</answer>"), Failure::Malformed);
        failed(&format!("{GOOD}{GOOD}"), Failure::Malformed);
        failed(&GOOD.replace("<answer>8", "so <answer>8"), Failure::Malformed);
        failed(&GOOD.replace("<eval>\nBoth", "and <eval>Both"), Failure::Malformed);
        failed("<answer>8</answer>", Failure::Malformed);
        failed("8", Failure::Malformed);
        failed(&format!("<think>{GOOD}"), Failure::Malformed);
    }

    #[test]
    fn sections_must_not_be_empty() {
        failed(&GOOD.replace("Both hold.", " "), Failure::Malformed);
        failed(&GOOD.replace("- follows the request\n- is brief", ""), Failure::Malformed);
        failed(&GOOD.replace("- is brief", "- a\n- b\n\n- c"), Failure::Malformed);
        assert_eq!(parse(&GOOD.replace("- is brief", "- a\n- b")), Verdict::Score(8.0));
        let any = with(VerdictRules { max_rubrics: 0, ..VerdictRules::default() });
        assert_eq!(Verdict::parse(&GOOD.replace("- is brief", "a\nb\nc\nd"), true, &any), Verdict::Score(8.0));
        let bare = with(VerdictRules { require_sections: false, ..VerdictRules::default() });
        assert_eq!(Verdict::parse("I say </eval> <answer>8</answer>", true, &bare), Verdict::Score(8.0));
        assert_eq!(Verdict::parse("<answer>8</answer>.", true, &bare), Verdict::Failed(Failure::Malformed));
        assert_eq!(Verdict::parse("8", true, &bare), Verdict::Failed(Failure::Malformed));
    }

    #[test]
    fn scores_follow_the_rules() {
        for answer in
            ["0", "11", "-3", "+8", "8.5", "8.0", "8.", "08", "8/10", "eight", "", "NaN", "inf", "1e1", "٨", "8 9"]
        {
            failed(&GOOD.replace('8', answer), Failure::OutOfRange);
        }
        failed(&GOOD.replace('8', &"9".repeat(5000)), Failure::OutOfRange);
        let rules = with(VerdictRules { decimals: true, min: -2.0, ..VerdictRules::default() });
        for (answer, score) in [("8.5", Some(8.5)), ("9.125", Some(9.125)), ("8", Some(8.0)), ("0.5", Some(0.5))] {
            assert_eq!(Verdict::parse(&GOOD.replace('8', answer), true, &rules).score(), score);
        }
        for (answer, score) in [("-1.5", Some(-1.5)), ("8.1234", None), (".5", None), ("10.001", None), ("--1", None)] {
            assert_eq!(Verdict::parse(&GOOD.replace('8', answer), true, &rules).score(), score);
        }
    }

    #[test]
    fn a_cut_text_is_truncated_wherever_it_was_cut() {
        failed("", Failure::Missing);
        failed(" \n", Failure::Missing);
        for end in 1..GOOD.len() {
            let verdict = Verdict::parse(&GOOD[..end], false, &JudgementFormat::default());
            assert_eq!(verdict, Verdict::Failed(Failure::Truncated), "{}", &GOOD[..end]);
            failed(&GOOD[..end], Failure::Malformed);
        }
        let garbage = Verdict::parse("<answer>8</answer> and on", false, &JudgementFormat::default());
        assert_eq!(garbage, Verdict::Failed(Failure::Malformed));
    }

    #[test]
    fn rules_are_checked() {
        let valid = |min, max, decimals| Valid::new(VerdictRules { min, max, decimals, ..VerdictRules::default() });
        for (min, max) in [(5.0, 5.0), (f64::NAN, 1.0), (0.0, f64::INFINITY), (-1e9, 0.0), (0.2, 1.8), (2.0, 2.0001)] {
            assert!(valid(min, max, false).is_err(), "{min} {max}");
        }
        for (min, max, decimals) in [(1.0, 10.0, false), (0.2, 1.8, true), (0.5, 2.5, false), (-1.0, 0.0, false)] {
            assert!(valid(min, max, decimals).is_ok(), "{min} {max}");
        }
        assert!(valid(2.0, 2.0001, true).is_err());
    }

    /// Text of tags, numbers and noise, which is more often almost right than random characters.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            proptest::sample::select(TAGS.to_vec()).prop_map(str::to_string),
            proptest::sample::select(vec!["8", "10", "4.5", "\n", " ", "<think>", "</think>", "<", "é"])
                .prop_map(str::to_string),
            ".{0,6}",
        ];
        proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    /// Checks what must hold for any text.
    fn holds_for(text: &str, finished: bool, format: &JudgementFormat) {
        let rules = &format.rules;
        let (verdict, sections) = Verdict::parse_after("", text, finished, format);
        let answer = || {
            let answer = text.rfind("<answer>").expect("a verdict has its tag");
            text[answer + 8..text.rfind("</answer>").expect("a verdict has its tag")].trim()
        };
        match verdict {
            Verdict::Score(score) => {
                assert_eq!(format.mode, JudgeMode::Pointwise);
                assert!((rules.min..=rules.max).contains(&score));
                assert!(rules.decimals || score.fract() == 0.0);
                assert_eq!(answer().parse::<f64>().ok(), Some(score));
            }
            Verdict::Prefer(side) => {
                assert_eq!(format.mode, JudgeMode::Pairwise);
                assert_eq!(answer(), if side == Side::First { "A" } else { "B" });
            }
            Verdict::Failed(Failure::Missing) => assert!(text.trim().is_empty()),
            Verdict::Failed(Failure::Truncated) => assert!(!finished),
            Verdict::Failed(Failure::Unavailable) => panic!("there is a text"),
            Verdict::Failed(_) => {}
        }
        if verdict.score().is_some() {
            assert!(text.trim_end().ends_with("</answer>"));
            assert_eq!(sections.evaluation.is_empty(), !rules.require_sections);
            let writes = rules.require_sections && format.rubrics.generates();
            assert_eq!(sections.rubrics.is_empty(), !writes);
            assert!(rules.max_rubrics == 0 || sections.rubrics.len() <= rules.max_rubrics);
        }
    }

    fn format() -> impl Strategy<Value = JudgementFormat> {
        let modes = prop_oneof![Just(JudgeMode::Pointwise), Just(JudgeMode::Pairwise)];
        let rubrics = prop_oneof![Just(RubricMode::Both), Just(RubricMode::Primary), Just(RubricMode::Generated)];
        (any::<bool>(), any::<bool>(), modes, rubrics).prop_map(|(require_sections, decimals, mode, rubrics)| {
            let rules = VerdictRules { require_sections, decimals, ..VerdictRules::default() };
            JudgementFormat { rules, mode, rubrics }
        })
    }

    /// `PATARM_CASES` raises the number of cases.
    fn cases() -> ProptestConfig {
        let asked = std::env::var("PATARM_CASES").ok().and_then(|text| text.parse().ok());
        ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(asked.unwrap_or(256)) }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn any_text_has_a_verdict(text in any::<String>(), tagged in pieces(), finished: bool, format in format()) {
            holds_for(&text, finished, &format);
            holds_for(&tagged, finished, &format);
        }

        #[test]
        fn any_mutation_of_a_judgement_has_a_verdict(
            edits in proptest::collection::vec((0..GOOD.len(), 0..GOOD.len(), pieces()), 1..4),
            finished: bool,
            format in format(),
        ) {
            let mut text = of(&format);
            prop_assert!(Verdict::parse(&text, finished, &format).score().is_some());
            for (from, to, insert) in edits {
                let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
                let (from, to) = (boundary(from.min(to)), boundary(from.max(to)));
                text.replace_range(from..to, &insert);
            }
            holds_for(&text, finished, &format);
        }

        #[test]
        fn any_filling_of_the_sections_is_read(rubric in "[^<\n]*[a-z]", eval in "[^<]*[a-z]", score in 1u32..=10) {
            let text = format!("<rubrics>{rubric}</rubrics><eval>{eval}</eval><answer>{score}</answer>");
            let (verdict, sections) = Verdict::parse_after("", &text, true, &JudgementFormat::default());
            prop_assert_eq!(verdict, Verdict::Score(f64::from(score)));
            prop_assert_eq!(sections.evaluation.as_str(), eval.trim());
            prop_assert!(sections.rubrics.iter().all(|line| rubric.contains(line.as_str())));
        }
    }

    /// A judgement that a format allows.
    fn of(format: &JudgementFormat) -> String {
        let text = if format.mode == JudgeMode::Pairwise { GOOD.replace('8', "B") } else { GOOD.to_string() };
        if format.rubrics.generates() { text } else { text[text.find("<eval>").unwrap()..].to_string() }
    }

    #[test]
    fn every_mode_has_its_own_format() {
        let read = |text: &str, mode, rubrics| {
            Verdict::parse_after("", text, true, &JudgementFormat { mode, rubrics, ..JudgementFormat::default() })
        };
        let (verdict, sections) = read(GOOD, JudgeMode::Pointwise, RubricMode::Both);
        assert_eq!(verdict, Verdict::Score(8.0));
        assert_eq!(sections.rubrics, ["- follows the request", "- is brief"]);
        assert_eq!(sections.evaluation, "Both hold.");
        assert_eq!(read(GOOD, JudgeMode::Pointwise, RubricMode::Generated).0, Verdict::Score(8.0));
        // Without rubrics of its own, a judgement has no section of them.
        let malformed = (Verdict::Failed(Failure::Malformed), Sections::default());
        assert_eq!(read(GOOD, JudgeMode::Pointwise, RubricMode::Primary), malformed);
        let primary = &GOOD[GOOD.find("<eval>").unwrap()..];
        let (verdict, sections) = read(primary, JudgeMode::Pointwise, RubricMode::Primary);
        assert_eq!((verdict, sections.rubrics.len()), (Verdict::Score(8.0), 0));
        assert_eq!(read(primary, JudgeMode::Pointwise, RubricMode::Both), malformed);
        let prefers = |answer: &str| read(&GOOD.replace('8', answer), JudgeMode::Pairwise, RubricMode::Both).0;
        assert_eq!([prefers("A"), prefers(" B\n")], [Verdict::Prefer(Side::First), Verdict::Prefer(Side::Second)]);
        assert_eq!([prefers("A").score(), prefers("B").score()], [Some(1.0), Some(0.0)]);
        for answer in ["8", "a", "C", "AB", "A or B", "tie", ""] {
            assert_eq!(prefers(answer), Verdict::Failed(Failure::OutOfRange), "{answer}");
        }
        assert_eq!(
            read(&GOOD.replace('8', "A"), JudgeMode::Pointwise, RubricMode::Both).0.failure(),
            Some(Failure::OutOfRange)
        );
    }
}
