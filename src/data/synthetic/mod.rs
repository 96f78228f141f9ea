//! The synthetic preference suite: requests whose responses a program grades, for the demo and for tests.
//!
//! A request is a verb, an argument and a list of items. Each item of a response is right or wrong, so a response has a true
//! quality: the number of mistakes, 0 to 4. Only a comparison with the request shows it: the chosen and the rejected
//! responses of pairs, taken alone, have the same distribution of lengths, words and positions of words (the tests check this).
//!
//! Everything is a pure function of (seed, index): the streams have no end and no state, and may be read in any order.

mod draws;
mod files;
mod grade;
mod judgement;
mod request;
mod task;
mod teacher;
#[cfg(test)]
mod tests;
mod vocabulary;

use serde::{Deserialize, Serialize};

use super::{Conversation, Message, Pair, TaskBy, TemplateArguments};
use crate::random::{Purpose, Stream};
use draws::Draws;
use request::Request;
use teacher::Teacher;

pub use files::{Counts, write_jsonl, write_test_pairs};
pub use grade::{Grade, GradeError, grade, score_of};
pub use judgement::{comparison, judgement};
pub use request::ITEMS;
pub use task::Task;
pub use vocabulary::{EOS_TOKEN, PAD_TOKEN, tokenizer};

/// The judge's prompts for the suite's tasks: a template, and a primary rubric for each task.
pub const RUBRICS: &str = include_str!("rubrics.toml");

/// Ids of test pairs start here; training pairs count from 0.
pub const FIRST_TEST_ID: u64 = 1 << 32;

/// One prompt out of this many is a test prompt.
const TEST_SHARE: u64 = 5;

/// Levels of quality between the two responses of a pair, for 20 pairs: most often one level (two points of score); the mean
/// is 1.6 levels (3.2 points).
const GAPS: [usize; 20] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4];

/// Settings of the suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuiteConfig {
    pub seed: u64,
    /// The share, in 0..=1, of SFT examples in whose judgement the teacher makes its task's systematic error.
    pub teacher_error: f64,
    /// The share, in 0..=1, of SFT examples whose score is drawn from 1 to 10, whatever the judgement says.
    pub score_noise: f64,
    /// The share, in 0..=1, of training pairs whose labels are swapped. At 0.5 the labels carry no information.
    pub flip: f64,
    /// Whether the teacher writes rubrics of its own.
    pub teacher_rubrics: bool,
    /// A task that no SFT example and no training pair has. Test pairs have all tasks.
    pub leave_out: Option<Task>,
}

impl Default for SuiteConfig {
    fn default() -> Self {
        Self { seed: 0, teacher_error: 0.8, score_noise: 0.1, flip: 0.0, teacher_rubrics: true, leave_out: None }
    }
}

/// A request with a response to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub task: Task,
    pub prompt: String,
    pub response: String,
    /// Wrong items of the response, 0..=[`ITEMS`]: what the grading program must find.
    pub mistakes: usize,
}

/// An SFT example: a response, and the teacher's judgement of it, which may be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftExample {
    pub id: u64,
    pub example: Example,
    /// 1 to 10: what the judgement ends with.
    pub score: u32,
    pub judgement: String,
}

impl SftExample {
    /// The conversation to imitate: `judge_prompt` (the user's message, made from the example) and the judgement.
    pub fn conversation(&self, judge_prompt: String) -> Conversation {
        let messages = vec![Message::user(judge_prompt), Message::assistant(self.judgement.clone())];
        Conversation { id: self.id.into(), messages, arguments: TemplateArguments::new() }
    }
}

/// An SFT example of a pairwise judge: two responses, and the teacher's judgement of them, which may be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftComparison {
    pub id: u64,
    pub task: Task,
    pub prompt: String,
    /// As they are shown.
    pub responses: [String; 2],
    pub judgement: String,
}

/// The suite: streams of SFT examples, training pairs and test pairs.
#[derive(Clone, Debug)]
pub struct Suite {
    config: SuiteConfig,
    /// Tasks of SFT examples and training pairs, which alternate between them.
    training_tasks: Vec<Task>,
}

impl Suite {
    /// The suite of a configuration. Every example is computed when it is asked for.
    pub fn new(config: SuiteConfig) -> Self {
        let training_tasks = Task::ALL.into_iter().filter(|&task| Some(task) != config.leave_out).collect();
        Self { config, training_tasks }
    }

