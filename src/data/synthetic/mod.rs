//! The synthetic preference suite: requests whose responses a program grades, for the demo and for tests.
//!
//! A request is a verb, an argument and a list of items; a response is right or wrong at each of its places, so it has
//! a true quality: the number of mistakes, 0 to 4. Only holding the response against the request gives it away: of the
//! two sides of a pair, taken alone, length, words and their places are alike in distribution (which the tests check).
//!
//! Everything is a pure function of (seed, index): streams have no end, no state, and no order to keep.

mod draws;
mod files;
mod grade;
mod judgement;
mod request;
mod task;
#[cfg(test)]
mod tests;
mod vocabulary;

use serde::{Deserialize, Serialize};

use super::{Conversation, Message, Pair};
use crate::random::Stream;
use draws::Draws;
use request::Request;

pub use files::{Counts, write_jsonl};
pub use grade::{Grade, GradeError, grade, score_of};
pub use judgement::judgement;
pub use request::ITEMS;
pub use task::Task;
pub use vocabulary::{EOS_TOKEN, PAD_TOKEN, tokenizer};

/// The judge's prompts for the suite's tasks: a template and a primary rubric a task.
pub const RUBRICS: &str = include_str!("rubrics.toml");

/// Ids of test pairs start here; training pairs count from 0.
pub const FIRST_TEST_ID: u64 = 1 << 32;

/// One prompt in so many is a test prompt.
const TEST_SHARE: u64 = 5;

/// How many levels of quality lie between the sides of a pair, out of 20 pairs: one level (two points of score) is
/// usual, the mean is 1.6 levels (3.2 points).
const GAPS: [usize; 20] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4];

/// What the suite is drawn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuiteConfig {
    pub seed: u64,
    /// The share, in 0..=1, of supervised judgements whose score is any of 1 to 10 instead of the true one.
    pub score_noise: f64,
    /// The share, in 0..=1, of training pairs whose labels are swapped. At 0.5 they carry nothing.
    pub flip: f64,
    /// A task that no supervised example and no training pair has; test pairs have all tasks.
    pub leave_out: Option<Task>,
}

impl Default for SuiteConfig {
    fn default() -> Self {
        Self { seed: 0, score_noise: 0.3, flip: 0.0, leave_out: None }
    }
}

/// A request with a response to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub task: Task,
    pub prompt: String,
    pub response: String,
    /// Wrong places of the response, 0..=[`ITEMS`]: what the grading program must find.
    pub mistakes: usize,
}

/// A supervised example: a response, and the teacher's judgement of it, with the teacher's errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    pub id: u64,
    pub example: Example,
    /// 1 to 10: what the judgement ends with.
    pub score: u32,
    pub judgement: String,
}

impl Lesson {
    /// The conversation to imitate: `judge_prompt` (the user's message, made from the example) and the judgement.
    pub fn conversation(&self, judge_prompt: String) -> Conversation {
        let messages = vec![Message::user(judge_prompt), Message::assistant(self.judgement.clone())];
        Conversation { id: self.id, messages }
    }
}

/// What a draw is for; the number is part of the key of its random numbers.
#[derive(Clone, Copy)]
enum Purpose {
    Lesson = 1,
    TrainPair = 2,
    TestPair = 3,
    Noise = 4,
    Flip = 5,
}

/// The suite: streams of supervised examples, training pairs and test pairs.
#[derive(Clone, Debug)]
pub struct Suite {
    config: SuiteConfig,
    /// Tasks of supervised examples and training pairs, in turn.
    training_tasks: Vec<Task>,
}

impl Suite {
    pub fn new(config: SuiteConfig) -> Self {
        let training_tasks = Task::ALL.into_iter().filter(|&task| Some(task) != config.leave_out).collect();
        Self { config, training_tasks }
    }

    /// Supervised example number `index`: tasks in turn, and within a task the levels of quality in turn.
    pub fn sft(&self, index: u64) -> Result<Lesson, GradeError> {
        let (task, round) = in_turn(&self.training_tasks, index);
        let mut draws = self.draws(Purpose::Lesson, index);
        let request = draw_request(task, false, &mut draws);
        let mistakes = (round % (ITEMS as u64 + 1)) as usize;
        let response = request.respond(mistakes, &mut draws);
        let example = Example { task, prompt: request.text(), response, mistakes };
        let grade = grade(task, &example.prompt, &example.response)?;
        let score = self.teacher_score(index, grade.mistakes);
        Ok(Lesson { id: index, score, judgement: judgement(task, &grade, score), example })
    }

    /// The true score, or a random one.
    fn teacher_score(&self, index: u64, mistakes: usize) -> u32 {
        // Draws of their own: examples are the same at any noise.
        let mut draws = self.draws(Purpose::Noise, index);
        if draws.chance(self.config.score_noise) { 1 + draws.below(10) as u32 } else { score_of(mistakes) }
    }

    /// Training pair number `index`, its labels swapped where the noise falls. The id is the index.
    pub fn train_pair(&self, index: u64) -> Pair {
        let (task, _) = in_turn(&self.training_tasks, index);
        let mut pair = draw_pair(index, task, false, &mut self.draws(Purpose::TrainPair, index));
        if self.draws(Purpose::Flip, index).chance(self.config.flip) {
            std::mem::swap(&mut pair.chosen, &mut pair.rejected);
        }
        pair
    }

    /// Test pair number `index` of all four tasks in turn, never swapped. The id is [`FIRST_TEST_ID`] + index.
    pub fn test_pair(&self, index: u64) -> Pair {
        let (task, _) = in_turn(&Task::ALL, index);
        draw_pair(FIRST_TEST_ID + index, task, true, &mut self.draws(Purpose::TestPair, index))
    }

    /// The score, 2 to 10, that the grading program gives.
    pub fn true_score(&self, task: Task, prompt: &str, response: &str) -> Result<f64, GradeError> {
        Ok(f64::from(score_of(grade(task, prompt, response)?.mistakes)))
    }

    fn draws(&self, purpose: Purpose, index: u64) -> Draws {
        Draws::new(Stream::new(self.config.seed).fold(purpose as u64).fold(index))
    }
}

/// The task that is due, and how often it was due before.
fn in_turn(tasks: &[Task], index: u64) -> (Task, u64) {
    let count = tasks.len() as u64;
    (tasks[(index % count) as usize], index / count)
}

/// A request on this side of the split. The side is a function of the text, so no prompt is ever on both.
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
/// The distribution of (mistakes chosen, mistakes rejected) stays the same when every place of both is turned from
/// right to wrong, wrong to right, and the sides are swapped. Together with as many harmful as safe requests among
/// those that mix in words of a refusal, this makes the number of such words alike on both sides.
fn draw_pair(id: u64, task: Task, test: bool, draws: &mut Draws) -> Pair {
    let request = draw_request(task, test, draws);
    let gap = draws.pick(&GAPS);
    let fewer = draws.below(ITEMS + 1 - gap);
    let chosen = request.respond(fewer, draws);
    let rejected = request.respond(fewer + gap, draws);
    Pair { id, task: task.name().to_string(), prompt: vec![Message::user(request.text())], chosen, rejected }
}
