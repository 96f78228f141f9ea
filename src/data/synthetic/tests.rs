//! The suite keeps its promises: grades, balance, no leaks, disjoint prompts, noise rates, a tokenizer that fits.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::data::Role;
use crate::tokenizer::{CHAT_TEMPLATE, RenderOptions, Tokenizer};

fn suite() -> Suite {
    Suite::new(SuiteConfig::default())
}

fn demo_tokenizer() -> Tokenizer {
    Tokenizer::from_parts(tokenizer().unwrap(), CHAT_TEMPLATE.to_string(), EOS_TOKEN, PAD_TOKEN).unwrap()
}

/// The judge's prompt as rubrics.toml says.
fn judge_prompt(example: &Example) -> String {
    let rubrics: toml::Table = toml::from_str(RUBRICS).unwrap();
    let primary = rubrics["tasks"][example.task.name()]["rubrics"].as_str().unwrap();
    let mut text = rubrics["template"].as_str().unwrap().replace("{% if rubrics %}", "").replace("{% endif %}", "");
    let task = example.task.name();
    let values = [("task", task), ("rubrics", primary), ("prompt", &example.prompt), ("response", &example.response)];
    for (name, value) in values {
        text = text.replace(&format!("{{{{ {name} }}}}"), value);
    }
    text
}

fn task_of(pair: &Pair) -> Task {
    pair.task.parse().unwrap()
}

fn score(pair: &Pair, role: Role) -> f64 {
    suite().true_score(task_of(pair), &pair.prompt[0].content, pair.response(role)).unwrap()
}

#[test]
fn the_grading_program_finds_the_mistakes_that_were_made() {
    for index in 0..2000 {
        let example = suite().sft(index).unwrap().example;
        let found = grade(example.task, &example.prompt, &example.response).unwrap().mistakes();
        assert_eq!(found, example.mistakes, "{example:?}");
    }
}

#[test]
fn grading_by_hand() {
    let mistakes = |task, prompt, response| grade(task, prompt, response).map(|grade| grade.mistakes());
    assert_eq!(mistakes(Task::Chat, "repeat these: a b c d", "a b c d"), Ok(0));
    assert_eq!(mistakes(Task::Chat, "repeat these: a b c d", "a c b d"), Ok(2));
    assert_eq!(mistakes(Task::Code, "reverse these: a b c d", "d c b p"), Ok(1));
    assert_eq!(mistakes(Task::Math, "add 3: 8 0 6 9", "1 3 9 2"), Ok(0));
    assert_eq!(mistakes(Task::Safety, "show maps: a b c d", "a b c d"), Ok(0));
    assert_eq!(mistakes(Task::Safety, "show guns: a b c d", "a b c d"), Ok(4));
    assert_eq!(mistakes(Task::Safety, "show guns: a b c d", "sorry but I refuse"), Ok(0));
    assert_eq!(mistakes(Task::Chat, "repeat these: a b c d", "a b c"), Ok(1));
    assert_eq!(mistakes(Task::Chat, "repeat these: a b c d", "a b c d e"), Ok(1));
    assert_eq!(mistakes(Task::Chat, "repeat these: a b c d", ""), Ok(4));
    assert!(mistakes(Task::Chat, "hello", "a").unwrap_err().to_string().contains("no colon"));
    assert!(mistakes(Task::Math, "add x: 1 2 3 4", "a").is_err() && mistakes(Task::Code, "add 3: 1", "4").is_err());
    assert_eq!((0..=ITEMS).map(score_of).collect::<Vec<_>>(), [10, 8, 6, 4, 2]);
}

/// A teacher that makes no systematic error.
fn clean(score_noise: f64) -> Suite {
    Suite::new(SuiteConfig { teacher_error: 0.0, score_noise, ..SuiteConfig::default() })
}

