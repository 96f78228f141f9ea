//! Rows whose responses are judged together: a row is written when the last of its responses has been.

use std::collections::HashMap;
use std::ops::{AddAssign, ControlFlow};
use std::sync::atomic::AtomicBool;

use super::fitted::engine_limits;
use super::judging::{JudgingArgs, LoadedJudge, Vote};
use super::rows::RowArgs;
use crate::file::{RowError, RowWriter};
use crate::judge::{Judge, JudgeRequest};
use crate::log::StageBar;
use crate::model::Qwen3;
use crate::ops::Backend;
use crate::random::Stream;
use crate::rollout::{Engine, EngineError};

/// A response to be judged: its row and its number there, the judge's prompt, and its random numbers.
pub struct Asked<P = Vec<u32>> {
    pub row: usize,
    pub response: usize,
    /// Token ids, or messages for a judge that has a tokenizer of its own.
    pub prompt: P,
    pub stream: Stream,
}

/// Tokens of judgements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those that the judge wrote.
    pub written: u64,
    /// Those of its prompts, counted for each judgement.
    pub read: u64,
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.read += other.read;
    }
}

/// What became of the responses of a row.
pub struct RowVotes {
    /// The votes of each response; none of one that was not judged.
    pub votes: Vec<Vec<Vote>>,
    pub tokens: Tokens,
    /// Why responses were not judged.
    pub skipped: Option<String>,
}

/// A judge on its device.
pub struct ReadyJudge<B: Backend> {
    judge: Judge,
    model: Qwen3<B>,
    engine: Engine<B>,
}

impl<B: Backend> ReadyJudge<B> {
    /// Puts a judge on a device, with room for what is asked.
    pub fn new(backend: &B, args: &JudgingArgs, loaded: LoadedJudge, asked: &[Asked]) -> anyhow::Result<Self> {
        let LoadedJudge { judge, config, weights } = loaded;
        let (prompt, new) = (args.max_prompt_tokens, args.max_new_tokens);
        let longest =
            asked.iter().map(|asked| asked.prompt.len()).filter(|length| *length <= prompt).max().unwrap_or(1);
        let limits =
            engine_limits(backend, args.device.device, &config, prompt + new, [longest, new, args.max_running])?;
        let model =
            weights.model(&config, |weights| Qwen3::for_inference(backend, config.clone(), weights, prompt + new))?;
        drop(weights);
        let engine = Engine::new(&model, limits)?;
        Ok(Self { judge, model, engine })
    }

