//! Micro-batches of sequences with a common prefix: the prefix is computed and trained once, with the weight of all of them.
//!
//! A position of a sequence is an input token with the token to predict there, if there is one. Sequences of one tree share
//! the positions on which they agree: the prompt of the n judgements of one response, the common prefix of the prompts of a
//! pair's two responses, and what judgements have in common before they differ. Sharing ends one token before they differ,
//! because a row predicts one token: the last token of a prompt belongs to each completion.
//!
//! Nothing is approximated: a token's hidden state depends only on the tokens before it, so the gradient is the sum of the
//! gradients of the single sequences, up to the order of summation.

use std::ops::Range;

use super::error::{TooLong, TrainError};
use super::token_loss::{Scorer, Targets};
use crate::model::{Batch, Qwen3};
use crate::ops::Backend;
use crate::ops::attention::Run;

/// Positions that must agree before sequences share them, unless they end there: keeps attention's segments from becoming very
/// short (the demo's judgements: 16 tokens instead of 13, for 5 % more tokens).
const SHORTEST_SHARED: usize = 8;

/// A prompt and a completion of it, as token ids, neither of them empty.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Neighbours of the same tree share what they have in common.
    pub tree: usize,
    pub prompt: &'a [u32],
    pub completion: &'a [u32],
}

impl Sequence<'_> {
    /// Positions: all tokens but the last, which is only predicted.
    fn len(&self) -> usize {
        self.prompt.len() + self.completion.len() - 1
    }

    fn token(&self, at: usize) -> u32 {
        self.prompt.get(at).copied().unwrap_or_else(|| self.completion[at - self.prompt.len()])
    }

    /// The token to predict at a position of the sequence.
    fn target(&self, at: usize) -> Option<u32> {
        (at + 1).checked_sub(self.prompt.len()).map(|next| self.completion[next])
    }

    /// `None` beyond the last.
    fn position(&self, at: usize) -> Option<(u32, Option<u32>)> {
        (at < self.len()).then(|| (self.token(at), self.target(at)))
    }
}

/// One of the sequences, and which target rows of the micro-batch are the tokens of its completion.
#[derive(Clone, Debug)]
pub struct PackedSequence {
    /// Its index in the list that was packed.
    pub sequence: usize,
    /// In order.
    spans: Vec<Range<usize>>,
}

impl PackedSequence {
    /// Target rows, one a token of the completion.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().cloned().flatten()
    }
}

/// A micro-batch, and whose its target rows are.
#[derive(Debug, Default)]
pub struct MicroBatch {
    pub batch: Batch,
    pub targets: Targets,
    pub members: Vec<PackedSequence>,
}