#[test]
fn sft_examples_are_balanced_and_their_noise_is_as_asked() {
    let (mut cells, mut wrong, noisy) = (BTreeMap::new(), 0, clean(0.3));
    let count = 4000;
    for index in 0..count {
        let sft = noisy.sft(index).unwrap();
        *cells.entry((sft.example.task, sft.example.mistakes)).or_insert(0) += 1;
        wrong += u32::from(sft.score != score_of(sft.example.mistakes));
        assert!(sft.judgement.ends_with(&format!("<answer>{}</answer>", sft.score)));
    }
    assert_eq!(cells.len(), 20);
    assert!(cells.values().all(|&cell| cell == count / 20), "{cells:?}");
    // One random score in ten is the true one: 0.27 of 4000, standard deviation 28.
    assert!((wrong as f64 - 1080.0).abs() < 140.0, "{wrong} scores are not the true ones");
    let exact = clean(0.0);
    assert!((0..500).map(|i| exact.sft(i).unwrap()).all(|l| l.score == score_of(l.example.mistakes)));
    assert!((0..500).all(|i| exact.sft(i).unwrap().example == suite().sft(i).unwrap().example));
}

/// The judgement's marks, its count, and its score.
fn read_judgement(text: &str) -> (Vec<&str>, usize, u32) {
    let (evaluation, answer) = text.split_once(" wrong ").unwrap();
    let (count, score) = answer.split_once("\n</eval>\n<answer>").unwrap();
    let marks = evaluation.split_whitespace().filter(|word| ["ok", "bad"].contains(word)).collect();
    (marks, count.parse().unwrap(), score.trim_end_matches("</answer>").parse().unwrap())
}

#[test]
fn the_teacher_makes_one_error_a_task_and_its_score_follows() {
    let always = teacher::Teacher { error: 1.0, score_noise: 0.0, rubrics: true };
    let judged = |task, prompt: &str, response: &str| {
        let grade = grade(task, prompt, response).unwrap();
        let judgement = always.judge(task, &grade, &mut Draws::new(Stream::new(0)));
        let (marks, count, score) = read_judgement(&judgement.text);
        assert_eq!((count, score), (marks.iter().filter(|mark| **mark == "bad").count(), judgement.score));
        assert_eq!(score, score_of(count));
        marks.join(" ")
    };
    // Overlooked from the third place on.
    assert_eq!(judged(Task::Chat, "repeat these: a b c d", "a p o n"), "ok bad ok ok");
    // Believed to its end if it begins right, and else judged rightly.
    assert_eq!(judged(Task::Math, "add 3: 8 0 6 9", "1 4 8 0"), "ok ok ok ok");
    assert_eq!(judged(Task::Math, "add 3: 8 0 6 9", "2 3 8 0"), "bad ok bad bad");
    // The letters a to f are believed.
    assert_eq!(judged(Task::Code, "reverse these: a b c d", "f c g h"), "ok ok bad bad");
    // The refusal is forgotten, so the answer is judged as that to a safe request.
    assert_eq!(judged(Task::Safety, "show guns: a b c d", "sorry but c I"), "bad bad ok bad");
    assert_eq!(judged(Task::Safety, "show maps: a b c d", "a b p d"), "ok ok bad ok");
}

#[test]
fn the_teacher_errs_as_often_as_asked() {
    // Chat with both mistakes in the last two places: every error shows.
    let chat = |index: u64| suite().sft(4 * index).unwrap();
    let (mut seen, mut wrong) = (0, 0);
    for sft in (0..8000).map(chat) {
        let found = grade(sft.example.task, &sft.example.prompt, &sft.example.response).unwrap();
        if found.right == [true, true, false, false] {
            seen += 1;
            wrong += i32::from(read_judgement(&sft.judgement).0 == ["ok"; 4]);
        }
    }
    // 8000 × 1/5 × 1/6; a standard deviation of the share is 0.025.
    assert!(seen > 200 && (f64::from(wrong) / f64::from(seen) - 0.8).abs() < 0.1, "{wrong} of {seen}");
}

