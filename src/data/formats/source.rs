//! What a row says about itself: the set that it is from, and by how much its chosen response is better.

use serde_json::Value;

use super::super::fields::Object;

/// Fields that name the set or the part of it that a row is from, in the order in which they are looked at.
const NAMES: [&str; 5] = ["source", "dataset", "subset", "domain", "data_source"];

/// A longer text is no name: some sets keep a document in `source`.
const NAME_BYTES_MAX: usize = 100;

/// Fields that hold a difference of scores, and pairs of fields (chosen, rejected) whose difference it is.
const GAPS: [&str; 2] = ["gap", "margin"];
const SCORES: [[&str; 2]; 5] = [
    ["score_chosen", "score_rejected"],
    ["chosen_score", "rejected_score"],
    ["chosen_rating", "rejected_rating"],
    ["chosen-rating", "rejected-rating"],
    ["chosen_avg_rating", "rejected_avg_rating"],
];

/// The names of the sets and parts that a row says it is from, the most telling first. A list of names is several.
pub(in super::super) fn sources_of(row: &Object) -> impl Iterator<Item = &str> {
    NAMES.iter().filter_map(|name| row.get(*name)).flat_map(|value| {
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        items.iter().filter_map(Value::as_str).filter(|name| is_name(name))
    })
}

fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains('\n')
}

/// The first of [`sources_of`].
pub(super) fn source_of(row: &Object) -> Option<String> {
    sources_of(row).next().map(str::to_string)
}

/// By how much a row says that its chosen response is better: a field of its own, or the difference of two scores. What is no
/// number gives none.
pub(super) fn gap_of(row: &Object) -> Option<f64> {
    let number = |name: &str| row.get(name).and_then(Value::as_f64);
    let difference = |[chosen, rejected]: [&str; 2]| Some(number(chosen)? - number(rejected)?);
    GAPS.into_iter().find_map(number).or_else(|| SCORES.into_iter().find_map(difference)).filter(|gap| gap.is_finite())
}
