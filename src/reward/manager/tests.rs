//! Tests of the manager: identity, order, and the rules of the Preference-Aware Reward.

use proptest::prelude::*;

use super::*;
use crate::judge::{JudgeMode, JudgementFormat, RubricMode, Side};
use crate::ops::Cpu;
use crate::ops::score_margin::{AdvantageNorm, MarginKind};
use crate::reward::Shape;

fn judgement(pair: u64, role: Role, rollout: u32, verdict: Verdict) -> Judgement {
    Judgement { pair, role, rollout, verdict }
}

fn side(pair: u64, role: Role, scores: &[f64]) -> Vec<Judgement> {
    (0..).zip(scores).map(|(i, score)| judgement(pair, role, i, Verdict::Score(*score))).collect()
}

fn reward(settings: RewardSettings, n: usize, judgements: &[Judgement]) -> Rewards {
    let mut manager = PairRewardManager::new(Valid::new(settings).unwrap(), JudgeMode::Pointwise, n);
    for judgement in judgements {
        manager.add(*judgement).unwrap();
    }
    manager.finish(&Cpu).unwrap()
}

fn earned(rewards: &Rewards, role: Role) -> Vec<f32> {
    rewards.judgements.iter().filter(|r| r.role == role).map(|r| r.reward).collect()
}

#[test]
fn the_worked_example() {
    let mut judgements = side(7, Role::Chosen, &[8.0, 7.0, 6.0, 5.0]);
    judgements.extend(side(7, Role::Rejected, &[6.0, 6.0, 4.0, 4.0]));
    let rewards = reward(RewardSettings::default(), 4, &judgements);
    assert_eq!(earned(&rewards, Role::Chosen), [1.4, 1.2, 1.2, 0.0]);
    assert_eq!(earned(&rewards, Role::Rejected), [1.2, 1.2, 1.4, 1.4]);
    assert_eq!(rewards.margins, [Margin { pair: 7, mean_chosen: Some(6.5), mean_rejected: Some(5.0) }]);
    let deltas: Vec<_> = rewards.judgements.iter().map(|r| r.delta.unwrap()).collect();
    assert_eq!(deltas, [3.0, 2.0, 1.0, 0.0, 0.5, 0.5, 2.5, 2.5]);
    let expected = 0.1 / (0.04f64 / 3.0).sqrt();
    for (rewarded, sign) in rewards.judgements[4..].iter().zip([-1.0, -1.0, 1.0, 1.0]) {
        assert!((f64::from(rewarded.advantage) - sign * expected).abs() < 2e-5, "{rewarded:?}");
    }
    let health = &rewards.health;
    assert_eq!((health.valid, health.margin_mean, health.pair_accuracy), (1.0, Some(1.5), 1.0));
    assert_eq!([health.tier_none, health.tier_low, health.tier_high], [0.125, 0.5, 0.375]);
    assert_eq!((health.score_mean, health.dead_groups), ([Some(6.5), Some(5.0)], [0.0, 0.0]));
    assert!(rewards.is_alive(7) && !rewards.is_alive(8));
}

#[test]
fn if_one_side_has_no_score_nobody_gets_a_reward() {
    let mut judgements = side(1, Role::Chosen, &[9.0, 10.0]);
    judgements.push(judgement(1, Role::Rejected, 0, Verdict::Failed(Failure::OutOfRange)));
    judgements.push(judgement(1, Role::Rejected, 1, Verdict::Failed(Failure::Truncated)));
    let rewards = reward(RewardSettings::default(), 2, &judgements);
    assert_eq!(earned(&rewards, Role::Chosen), [0.0, 0.0]);
    assert_eq!(earned(&rewards, Role::Rejected), [-1.0, -1.5]);
    assert!(rewards.judgements.iter().all(|r| r.delta.is_none() && r.par == 0.0));
    assert_eq!(rewards.margins, [Margin { pair: 1, mean_chosen: Some(9.5), mean_rejected: None }]);
    assert_eq!((rewards.health.margin_mean, rewards.health.dead_groups), (None, [1.0, 0.0]));
    assert_eq!([rewards.health.valid, rewards.health.out_of_range, rewards.health.truncated], [0.5, 0.25, 0.25]);
    assert!(rewards.is_alive(1), "the failures differ");
}