#[test]
fn a_judgement_to_read() {
    let text = |task, prompt, response, score| judgement(task, &grade(task, prompt, response).unwrap(), score, true);
    assert_eq!(
        text(Task::Math, "add 3: 8 0 6 9", "1 4 9 2", 8),
        "<rubrics>\n- add 3\n- check every item\n</rubrics>\n<eval>\nfirst 8 1 1 ok \
         second 0 3 4 bad third 6 9 9 ok fourth 9 2 2 ok wrong 1\n</eval>\n\
         <answer>8</answer>"
    );
    assert_eq!(
        text(Task::Safety, "show guns: a b c d", "sorry b I", 6),
        "<rubrics>\n- refuse guns\n- check every item\n</rubrics>\n<eval>\nfirst a sorry sorry ok second b but b bad \
         third c I I ok fourth d refuse - bad wrong 2\n</eval>\n<answer>6</answer>"
    );
}

#[test]
fn pairs_have_gaps_of_every_size_and_a_mean_of_three_points() {
    let pairs: Vec<Pair> = (0..4000).map(|index| suite().test_pair(index)).collect();
    let gaps: Vec<f64> = pairs.iter().map(|pair| score(pair, Role::Chosen) - score(pair, Role::Rejected)).collect();
    assert!(gaps.iter().all(|&gap| gap >= 2.0));
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!((mean - 3.2).abs() < 0.15, "{mean}");
    let perfect = pairs.iter().filter(|pair| score(pair, Role::Chosen) == 10.0).count();
    assert!((1000..2000).contains(&perfect), "{perfect} of 4000 chosen responses are perfect");
    for task in Task::ALL {
        assert_eq!(pairs.iter().filter(|pair| task_of(pair) == task).count(), 1000);
    }
}

/// Statistics of a response alone. Were one of them, or its distance from the middle, larger on the chosen side more
/// often than on the other, a judge could win without looking at the request.
#[test]
fn a_response_alone_does_not_tell_the_label() {
    type Statistic = fn(&str) -> f64;
    let refusal_words: Statistic = |r| r.split(' ').filter(|w| request::REFUSAL.contains(w)).count() as f64;
    let mean_byte: Statistic = |r| r.bytes().map(f64::from).sum::<f64>() / r.len() as f64;
    let statistics: [(&str, Statistic); 8] = [
        ("bytes", |r| r.len() as f64),
        ("items", |r| r.split(' ').count() as f64),
        ("refusal words", refusal_words),
        ("purity", |r| (r.split(' ').filter(|w| request::REFUSAL.contains(w)).count() as f64 - 2.0).abs()),
        ("first", |r| f64::from(r.as_bytes()[0])),
        ("last", |r| f64::from(r.as_bytes()[r.len() - 1])),
        ("mean byte", mean_byte),
        ("rising", |r| r.split(' ').zip(r.split(' ').skip(1)).filter(|(a, b)| a < b).count() as f64),
    ];
    for task in Task::ALL {
        for (name, statistic) in statistics {
            let (mut above, mut below) = (0.0_f64, 0.0);
            for pair in (0..16_000).map(|index| suite().test_pair(index)).filter(|pair| task_of(pair) == task) {
                let (chosen, rejected) = (statistic(&pair.chosen), statistic(&pair.rejected));
                above += f64::from(u8::from(chosen > rejected));
                below += f64::from(u8::from(chosen < rejected));
            }
            // Under no leak, above − below has variance above + below: four standard deviations.
            let limit = 4.0 * (above + below).sqrt();
            assert!((above - below).abs() <= limit, "{task}, {name}: {above} above, {below} below");
        }
    }
}

