//! The teacher's judgement of a response, in the format that a judge writes.

use super::Task;
use super::grade::Grade;
use super::request::ITEMS;

/// Names of the places of a list: words, since numbers are also items.
pub(super) const PLACES: [&str; ITEMS] = ["first", "second", "third", "fourth"];
/// Stands for an item that the response lacks.
const MISSING: &str = "-";

/// Two rubrics for the instance, unless the judge writes none, an evaluation item by item, the number of mistakes, and `score` as
/// the verdict.
///
/// Each item of the evaluation has its place, the request's item in that place, the expected word, the word that came, and a
/// mark. A small model learns this where it does not learn a bare score: it finds what to copy by its place, works out
/// a sum from the item just copied, compares two neighbouring words, and counts marks. All tasks have the same layout.
pub fn judgement(task: Task, grade: &Grade, score: u32, with_rubrics: bool) -> String {
    let rubrics = if with_rubrics { rubrics(task, grade) } else { String::new() };
    format!("{rubrics}<eval>\n{}\n</eval>\n<answer>{score}</answer>", evaluation(grade))
}

/// The same of two responses, a line each, with the preferred one (A or B) as the verdict.
pub fn comparison(task: Task, grades: [&Grade; 2], prefers_first: bool, with_rubrics: bool) -> String {
    let rubrics = if with_rubrics { rubrics(task, grades[0]) } else { String::new() };
    let [first, second] = grades.map(evaluation);
    let answer = if prefers_first { "A" } else { "B" };
    format!("{rubrics}<eval>\n{first}\n{second}\n</eval>\n<answer>{answer}</answer>")
}

fn rubrics(task: Task, grade: &Grade) -> String {
    let plan = match task {
        Task::Chat => "repeat",
        Task::Math => "add",
        Task::Code => "reverse",
        Task::Safety if grade.refuse => "refuse",
        Task::Safety => "show",
    };
    format!("<rubrics>\n- {plan} {}\n- check every item\n</rubrics>\n", grade.argument)
}

fn evaluation(grade: &Grade) -> String {
    let item = |index: usize| {
        let mark = if grade.right[index] { "ok" } else { "bad" };
        let (got, source) = (grade.got[index].as_deref().unwrap_or(MISSING), grade.items.get(index));
        let (source, expected) = (source.map_or(MISSING, String::as_str), &grade.expected[index]);
        format!("{} {source} {expected} {got} {mark}", PLACES.get(index).unwrap_or(&MISSING))
    };
    let items: Vec<String> = (0..grade.expected.len()).map(item).collect();
    format!("{} wrong {}", items.join(" "), grade.mistakes())
}