    /// SFT example number `index`. The tasks alternate, and within a task the levels of quality alternate.
    pub fn sft(&self, index: u64) -> Result<SftExample, GradeError> {
        let (task, round) = alternating(&self.training_tasks, index);
        let mut draws = self.draws(Purpose::SftExample, index);
        let request = draw_request(task, false, &mut draws);
        let mistakes = (round % (ITEMS as u64 + 1)) as usize;
        let response = request.respond(mistakes, &mut draws);
        let example = Example { task, prompt: request.text(), response, mistakes };
        let grade = grade(task, &example.prompt, &example.response)?;
        // A separate stream, so that the examples are the same whatever the teacher.
        let judged = self.teacher().judge(task, &grade, &mut self.draws(Purpose::Teacher, index));
        Ok(SftExample { id: index, score: judged.score, judgement: judged.text, example })
    }

    /// SFT example number `index` of a pairwise judge. The tasks alternate; either response is the better one as often.
    pub fn sft_comparison(&self, index: u64) -> Result<SftComparison, GradeError> {
        let (task, _) = alternating(&self.training_tasks, index);
        let mut draws = self.draws(Purpose::SftExample, index);
        let pair = draw_pair(index, task, false, &mut draws);
        let mut responses = [pair.chosen, pair.rejected];
        if draws.chance(0.5) {
            responses.swap(0, 1);
        }
        let prompt = pair.prompt[0].content.clone();
        let [first, second] = [grade(task, &prompt, &responses[0])?, grade(task, &prompt, &responses[1])?];
        let judgement = self.teacher().compare(task, [&first, &second], &mut self.draws(Purpose::Teacher, index));
        Ok(SftComparison { id: index, task, prompt, responses, judgement })
    }

    fn teacher(&self) -> Teacher {
        let SuiteConfig { teacher_error: error, score_noise, teacher_rubrics: rubrics, .. } = self.config;
        Teacher { error, score_noise, rubrics }
    }

    /// Training pair number `index` with its right label. The id is the index.
    pub fn true_pair(&self, index: u64) -> Pair {
        let (task, _) = alternating(&self.training_tasks, index);
        draw_pair(index, task, false, &mut self.draws(Purpose::TrainPair, index))
    }

    /// Training pair number `index`; the share `flip` of them has swapped labels.
    pub fn train_pair(&self, index: u64) -> Pair {
        let mut pair = self.true_pair(index);
        if self.draws(Purpose::SuiteFlip, index).chance(self.config.flip) {
            std::mem::swap(&mut pair.chosen, &mut pair.rejected);
        }
        pair
    }

    /// Test pair number `index`, never swapped; all four tasks alternate. The id is [`FIRST_TEST_ID`] + index.
    pub fn test_pair(&self, index: u64) -> Pair {
        let (task, _) = alternating(&Task::ALL, index);
        draw_pair(FIRST_TEST_ID + index, task, true, &mut self.draws(Purpose::TestPair, index))
    }

    /// The score, 2 to 10, that the grading program gives.
    pub fn true_score(&self, task: Task, prompt: &str, response: &str) -> Result<f64, GradeError> {
        Ok(f64::from(score_of(grade(task, prompt, response)?.mistakes())))
    }

    fn draws(&self, purpose: Purpose, index: u64) -> Draws {
        Draws::new(Stream::new(self.config.seed).fold(purpose as u64).fold(index))
    }
}

/// The task of number `index`, and how many numbers before it had the same task.
fn alternating(tasks: &[Task], index: u64) -> (Task, u64) {
    let count = tasks.len() as u64;
    (tasks[(index % count) as usize], index / count)
}

/// A request of the test split or of the training split. The split is a function of the text, so no prompt is in both.
fn draw_request(task: Task, test: bool, draws: &mut Draws) -> Request {
    loop {
        let request = Request::draw(task, draws);
        if is_test_prompt(&request.text()) == test {
            return request;
        }
    }
}

fn is_test_prompt(prompt: &str) -> bool {
    let hash = blake3::hash(prompt.as_bytes());
    u64::from(hash.as_bytes()[0]) % TEST_SHARE == 0
}

/// Two responses to one request, the chosen one with fewer mistakes, though not always without any.
///
/// The distribution of (mistakes chosen, mistakes rejected) stays the same when every item of both changes from right to
/// wrong or from wrong to right, and the two are swapped. Of the requests whose mistakes are words of a refusal, as many
/// are harmful as safe. Together this gives both responses the same distribution of the number of such words.
fn draw_pair(id: u64, task: Task, test: bool, draws: &mut Draws) -> Pair {
    let request = draw_request(task, test, draws);
    let gap = draws.pick(&GAPS);
    let fewer = draws.below(ITEMS + 1 - gap);
    let chosen = request.respond(fewer, draws);
    let rejected = request.respond(fewer + gap, draws);
    Pair {
        id: id.into(),
        task: task.name().to_string(),
        task_by: TaskBy::Own,
        prompt: vec![Message::user(request.text())],
        chosen,
        rejected,
        source: None,
        gap: None,
        arguments: TemplateArguments::new(),
    }
}
