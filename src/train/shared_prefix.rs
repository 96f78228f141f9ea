//! Micro-batches of completions that share a prompt: the prompt is computed once, and each completion sees its keys.
//!
//! The last token of the prompt belongs to every completion's own run, since it predicts the first token of each: so every
//! row has one target, and what n completions repeat of a prompt of P tokens is one token each, not P.

use super::Targets;
use crate::model::Batch;

/// A prompt and completions of it, as token ids; completions are not empty.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// One token or more.
    pub prompt: &'a [u32],
    pub completions: Vec<&'a [u32]>,
}

/// A micro-batch, and which completions its target rows belong to, in order: (group, completion).
#[derive(Debug, Default)]
pub struct MicroBatch {
    pub batch: Batch,
    pub targets: Targets,
    pub members: Vec<(usize, usize)>,
}

/// A prompt with one completion that no micro-batch can hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "a prompt of {prompt} and a completion of {completion} tokens do not fit into a micro-batch of {capacity} tokens: \
     raise micro_batch_tokens"
)]
pub struct TooLong {
    pub prompt: usize,
    pub completion: usize,
    pub capacity: usize,
}

/// Packs groups in their order into batches of at most `capacity` tokens. A group that does not fit is cut between its
/// completions, each part with the prompt before it.
pub fn pack_groups(groups: &[Group<'_>], capacity: usize) -> Result<Vec<MicroBatch>, TooLong> {
    let mut batches: Vec<MicroBatch> = vec![MicroBatch::default()];
    for (index, group) in groups.iter().enumerate() {
        let (last, shared) = group.prompt.split_last().expect("a prompt of one token or more");
        let mut prefix = None;
        for (member, completion) in group.completions.iter().enumerate() {
            let prompt_cost = if prefix.is_none() { shared.len() } else { 0 };
            let current = batches.last().expect("never empty");
            if current.batch.tokens() + prompt_cost + completion.len() > capacity {
                if shared.len() + completion.len() > capacity {
                    return Err(TooLong { prompt: group.prompt.len(), completion: completion.len(), capacity });
                }
                batches.push(MicroBatch::default());
                prefix = None;
            }
            let MicroBatch { batch, targets, members } = batches.last_mut().expect("never empty");
            let run = *prefix.get_or_insert_with(|| (!shared.is_empty()).then(|| batch.push_sequence(shared)));
            let first = batch.tokens();
            let own: Vec<u32> =
                std::iter::once(*last).chain(completion[..completion.len() - 1].iter().copied()).collect();
            batch.push_own(&own, shared.len(), run.as_slice());
            for (place, id) in completion.iter().enumerate() {
                targets.push(first + place, *id);
            }
            members.push((index, member));
        }
    }
    batches.retain(|micro| !micro.members.is_empty());
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_computed_once_and_every_completion_token_is_a_target() {
        let prompt = [1, 2, 3];
        let groups = [
            Group { prompt: &prompt, completions: vec![&[10, 11], &[20]] },
            Group { prompt: &prompt[..1], completions: vec![&[30, 31]] },
        ];
        let batches = pack_groups(&groups, 100).unwrap();
        assert_eq!(batches.len(), 1);
        let MicroBatch { batch, targets, members } = &batches[0];
        assert_eq!(batch.ids, [1, 2, 3, 10, 3, 1, 30]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 2, 0, 1]);
        assert_eq!(
            (targets.rows.as_slice(), targets.ids.as_slice()),
            ([2, 3, 4, 5, 6].as_slice(), [10, 11, 20, 30, 31].as_slice())
        );
        assert_eq!(members, &[(0, 0), (0, 1), (1, 0)]);
        let keys: Vec<usize> = batch.segments.segments().iter().map(|s| s.keys).collect();
        assert_eq!(keys, [2, 4, 3, 2]);
    }

    #[test]
    fn a_group_that_does_not_fit_is_cut_with_its_prompt_repeated() {
        let groups = [Group { prompt: &[1, 2, 3], completions: vec![&[10, 11], &[20, 21], &[30]] }];
        let batches = pack_groups(&groups, 4).unwrap();
        let ids: Vec<_> = batches.iter().map(|micro| micro.batch.ids.clone()).collect();
        assert_eq!(ids, [vec![1, 2, 3, 10], vec![1, 2, 3, 20], vec![1, 2, 3]]);
        assert_eq!(batches[2].members, [(0, 2)]);
        assert!(pack_groups(&groups, 3).is_err());
    }
}