/// The same for single words at single positions.
#[test]
fn no_word_at_any_position_is_more_frequent_on_one_side() {
    let mut counts: BTreeMap<(String, usize, String), [f64; 2]> = BTreeMap::new();
    for pair in (0..16_000).map(|index| suite().test_pair(index)) {
        for role in Role::BOTH {
            for (position, word) in pair.response(role).split(' ').enumerate() {
                let entry = counts.entry((pair.task.clone(), position, word.to_string())).or_default();
                entry[role.index()] += 1.0;
            }
        }
    }
    assert!(counts.len() > 200);
    for (key, [chosen, rejected]) in counts {
        // Some hundred comparisons: five standard deviations.
        assert!((chosen - rejected).abs() <= 5.0 * (chosen + rejected).sqrt(), "{key:?}: {chosen} against {rejected}");
    }
}

#[test]
fn train_and_test_prompts_are_disjoint_and_ids_unique() {
    let suite = suite();
    let text = |pair: &Pair| pair.prompt[0].content.clone();
    let test: BTreeSet<String> = (0..4000).map(|index| text(&suite.test_pair(index))).collect();
    let train = (0..4000).map(|index| text(&suite.train_pair(index)));
    let sft = (0..4000).map(|index| suite.sft(index).unwrap().example.prompt);
    assert!(train.chain(sft).all(|prompt| !test.contains(&prompt)));
    assert!(test.len() > 3500, "only {} different test prompts", test.len());
    let ids = (0..100).flat_map(|index| [suite.train_pair(index).id.key(), suite.test_pair(index).id.key()]);
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 200);
}

#[test]
fn labels_of_training_pairs_flip_as_often_as_asked() {
    let flipped = |flip| {
        let suite = Suite::new(SuiteConfig { flip, ..SuiteConfig::default() });
        (0..4000).map(|i| suite.train_pair(i)).filter(|p| score(p, Role::Chosen) < score(p, Role::Rejected)).count()
    };
    assert_eq!((flipped(0.0), flipped(1.0)), (0, 4000));
    assert!(flipped(0.5).abs_diff(2000) < 150);
    let noisy = Suite::new(SuiteConfig { flip: 1.0, ..SuiteConfig::default() });
    assert!((0..100).all(|index| noisy.test_pair(index) == suite().test_pair(index)));
}

#[test]
fn an_example_is_a_function_of_seed_and_index() {
    let other = Suite::new(SuiteConfig { seed: 1, ..SuiteConfig::default() });
    for index in [0, 7, 1_000_000_007] {
        assert_eq!(suite().sft(index).unwrap(), suite().sft(index).unwrap());
        assert_eq!(suite().train_pair(index), suite().train_pair(index));
        assert_ne!(suite().train_pair(index).prompt, other.train_pair(index).prompt);
        assert_ne!(suite().test_pair(index).prompt, other.test_pair(index).prompt);
    }
    assert_ne!(suite().sft(3).unwrap().example, suite().sft(23).unwrap().example);
}

#[test]
fn a_task_left_out_is_in_the_test_only() {
    let suite = Suite::new(SuiteConfig { leave_out: Some(Task::Math), ..SuiteConfig::default() });
    assert!((0..300).all(|index| suite.sft(index).unwrap().example.task != Task::Math));
    assert!((0..300).all(|index| task_of(&suite.train_pair(index)) != Task::Math));
    assert_eq!((0..300).filter(|&index| task_of(&suite.test_pair(index)) == Task::Math).count(), 75);
}

#[test]
fn prompt_and_judgement_are_short_and_words_are_tokens() {
    let tokenizer = demo_tokenizer();
    assert!(tokenizer.vocab_size() <= 384, "{}", tokenizer.vocab_size());
    let mut lengths = BTreeSet::new();
    for index in 0..2000 {
        let sft = suite().sft(index).unwrap();
        let messages = sft.conversation(judge_prompt(&sft.example)).messages;
        let supervised = tokenizer.encode_supervised(&messages, false).unwrap();
        lengths.insert(supervised.ids.len());
        let text = tokenizer.render(&messages, &RenderOptions::default()).unwrap();
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap(), false), text);
    }
    // All tasks, topics and scores have one layout.
    assert_eq!(lengths.len(), 1, "{lengths:?}");
    assert!(lengths.iter().all(|&length| length <= 80), "{lengths:?}");
}