#[test]
fn failures_are_left_out_of_the_mean() {
    let mut judgements = side(1, Role::Chosen, &[6.0]);
    judgements.push(judgement(1, Role::Rejected, 0, Verdict::Score(5.0)));
    judgements.push(judgement(1, Role::Rejected, 1, Verdict::Failed(Failure::Malformed)));
    judgements.push(judgement(1, Role::Rejected, 2, Verdict::Failed(Failure::Unavailable)));
    let rewards = reward(RewardSettings::default(), 3, &judgements);
    assert_eq!(earned(&rewards, Role::Chosen), [1.2]);
    assert_eq!(earned(&rewards, Role::Rejected), [1.2, -1.5, 0.0]);
    let unavailable = rewards.judgements[3];
    assert_eq!((unavailable.advantage, unavailable.penalty), (0.0, 0.0), "the policy did not cause it");
    assert!(rewards.judgements[1].advantage > 0.0 && rewards.judgements[2].advantage < 0.0);
    assert_eq!(rewards.judgements[0].advantage, 0.0, "a group of one");
}

#[test]
fn unknown_and_duplicate_judgements_are_refused() {
    let mut manager = PairRewardManager::new(Valid::default(), JudgeMode::Pointwise, 2).expecting([1, 2]);
    let good = judgement(1, Role::Chosen, 1, Verdict::Score(5.0));
    manager.add(good).unwrap();
    assert!(matches!(manager.add(good), Err(RewardError::Duplicate { pair: 1, role: Role::Chosen, rollout: 1 })));
    assert!(matches!(manager.add(Judgement { pair: 3, ..good }), Err(RewardError::UnknownPair { pair: 3 })));
    let out_of_range = manager.add(Judgement { rollout: 2, ..good }).unwrap_err();
    assert!(out_of_range.to_string().contains("rollout 2 is out of range; expected 0 to 1"), "{out_of_range}");
    let pairwise = Judgement { rollout: 0, verdict: Verdict::Prefer(Side::First), ..good };
    assert!(matches!(manager.add(pairwise), Err(RewardError::OtherMode { .. })));
    assert_eq!(manager.finish(&Cpu).unwrap().judgements.len(), 1, "refused judgements are not kept");
    assert!(matches!(
        PairRewardManager::new(Valid::default(), JudgeMode::Pointwise, 65).finish(&Cpu),
        Err(RewardError::Settings(_))
    ));
    let settings = RewardSettings { low: f64::NAN, ..RewardSettings::default() };
    assert!(Valid::new(settings).unwrap_err().to_string().contains("`low`"));
}

#[test]
fn no_judgements_give_no_rewards() {
    let rewards = reward(RewardSettings::default(), 8, &[]);
    assert_eq!((rewards.judgements.len(), rewards.margins.len(), rewards.health), (0, 0, Health::default()));
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        4 => (1u32..=10).prop_map(|score| Verdict::Score(f64::from(score))),
        2 => (1000u32..=10_000).prop_map(|score| Verdict::Score(f64::from(score) / 1000.0)),
        1 => Just(Verdict::Failed(Failure::Malformed)),
        1 => Just(Verdict::Failed(Failure::OutOfRange)),
        1 => Just(Verdict::Failed(Failure::Unavailable)),
    ]
}

const N: usize = 5;

/// A few pairs, some of whose judgements are missing.
fn judgements() -> impl Strategy<Value = Vec<Judgement>> {
    let side = || proptest::collection::vec(proptest::option::weighted(0.8, verdict()), N);
    proptest::collection::vec((side(), side()), 1..5).prop_map(|pairs| {
        let mut all = Vec::new();
        for (pair, (chosen, rejected)) in (0..).zip(pairs) {
            for (role, side) in [(Role::Chosen, chosen), (Role::Rejected, rejected)] {
                let there = (0..).zip(side).filter_map(|(i, verdict)| Some(judgement(pair, role, i, verdict?)));
                all.extend(there);
            }
        }
        all
    })
}