    /// Judges what is asked of the rows that `writer` does not have, and gives each finished row to `line`, which makes the
    /// text that is written. Without a writer there is only `line`. Setting `stop` ends it early.
    pub fn run(
        mut self,
        command: &'static str,
        args: &JudgingArgs,
        asked: &[Asked],
        writer: Option<RowWriter>,
        line: impl FnMut(usize, RowVotes) -> String + Send,
        stop: &AtomicBool,
    ) -> anyhow::Result<Ended<EngineError>> {
        let how = args.sampling()?;
        let mut rows = Rows::new(writer, asked.iter().map(|of| of.row), line);
        let limit = args.max_prompt_tokens;
        let open: Vec<&Asked> = asked.iter().filter(|of| rows.is_open(of.row)).collect();
        let (fits, too_long): (Vec<&Asked>, Vec<&Asked>) = open.into_iter().partition(|of| of.prompt.len() <= limit);
        let mut written = too_long.into_iter().try_for_each(|of| rows.skip(of, limit));
        let mut requests: Vec<JudgeRequest<'_>> = Vec::new();
        for of in fits.iter().filter(|_| written.is_ok()) {
            requests.push(JudgeRequest { prompt: &of.prompt, stream: of.stream });
        }
        let (mut bar, mut done) = (StageBar::new(command, (requests.len() * how.votes) as u64, 0), 0);
        let engine =
            self.judge.judge_each(&mut self.engine, &self.model, &how, &requests, Some(stop), |index, votes| {
                done += votes.len() as u64;
                bar.update(done, &[]);
                let tokens = Tokens {
                    written: votes.iter().flatten().map(|judged| judged.completion.tokens.len() as u64).sum(),
                    read: (votes.len() * fits[index].prompt.len()) as u64,
                };
                let votes = votes.into_iter().map(|vote| Vote::read(vote, args.texts)).collect();
                written = rows.answer(fits[index].row, fits[index].response, votes, tokens);
                if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        bar.finish();
        Ok(Ended::new(rows, written, engine))
    }
}

/// How the work ended: with what the writer met, and with what the judge did.
pub struct Ended<E> {
    writer: Option<RowWriter>,
    written: Result<(), RowError>,
    judged: Result<(), E>,
}

impl<E: Into<anyhow::Error>> Ended<E> {
    /// After the last row, or early.
    pub fn new<F>(rows: Rows<F>, written: Result<(), RowError>, judged: Result<(), E>) -> Self {
        Self { writer: rows.writer, written, judged }
    }

    /// The end of the command, which was asked for `count` rows.
    pub fn conclude(self, args: &RowArgs, count: usize) -> anyhow::Result<()> {
        match self.writer {
            Some(writer) => args.conclude(count, writer, self.written, self.judged),
            None => self.judged.map_err(Into::into),
        }
    }
}

/// A row some of whose responses are not judged yet.
#[derive(Default)]
struct Unfinished {
    votes: Vec<Vec<Vote>>,
    ended: usize,
    tokens: Tokens,
    skipped: Option<String>,
}

/// Rows on their way to the output; without a writer, there is only `line`.
pub struct Rows<F> {
    open: HashMap<usize, Unfinished>,
    writer: Option<RowWriter>,
    line: F,
}

impl<F: FnMut(usize, RowVotes) -> String> Rows<F> {
    /// `asked`: the row of each response. Those of rows that the writer has are not asked again.
    pub fn new(writer: Option<RowWriter>, asked: impl Iterator<Item = usize>, line: F) -> Self {
        let mut open: HashMap<usize, Unfinished> = HashMap::new();
        for row in asked.filter(|row| writer.as_ref().is_none_or(|writer| !writer.has(*row))) {
            open.entry(row).or_default().votes.push(Vec::new());
        }
        Self { open, writer, line }
    }

    /// Whether a row waits for votes.
    pub fn is_open(&self, row: usize) -> bool {
        self.open.contains_key(&row)
    }

    /// Leaves out a response whose prompt is too long.
    fn skip(&mut self, asked: &Asked, limit: usize) -> Result<(), RowError> {
        let of = self.open.get_mut(&asked.row).expect("a row is open until its last response");
        let (whose, length) = match of.votes.len() {
            1 => ("its prompt".to_string(), asked.prompt.len()),
            _ => (format!("the prompt of response {}", asked.response + 1), asked.prompt.len()),
        };
        of.skipped.get_or_insert_with(|| format!("{whose} has {length} tokens, more than {limit}"));
        self.ended(asked.row)
    }

    /// Takes the votes of a response, and the tokens that they took.
    pub fn answer(&mut self, row: usize, response: usize, votes: Vec<Vote>, tokens: Tokens) -> Result<(), RowError> {
        let of = self.open.get_mut(&row).expect("a row is open until its last response");
        of.tokens += tokens;
        of.votes[response] = votes;
        self.ended(row)
    }

    fn ended(&mut self, row: usize) -> Result<(), RowError> {
        let of = self.open.get_mut(&row).expect("a row is open until its last response");
        of.ended += 1;
        if of.ended < of.votes.len() {
            return Ok(());
        }
        let Some(Unfinished { votes, tokens, skipped, .. }) = self.open.remove(&row) else { return Ok(()) };
        let line = (self.line)(row, RowVotes { votes, tokens, skipped });
        self.writer.as_mut().map_or(Ok(()), |writer| writer.put(row, line))
    }
}
