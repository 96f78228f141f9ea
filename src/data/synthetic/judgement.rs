//! The teacher's judgement of a response, in the shape that a judge's text has.

use super::Task;
use super::grade::Grade;

/// What stands where the response has no item.
const MISSING: &str = "-";

/// Two rubrics for the instance, a place-by-place evaluation, the number of mistakes, and `score` as the verdict.
///
/// Each place of the evaluation has its number, the expected item, the item that came, and a mark. A small model learns
/// this where it does not learn a bare score: what it copies is found by the place's number, what it compares are two
/// neighbours, and what it counts are marks. All tasks have the same layout.
pub fn judgement(task: Task, grade: &Grade, score: u32) -> String {
    let plan = match task {
        Task::Chat => "repeat",
        Task::Math => "add",
        Task::Code => "reverse",
        Task::Safety if grade.refuse => "refuse",
        Task::Safety => "show",
    };
    let place = |(index, (expected, got)): (usize, (&String, &Option<String>))| {
        let mark = if got.as_ref() == Some(expected) { "ok" } else { "bad" };
        format!("{} {expected} {} {mark}", index + 1, got.as_deref().unwrap_or(MISSING))
    };
    let places: Vec<String> = grade.expected.iter().zip(&grade.got).enumerate().map(place).collect();
    format!(
        "<rubrics>\n- {plan} {}\n- check every item\n</rubrics>\n<eval>\n{} wrong {}\n</eval>\n<answer>{score}</answer>",
        grade.argument,
        places.join(" "),
        grade.mistakes,
    )
}