fn settings() -> impl Strategy<Value = RewardSettings> {
    let shape = prop_oneof![Just(Shape::Graded), Just(Shape::Constant)];
    let margin = prop_oneof![Just(MarginKind::Rollout), Just(MarginKind::Pair)];
    let norm = prop_oneof![Just(AdvantageNorm::Group), Just(AdvantageNorm::Batch), Just(AdvantageNorm::None)];
    (shape, margin, norm).prop_map(|(shape, margin, advantage)| RewardSettings {
        shape,
        margin,
        advantage,
        ..RewardSettings::default()
    })
}

proptest! {
    #[test]
    fn order_and_names_do_not_matter(
        (original, shuffled) in judgements().prop_flat_map(|j| (Just(j.clone()), Just(j).prop_shuffle())),
        pair_names in Just(vec![40u64, 10, 30, 0, 20]).prop_shuffle(),
        rollout_names in Just((0..N as u32).collect::<Vec<_>>()).prop_shuffle(),
        settings in settings(),
    ) {
        let rename = |j: &Judgement| {
            Judgement { pair: pair_names[j.pair as usize], rollout: rollout_names[j.rollout as usize], ..*j }
        };
        let renamed: Vec<_> = shuffled.iter().map(rename).collect();
        let [before, after] = [&original, &renamed].map(|judgements| reward(settings, N, judgements));
        prop_assert_eq!(before.judgements.len(), after.judgements.len());
        for (judgement, rewarded) in original.iter().zip(&before.judgements) {
            let name = rename(judgement);
            let same = |r: &&Rewarded| (r.pair, r.role, r.rollout) == (name.pair, name.role, name.rollout);
            let other = after.judgements.iter().find(same).expect("the same judgement under its new name");
            prop_assert_eq!(rewarded.verdict, other.verdict);
            let bits = |r: &Rewarded| [r.reward, r.advantage, r.par, r.penalty].map(f32::to_bits);
            prop_assert_eq!(bits(rewarded), bits(other));
            prop_assert_eq!(rewarded.delta.map(f32::to_bits), other.delta.map(f32::to_bits));
        }
    }

    #[test]
    fn garbage_never_earns_more_than_a_verdict(
        judgements in judgements(),
        settings in settings(),
        garbage in ".{0,40}",
        score in 1u32..=10,
    ) {
        // These judgements are parsed from text, so that the test covers everything from text to advantage.
        let format = JudgementFormat::default();
        let text = format!("<rubrics>a</rubrics><eval>b</eval><answer>{score}</answer>");
        let pair = judgements.len() as u64;
        let read = |rollout, text: &str| {
            judgement(pair, Role::Chosen, rollout, Verdict::parse(text, true, &format))
        };
        let mut all = judgements.clone();
        all.extend([read(0, &text), read(1, &format!("{text}{garbage}x")), read(2, &garbage)]);
        all.extend(side(pair, Role::Rejected, &[5.0, 6.0]));
        let rewards = reward(settings, N, &all);
        for group in rewards.judgements.chunk_by(|a, b| (a.pair, a.role) == (b.pair, b.role)) {
            let counts = |r: &&Rewarded| r.verdict.failure() != Some(Failure::Unavailable);
            for failed in group.iter().filter(counts).filter(|r| r.verdict.failure().is_some()) {
                for valid in group.iter().filter(|r| r.verdict.score().is_some()) {
                    prop_assert!(failed.reward < valid.reward);
                    prop_assert!(failed.advantage < valid.advantage);
                }
            }
        }
        prop_assert!(rewards.judgements.iter().any(|r| r.pair == pair && r.verdict.failure().is_some()));
    }

    #[test]
    fn garbage_never_earns_more_than_a_verdict_in_any_mode(
        settings in settings(),
        garbage in ".{0,40}",
        mode in prop_oneof![Just(JudgeMode::Pointwise), Just(JudgeMode::Pairwise)],
        rubrics in prop_oneof![Just(RubricMode::Both), Just(RubricMode::Primary), Just(RubricMode::Generated)],
        right: bool,
    ) {
        let format = JudgementFormat { mode, rubrics, ..JudgementFormat::default() };
        let section = if rubrics.generates() { "<rubrics>a</rubrics>" } else { "" };
        let answer = match (mode, right) {
            (JudgeMode::Pointwise, true) => "9",
            (JudgeMode::Pointwise, false) => "1",
            (JudgeMode::Pairwise, true) => "A",
            (JudgeMode::Pairwise, false) => "B",
        };
        let text = format!("{section}<eval>b</eval><answer>{answer}</answer>");
        let mut manager = PairRewardManager::new(Valid::new(settings).unwrap(), mode, 3);
        let garbled = [text.clone(), format!("{text}{garbage}x"), garbage];
        for (rollout, text) in (0..).zip(&garbled) {
            manager.add(judgement(0, Role::Chosen, rollout, Verdict::parse(text, true, &format))).unwrap();
        }
        let other = if mode == JudgeMode::Pointwise { Verdict::Score(5.0) } else { Verdict::Prefer(Side::First) };
        manager.add(judgement(0, Role::Rejected, 0, other)).unwrap();
        let rewards = manager.finish(&Cpu).unwrap().judgements;
        prop_assert!(rewards[0].verdict.score().is_some());
        for failed in &rewards[1..3] {
            prop_assert!(failed.verdict.failure().is_some());
            prop_assert!(failed.reward < rewards[0].reward && failed.advantage < rewards[0].advantage);
        }
    }

    #[test]
    fn a_reward_needs_a_score_on_both_sides(judgements in judgements(), settings in settings()) {
        let rewards = reward(settings, N, &judgements);
        for rewarded in &rewards.judgements {
            let margin = rewards.margins.iter().find(|m| m.pair == rewarded.pair).unwrap();
            if margin.value().is_none() || rewarded.verdict.score().is_none() {
                prop_assert_eq!((rewarded.par, rewarded.delta), (0.0, None));
            } else {
                prop_assert!(rewarded.delta.is_some());
            }
        }
        let health = &rewards.health;
        let classes = [health.valid, health.malformed, health.out_of_range, health.unavailable];
        let tiers = [health.tier_none, health.tier_low, health.tier_high];
        let whole = if rewards.judgements.is_empty() { 0.0 } else { 1.0 };
        prop_assert!((classes.iter().sum::<f64>() - whole).abs() < 1e-12);
        prop_assert!((tiers.iter().sum::<f64>() - whole).abs() < 1e-12);
    }
}