/// Packs sequences into batches of at most `capacity` tokens, tree after tree. A tree that is larger than a batch is cut in
/// halves, which repeat what they have in common.
pub fn pack(sequences: &[Sequence<'_>], capacity: usize) -> Result<Vec<MicroBatch>, TooLong> {
    let mut batches = Vec::new();
    let mut first = 0;
    for tree in sequences.chunk_by(|a, b| a.tree == b.tree) {
        add_part(&mut batches, sequences, first..first + tree.len(), capacity)?;
        first += tree.len();
    }
    Ok(batches)
}

/// Log-probabilities of every sequence's completion under a model, in micro-batches of at most `capacity` tokens.
pub fn score<B: Backend>(
    scorer: &mut Scorer<B>,
    model: &Qwen3<B>,
    sequences: &[Sequence<'_>],
    capacity: usize,
    temperature: f32,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let mut micro_batches = Vec::new();
    for micro in pack(sequences, capacity)? {
        let results = scorer.score(model, &micro.batch, &micro.targets, temperature)?;
        micro_batches.push((micro.members, results));
    }
    let mut scored = vec![Vec::new(); sequences.len()];
    for (members, results) in micro_batches {
        let logprobs = results.get()?.logprob;
        for member in members {
            scored[member.sequence] = member.rows().map(|row| logprobs[row]).collect();
        }
    }
    Ok(scored)
}

/// Adds sequences `part`, all of one tree.
fn add_part(
    batches: &mut Vec<MicroBatch>,
    sequences: &[Sequence<'_>],
    part: Range<usize>,
    capacity: usize,
) -> Result<(), TooLong> {
    let tree = Tree::of(sequences, part.clone());
    if tree.tokens() > capacity {
        if part.len() == 1 {
            let Sequence { prompt, completion, .. } = sequences[part.start];
            return Err(TooLong { prompt: prompt.len(), completion: completion.len(), capacity });
        }
        let middle = part.start + part.len() / 2;
        add_part(batches, sequences, part.start..middle, capacity)?;
        return add_part(batches, sequences, middle..part.end, capacity);
    }
    match batches.last_mut() {
        Some(micro) if micro.batch.tokens() + tree.tokens() <= capacity => tree.add_to(micro),
        _ => {
            let mut micro = MicroBatch::default();
            tree.add_to(&mut micro);
            batches.push(micro);
        }
    }
    Ok(())
}

/// Positions `at` of all `members`, which agree there; those before belong to `parent` and its parents.
struct Span {
    parent: Option<usize>,
    at: Range<usize>,
    members: Vec<usize>,
}

/// Sequences by what they have in common.
struct Tree<'a> {
    sequences: &'a [Sequence<'a>],
    members: Range<usize>,
    /// Parents before their children.
    spans: Vec<Span>,
}

impl<'a> Tree<'a> {
    fn of(sequences: &'a [Sequence<'a>], members: Range<usize>) -> Self {
        let mut tree = Self { sequences, members: members.clone(), spans: Vec::new() };
        tree.grow(members.collect(), None, 0, 0);
        tree
    }

    fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.at.len()).sum()
    }

    /// Adds the spans of `members`, one or more that agree before position `at`, from position `from` on.
    fn grow(&mut self, members: Vec<usize>, mut parent: Option<usize>, mut from: usize, mut at: usize) {
        let sequences = self.sequences;
        let position = |member: usize, at: usize| sequences[member].position(at);
        let leader = members[0];
        while position(leader, at).is_some() && members.iter().all(|m| position(*m, at) == position(leader, at)) {
            at += 1;
        }
        let ended = members.iter().all(|m| position(*m, at).is_none());
        if from < at && (ended || at - from >= SHORTEST_SHARED) {
            self.spans.push(Span { parent, at: from..at, members: members.clone() });
            (parent, from) = (Some(self.spans.len() - 1), at);
        }
        if ended {
            return;
        }
        let mut parts: Vec<Vec<usize>> = Vec::new();
        for member in members {
            match parts.iter_mut().find(|part| position(part[0], at) == position(member, at)) {
                Some(part) => part.push(member),
                None => parts.push(vec![member]),
            }
        }
        parts.into_iter().for_each(|part| self.grow(part, parent, from, at));
    }

    fn add_to(&self, micro: &mut MicroBatch) {
        let MicroBatch { batch, targets, members } = micro;
        let first_member = members.len();
        members.extend(self.members.clone().map(|sequence| PackedSequence { sequence, spans: Vec::new() }));
        // The runs of every span's sequence up to its own end.
        let mut runs: Vec<Vec<Run>> = Vec::with_capacity(self.spans.len());
        for Span { parent, at, members: owners } in &self.spans {
            let sequence = &self.sequences[owners[0]];
            let mut path = parent.map_or_else(Vec::new, |parent| runs[parent].clone());
            let ids: Vec<u32> = at.clone().map(|at| sequence.token(at)).collect();
            let (first_row, first_target) = (batch.tokens(), targets.rows.len());
            path.push(batch.push_own(&ids, at.start, &path));
            runs.push(path);
            for (row, at) in (first_row..).zip(at.clone()) {
                if let Some(target) = sequence.target(at) {
                    targets.push(row, target);
                }
            }
            let rows = first_target..targets.rows.len();
            for owner in owners.iter().filter(|_| !rows.is_empty()) {
                members[first_member + owner - self.members.start].spans.push(rows.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequences<'a>(prompt: &'a [u32], completions: &'a [&'a [u32]]) -> Vec<Sequence<'a>> {
        completions.iter().map(|completion| Sequence { tree: 0, prompt, completion }).collect()
    }

    fn keys(batch: &Batch) -> Vec<usize> {
        batch.segments.segments().iter().map(|s| s.keys).collect()
    }

    #[test]
    fn what_two_sequences_have_in_common_is_computed_once() {
        let prompt: Vec<u32> = (0..9).collect();
        let mut packed = sequences(&prompt, &[&[10, 11], &[20]]);
        packed.push(Sequence { tree: 1, prompt: &prompt[..1], completion: &[30, 31] });
        let batches = pack(&packed, 100).unwrap();
        assert_eq!(batches.len(), 1);
        let MicroBatch { batch, targets, members } = &batches[0];
        assert_eq!(batch.ids, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 8, 0, 30]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 0, 1]);
        assert_eq!((&targets.rows[..], &targets.ids[..]), (&[8, 9, 10, 11, 12][..], &[10, 11, 20, 30, 31][..]));
        let rows: Vec<Vec<usize>> = members.iter().map(|member| member.rows().collect()).collect();
        assert_eq!(rows, [vec![0, 1], vec![2], vec![3, 4]]);
        assert_eq!(keys(batch), [8, 10, 9, 2]);
    }

    #[test]
    fn judgements_part_where_they_differ() {
        let prompt: Vec<u32> = (0..9).collect();
        let stem: Vec<u32> = (40..52).collect();
        let with = |end: &[u32]| -> Vec<u32> { stem.iter().chain(end).copied().collect() };
        // Three share the stem, and two are the same. The fourth shares a token more of it than the last: too few.
        let all = [with(&[1, 2]), with(&[3]), with(&[3]), vec![40, 41, 42, 7], vec![40, 41, 7]];
        let completions: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
        let packed = sequences(&prompt, &completions);
        let batches = pack(&packed, 100).unwrap();
        let MicroBatch { batch, targets, members } = &batches[0];
        // Prompt and 40, then 41 to 50, then 51 → 1 → 2 and 51 → 3; then 41 → 42 → 7, and 41 → 7.
        assert_eq!(keys(batch), [10, 20, 22, 21, 12, 11]);
        assert_eq!(batch.tokens(), 10 + 10 + 2 + 1 + 2 + 1);
        let predicted = |m: &PackedSequence| m.rows().map(|row| targets.ids[row]).collect::<Vec<u32>>();
        assert_eq!(members.iter().map(predicted).collect::<Vec<_>>(), all);
        assert_eq!(members[1].spans, members[2].spans);
    }

    #[test]
    fn a_tree_that_does_not_fit_is_cut_with_its_prompt_repeated() {
        let packed = sequences(&[1, 2, 3], &[&[10, 11], &[20, 21], &[30]]);
        let batches = pack(&packed, 4).unwrap();
        let ids: Vec<_> = batches.iter().map(|micro| micro.batch.ids.clone()).collect();
        assert_eq!(ids, [vec![1, 2, 3, 10], vec![1, 2, 3, 20], vec![1, 2, 3]]);
        let last = &batches[2].members;
        assert_eq!((last.len(), last[0].sequence, last[0].rows().collect()), (1, 2, vec![0]));
        assert!(pack(&packed, 3).is_err());
    }

    proptest! {
        /// Few tokens and short sequences, so that they agree often: every sequence can be read off its rows and keys.
        #[test]
        fn every_sequence_is_there_whole(
            prompts in proptest::collection::vec(proptest::collection::vec(0u32..2, 1..30), 1..3),
            completions in proptest::collection::vec(proptest::collection::vec(0u32..2, 1..30), 1..9),
            capacity in 58usize..200,
        ) {
            let sequences: Vec<Sequence<'_>> = (completions.iter().enumerate())
                .map(|(i, c)| Sequence { tree: i / 6, prompt: &prompts[i / 2 % prompts.len()], completion: c })
                .collect();
            let batches = pack(&sequences, capacity).unwrap();
            let mut seen = vec![0; sequences.len()];
            for MicroBatch { batch, targets, members } in &batches {
                prop_assert!(batch.tokens() <= capacity);
                prop_assert!(targets.rows.is_sorted_by(|a, b| a < b));
                for member in members {
                    let sequence = sequences[member.sequence];
                    seen[member.sequence] += 1;
                    let rows: Vec<usize> = member.rows().collect();
                    let predicted: Vec<u32> = rows.iter().map(|row| targets.ids[*row]).collect();
                    prop_assert_eq!(&predicted[..], sequence.completion);
                    // What the last row sees, in order: all tokens but the last.
                    let last = targets.rows[rows[rows.len() - 1]] as usize;
                    let segment = batch.segments.segments().iter().find(|s| s.queries.contains(&last)).unwrap();
                    let keys = batch.segments.runs(segment).iter().flat_map(|run| run.start..run.start + run.len);
                    let keys = keys.take(segment.keys - (segment.queries.end - 1 - last));
                    let input: Vec<u32> = keys.clone().map(|key| batch.ids[key as usize]).collect();
                    let positions: Vec<u32> = keys.map(|key| batch.positions[key as usize]).collect();
                    let whole: Vec<u32> = sequence.prompt.iter().chain(sequence.completion).copied().collect();
                    prop_assert_eq!(&input[..], &whole[..whole.len() - 1]);
                    prop_assert!(positions.iter().enumerate().all(|(i, p)| i == *p as usize));
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }
    }
}
