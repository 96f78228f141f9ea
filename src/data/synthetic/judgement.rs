//! The teacher's judgement of a response, in the format that a judge writes.

use super::Task;
use super::grade::Grade;

/// Stands for an item that the response lacks.
const MISSING: &str = "-";

/// Two rubrics for the instance, an evaluation item by item, the number of mistakes, and `score` as the verdict.
///
/// Each item of the evaluation has its number, the expected word, the word that came, and a mark. A small model learns this
/// where it does not learn a bare score: it finds what to copy by the item's number, compares two neighbouring words, and
/// counts marks. All tasks have the same layout.
pub fn judgement(task: Task, grade: &Grade, score: u32) -> String {
    let plan = match task {
        Task::Chat => "repeat",
        Task::Math => "add",
        Task::Code => "reverse",
        Task::Safety if grade.refuse => "refuse",
        Task::Safety => "show",
    };
    let item = |(index, (expected, got)): (usize, (&String, &Option<String>))| {
        let mark = if got.as_ref() == Some(expected) { "ok" } else { "bad" };
        format!("{} {expected} {} {mark}", index + 1, got.as_deref().unwrap_or(MISSING))
    };
    let items: Vec<String> = grade.expected.iter().zip(&grade.got).enumerate().map(item).collect();
    format!(
        "<rubrics>\n- {plan} {}\n- check every item\n</rubrics>\n<eval>\n{} wrong {}\n</eval>\n<answer>{score}</answer>",
        grade.argument,
        items.join(" "),
        grade.mistakes,
    )
}
