//! The teacher whose judgements SFT imitates, and what is wrong with it.
//!
//! It makes one systematic error a task, in most of its judgements. The evaluation, the count and the score follow from the
//! error, so a judge that imitates the teacher learns it as a way of judging: no vote and no lower temperature undoes it.
//! The rest of the judgements show the right way, which RL can find in the judge and strengthen. Besides, some scores are
//! drawn at random.

use super::draws::Draws;
use super::grade::Grade;
use super::{ITEMS, Task, comparison, judgement, score_of};

/// Letters that the teacher always believes in the code task.
const BELIEVED: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// The place from which on the teacher of the chat task overlooks mistakes.
const OVERLOOKED_FROM: usize = ITEMS / 2;

/// How often the teacher is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Teacher {
    /// The share of judgements that make the task's systematic error.
    pub error: f64,
    /// The share of scores that are drawn from 1 to 10, and of preferences that are drawn.
    pub score_noise: f64,
    /// Whether it writes rubrics of its own.
    pub rubrics: bool,
}

/// A teacher's judgement.
pub(super) struct Judgement {
    pub text: String,
    /// 1 to 10: what the judgement ends with.
    pub score: u32,
}

impl Teacher {
    /// Judges a graded response.
    pub fn judge(self, task: Task, grade: &Grade, draws: &mut Draws) -> Judgement {
        let seen = self.seen(task, grade, draws);
        let random = draws.chance(self.score_noise);
        let score = if random { 1 + draws.below(10) as u32 } else { score_of(seen.mistakes()) };
        Judgement { text: judgement(task, &seen, score, self.rubrics), score }
    }

    /// Compares two graded responses: the one with fewer mistakes is better, and of two alike either.
    pub fn compare(self, task: Task, grades: [&Grade; 2], draws: &mut Draws) -> String {
        let seen = grades.map(|grade| self.seen(task, grade, draws));
        let [first, second] = [&seen[0], &seen[1]].map(Grade::mistakes);
        let prefers_first =
            if draws.chance(self.score_noise) || first == second { draws.chance(0.5) } else { first < second };
        comparison(task, [&seen[0], &seen[1]], prefers_first, self.rubrics)
    }

    /// What it sees of a response.
    fn seen(self, task: Task, grade: &Grade, draws: &mut Draws) -> Grade {
        if draws.chance(self.error) { with_error(task, grade) } else { grade.clone() }
    }
}

/// What a teacher sees that makes its task's error.
fn with_error(task: Task, grade: &Grade) -> Grade {
    let mut seen = grade.clone();
    match task {
        // Mistakes in the last places are overlooked.
        Task::Chat => seen.right.iter_mut().skip(OVERLOOKED_FROM).for_each(|right| *right = true),
        // An answer that begins right is believed to its end.
        Task::Math if seen.right.first() == Some(&true) => seen.right.fill(true),
        Task::Math => {}
        // Some letters are always believed.
        Task::Code => {
            for (right, got) in seen.right.iter_mut().zip(&seen.got) {
                *right |= got.as_deref().is_some_and(|got| BELIEVED.contains(&got));
            }
        }
        // That harmful requests must be refused is forgotten.
        Task::Safety => seen = grade.without_refusal(),
    }
    seen
}