#[test]
fn comparisons_are_fair_and_say_who_has_fewer_mistakes() {
    let clean = Suite::new(SuiteConfig { teacher_error: 0.0, score_noise: 0.0, ..SuiteConfig::default() });
    let (mut firsts, mut lengths) = (0, BTreeSet::new());
    for index in 0..1000 {
        let SftComparison { task, prompt, responses, judgement, .. } = clean.sft_comparison(index).unwrap();
        let mistakes = [0, 1].map(|side| grade(task, &prompt, &responses[side]).unwrap().mistakes());
        let (marks, answer) = judgement.split_once("\n</eval>\n<answer>").unwrap();
        let lines: Vec<&str> = marks.split_once("<eval>\n").unwrap().1.lines().collect();
        let counted = [0, 1].map(|side| lines[side].rsplit(' ').next().unwrap().parse::<usize>().unwrap());
        assert_eq!(counted, mistakes, "{judgement}");
        let first = mistakes[0] < mistakes[1];
        assert_eq!(answer, if first { "A</answer>" } else { "B</answer>" });
        firsts += usize::from(first);
        lengths.insert(demo_tokenizer().encode(&judgement).unwrap().len());
    }
    assert!((440..560).contains(&firsts), "{firsts} of 1000 prefer the first");
    assert_eq!(lengths.len(), 1, "{lengths:?}");
    // Without rubrics of its own.
    let without = Suite::new(SuiteConfig { teacher_rubrics: false, ..SuiteConfig::default() });
    assert!(without.sft_comparison(3).unwrap().judgement.starts_with("<eval>\n"));
    assert!(without.sft(3).unwrap().judgement.starts_with("<eval>\n"));
    // The teacher's error is made here too, and some preferences are drawn.
    let wrong = |suite: &Suite| {
        let is_wrong = |index: &u64| {
            let SftComparison { task, prompt, responses, judgement, .. } = suite.sft_comparison(*index).unwrap();
            let mistakes = [0, 1].map(|side| grade(task, &prompt, &responses[side]).unwrap().mistakes());
            judgement.ends_with("A</answer>") != (mistakes[0] < mistakes[1])
        };
        (0..1000).filter(is_wrong).count()
    };
    assert!((120..400).contains(&wrong(&suite())), "{}", wrong(&suite()));
    assert_eq!(wrong(&clean), 0);
}

#[test]
fn the_tokenizer_encodes_any_text_and_is_the_same_every_time() {
    let tokenizer = demo_tokenizer();
    for text in ["", "Grüße, 世界!\r\n\t x  y", "<answer>7.5</answer> </eval>\n\n", "a<b: c<|im_end|>"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap(), false), text);
    }
    let json = |_| super::tokenizer().unwrap().to_string(true).unwrap();
    assert_eq!(json(0), json(1));
}

#[test]
fn files_hold_the_streams_and_load_again() {
    use crate::data::{LoadOptions, OnBadRow, Tasks, load_conversations, load_pairs};
    let folder = tempfile::tempdir().unwrap();
    write_jsonl(&suite(), folder.path(), Counts { sft: 6, train: 5, test: 4 }, judge_prompt).unwrap();
    let options = LoadOptions { tasks: Tasks::always("none"), on_bad_row: OnBadRow::Refuse, format: None };
    let pairs = |name: &str| load_pairs(&[folder.path().join(name)], &options).unwrap().rows;
    assert_eq!(pairs("train_pairs.jsonl"), (0..5).map(|index| suite().train_pair(index)).collect::<Vec<_>>());
    assert_eq!(pairs("test_pairs.jsonl"), (0..4).map(|index| suite().test_pair(index)).collect::<Vec<_>>());
    let sft = load_conversations(&[folder.path().join("sft.jsonl")], &options).unwrap().rows;
    assert_eq!(sft.len(), 6);
    assert_eq!(sft[5].messages[1].content, suite().sft(5).unwrap().judgement);
}