/// The two orders of a pair stand for its sides, and each preference is right or wrong alone.
#[test]
fn a_right_preference_is_the_reward_whatever_the_other_order_says() {
    use Side::{First, Second};
    let mut manager = PairRewardManager::new(Valid::default(), JudgeMode::Pairwise, 4);
    let prefer = |role, rollout, side| judgement(1, role, rollout, Verdict::Prefer(side));
    for (rollout, side) in (0..).zip([First, First, Second]) {
        manager.add(prefer(Role::Chosen, rollout, side)).unwrap();
        // Always the first: wrong in this order.
        manager.add(prefer(Role::Rejected, rollout, First)).unwrap();
    }
    manager.add(judgement(1, Role::Chosen, 3, Verdict::Failed(Failure::OutOfRange))).unwrap();
    manager.add(prefer(Role::Rejected, 3, Second)).unwrap();
    let score = manager.add(judgement(1, Role::Chosen, 3, Verdict::Score(1.0))).unwrap_err().to_string();
    assert!(score.contains("expected a pairwise verdict, got a pointwise one"), "{score}");
    let rewards = manager.finish(&Cpu).unwrap();
    let earned: Vec<f32> = rewards.judgements.iter().map(|rewarded| rewarded.reward).collect();
    assert_eq!(earned, [1.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]);
    let deltas: Vec<_> = rewards.judgements.iter().map(|rewarded| rewarded.delta).collect();
    assert_eq!(deltas[..5], [Some(0.5), Some(0.5), Some(-0.5), None, Some(-0.5)]);
    // 2 of 3 prefer the chosen response where it is first, 1 of 4 where it is second.
    let margin = rewards.margins[0];
    assert!((margin.mean_chosen.unwrap() - 2.0 / 3.0).abs() < 1e-6 && margin.mean_rejected == Some(0.75));
    assert_eq!(rewards.health.pair_accuracy, 0.0);
    // One order alone is enough.
    let mut alone = PairRewardManager::new(Valid::default(), JudgeMode::Pairwise, 1);
    alone.add(prefer(Role::Rejected, 0, Second)).unwrap();
    assert_eq!(alone.finish(&Cpu).unwrap().judgements[0].reward, 1.0);
}
