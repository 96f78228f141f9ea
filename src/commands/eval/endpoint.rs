//! A judge behind an HTTP endpoint on the rows of a benchmark.
//!
//! Threads ask for one vote at a time, and one thread takes the answers and writes rows. When the command ends early, it does
//! not wait for answers that are on their way: their rows are not written, and are asked again by --resume.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::row::{EvalRow, Sheet};
use super::{EvalArgs, finish_judged, stream, try_all_outputs};
use crate::commands::flag;
use crate::commands::judged_rows::{Ended, RowVotes, Rows};
use crate::commands::judging::{JUDGE_DOWN, Vote};
use crate::data::{Message, sources};
use crate::eval::Benchmark;
use crate::eval::question::{Question, read_questions};
use crate::file::{RowError, RowOutput};
use crate::judge::{
    ChatServer, EndpointError, EndpointJudge, JudgeSampling, JudgeSettings, RemoteJudgement, ServerSettings,
};
use crate::log::StageBar;
use crate::random::Stream;
use crate::setting::{above, count};
use crate::train::dataset::{report_default_tasks, report_routed_tasks, report_skipped};

/// A judge behind an endpoint.
#[derive(Clone, Debug, Args)]
pub struct EndpointArgs {
    /// Address of an OpenAI-compatible server whose model judges, such as http://localhost:8000/v1.
    #[arg(
        long,
        value_name = "URL",
        requires = "data",
        requires = "endpoint_model",
        conflicts_with_all = ["model", "from_scores", "thinking", "max_prompt_tokens", "max_running", "threads", "device"]
    )]
    pub endpoint: Option<String>,
    /// The model's name on the server.
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub endpoint_model: Option<String>,
    /// Environment variable that holds the server's key. Without one, none is sent. [default: OPENAI_API_KEY]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub endpoint_key_env: Option<String>,
    /// Requests at the same time; changes speed alone.
    #[arg(
        long,
        default_value_t = 8,
        allow_negative_numbers = true,
        requires = "endpoint",
        value_parser = flag::<usize>(count(1, 1024))
    )]
    pub concurrency: usize,
    /// Attempts of each request, before its vote is judge_down.
    #[arg(
        long,
        default_value_t = 6,
        allow_negative_numbers = true,
        requires = "endpoint",
        value_parser = flag::<usize>(count(1, 100))
    )]
    pub attempts: usize,
    /// Seconds that one attempt may take, from the connection to the last byte of the answer.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300.0,
        allow_negative_numbers = true,
        requires = "endpoint",
        value_parser = flag::<f64>(above(0.0, 86_400.0))
    )]
    pub request_seconds: f64,
}

/// How often a signal to stop is looked for while no answer comes.
const TICK: Duration = Duration::from_millis(50);

/// Judges every response, writes a row a question, and prints the table. Ctrl-C ends it early.
pub fn run(args: &EvalArgs, address: &str) -> anyhow::Result<()> {
    let output = try_all_outputs(args, None)?;
    let judge = judge(args, address)?;
    let stop = crate::commands::stop_flag()?;
    let (benchmark, rows) = evaluate(args, judge, output, &stop)?;
    let name = args.endpoint.endpoint_model.as_deref().unwrap_or_default();
    let tally = finish_judged(args, benchmark, &rows, &format!("{name} at {address}"))?;
    let down = tally.failed.get(JUDGE_DOWN).copied().unwrap_or(0);
    ensure!(tally.calls == 0 || down < tally.calls, "{address} answered no request");
    Ok(())
}

fn judge(args: &EvalArgs, address: &str) -> anyhow::Result<EndpointJudge> {
    let EndpointArgs { endpoint_model, endpoint_key_env, concurrency, attempts, request_seconds, .. } = &args.endpoint;
    let settings = args.judging.changed(&*JudgeSettings::built_in()?)?;
    let variable = endpoint_key_env.as_deref().unwrap_or("OPENAI_API_KEY");
    // The value of a variable that is no text is not shown either.
    let key = std::env::var_os(variable).map(|key| key.into_string());
    let key = key.transpose().map_err(|_| anyhow::anyhow!("the key in {variable} is no text"))?;
    ensure!(key.is_some() || endpoint_key_env.is_none(), "--endpoint-key-env {variable}: is not set");
    let server = ServerSettings {
        address: address.to_string(),
        key_variable: variable.to_string(),
        attempts: *attempts,
        time_limit: Duration::from_secs_f64(*request_seconds),
        concurrency: *concurrency,
    };
    let server = ChatServer::new(server, key).map_err(anyhow::Error::msg);
    let server =
        server.with_context(|| format!("--endpoint {}", if address.contains('@') { "URL" } else { address }))?;
    Ok(EndpointJudge::new(settings, server, endpoint_model.as_deref().unwrap_or_default())?)
}

/// A response to be judged: its row and its number there, the judge's prompt, and its random numbers.
struct Asked {
    row: usize,
    response: usize,
    messages: Vec<Message>,
    stream: Stream,
}

/// What the threads that ask have in common.
struct Work {
    judge: EndpointJudge,
    how: JudgeSampling,
    asked: Vec<Asked>,
    /// Responses, by their place in `asked`, with the number of a vote.
    open: Vec<(usize, usize)>,
    /// How many of those are taken.
    taken: AtomicUsize,
    /// There is nothing more to ask: a server has refused, or nobody waits for answers.
    over: AtomicBool,
}

/// What became of a vote: its place in [`Work::open`], and the answer.
type Heard = (usize, Result<RemoteJudgement, EndpointError>);

fn evaluate(
    args: &EvalArgs,
    judge: EndpointJudge,
    output: Option<RowOutput>,
    stop: &AtomicBool,
) -> anyhow::Result<(Benchmark, Vec<EvalRow>)> {
    let files: Vec<PathBuf> = sources::resolve(&args.data)?;
    let read = read_questions(&files, args.benchmark, &args.judging.load_options(judge.settings()))?;
    let (questions, how) = (read.questions, args.judging.sampling()?);
    let mut asked = Vec::new();
    for (row, question) in questions.iter().enumerate() {
        for (response, text) in question.responses.iter().enumerate() {
            let messages = judge.messages(&question.task, &question.prompt, text)?;
            asked.push(Asked { row, response, messages, stream: stream(&how, question, text) });
        }
    }
    report_routed_tasks(questions.iter().map(|question| (question.task.as_str(), question.task_by)));
    report_default_tasks(|task| judge.falls_to_default(task), questions.iter().map(|question| question.task.as_str()));
    report_skipped(&read.skipped, 0, 0);
    let mut sheet = Sheet::new(read.benchmark, &questions);
    let writer = sheet.begin(output, &made_with(args, &judge, &questions, &asked)?)?;
    let line = |index: usize, of: RowVotes| sheet.line(index, of);
    let rows = Rows::new(writer, asked.iter().map(|of| of.row), line);
    let is_open = |(_, of): &(usize, &Asked)| rows.is_open(of.row);
    let open = asked.iter().enumerate().filter(is_open).flat_map(|(of, _)| (0..how.votes).map(move |vote| (of, vote)));
    let open: Vec<(usize, usize)> = open.collect();
    let work = Work { judge, how, asked, open, taken: AtomicUsize::new(0), over: AtomicBool::new(false) };
    ask(Arc::new(work), rows, args, stop)?.conclude(&args.rows, questions.len())?;
    Ok((read.benchmark, sheet.into_rows()))
}

/// Asks for every open vote.
fn ask<F: FnMut(usize, RowVotes) -> String>(
    work: Arc<Work>,
    mut rows: Rows<F>,
    args: &EvalArgs,
    stop: &AtomicBool,
) -> anyhow::Result<Ended<anyhow::Error>> {
    let (sender, receiver) = channel();
    for number in 0..args.endpoint.concurrency.min(work.open.len()) {
        let (work, sender) = (work.clone(), sender.clone());
        let thread = std::thread::Builder::new().name(format!("endpoint-{number}"));
        thread.spawn(move || work.ask(&sender)).context("--concurrency: no more threads can be started")?;
    }
    drop(sender);
    let mut bar = StageBar::new("eval", work.open.len() as u64, 0);
    let mut written = Ok(());
    let judged = take(&work, &receiver, &mut rows, &mut written, args.judging.texts, &mut bar, stop);
    work.over.store(true, Ordering::Relaxed);
    bar.finish();
    Ok(Ended::new(rows, written, judged))
}

impl Work {
    /// Asks for one vote after the other.
    fn ask(&self, heard: &Sender<Heard>) {
        while !self.over.load(Ordering::Relaxed) {
            let place = self.taken.fetch_add(1, Ordering::Relaxed);
            let Some((of, vote)) = self.open.get(place) else { return };
            let of = &self.asked[*of];
            let answer = self.judge.judge(&of.messages, &self.how, of.stream.fold(*vote as u64));
            if matches!(answer, Err(EndpointError::Refused(_))) {
                self.over.store(true, Ordering::Relaxed);
            }
            if heard.send((place, answer)).is_err() {
                return;
            }
        }
    }
}

/// The votes of a response until the last of them is there.
#[derive(Default)]
struct Ballot {
    votes: Vec<Option<Vote>>,
    tokens: u64,
}

/// Takes answers until all are there, the output cannot be written, or `stop` is set.
fn take<F: FnMut(usize, RowVotes) -> String>(
    work: &Work,
    heard: &Receiver<Heard>,
    rows: &mut Rows<F>,
    written: &mut Result<(), RowError>,
    texts: bool,
    bar: &mut StageBar,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut ballots: Vec<Ballot> = work.asked.iter().map(|_| Ballot::default()).collect();
    let (mut done, mut down) = (0, 0);
    while done < work.open.len() && written.is_ok() {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        let (place, answer) = match heard.recv_timeout(TICK) {
            Ok(heard) => heard,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => bail!("the threads that ask have ended early"),
        };
        let (of, vote) = work.open[place];
        let ballot = &mut ballots[of];
        ballot.votes.resize(work.how.votes, None);
        ballot.votes[vote] = Some(match answer {
            Ok(judged) => {
                ballot.tokens += judged.tokens;
                Vote::of(&judged.verdict, judged.text, texts)
            }
            Err(EndpointError::Refused(reason)) => bail!(reason),
            Err(EndpointError::Down(reason)) => {
                down += 1;
                if down == 1 {
                    bar.say(&format!("note: a vote is {JUDGE_DOWN}, and further ones are only counted: {reason}"));
                }
                Vote::without(JUDGE_DOWN)
            }
        });
        done += 1;
        bar.update(done as u64, &[(JUDGE_DOWN, f64::from(down))]);
        if ballot.votes.iter().all(Option::is_some) {
            let Ballot { votes, tokens } = std::mem::take(ballot);
            let Asked { row, response, .. } = work.asked[of];
            *written = rows.answer(row, response, votes.into_iter().flatten().collect(), tokens);
        }
    }
    Ok(())
}

/// All that a row depends on: rows that were made with the same can stand in one output.
fn made_with(args: &EvalArgs, judge: &EndpointJudge, questions: &[Question], asked: &[Asked]) -> anyhow::Result<Value> {
    let mut input = blake3::Hasher::new();
    let mut add = |value: Value| {
        let text = value.to_string();
        input.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    questions.iter().for_each(|question| add(json!([question.case, question.task])));
    asked.iter().for_each(|asked| add(json!(asked.messages)));
    Ok(json!({
        "command": "eval",
        "endpoint": args.endpoint.endpoint,
        "model": args.endpoint.endpoint_model,
        "input": input.finalize().to_hex().to_string(),
        "judge": serde_json::to_value(judge.settings())?,
        "votes": args.judging.votes,
        "temperature": args.judging.temperature,
        "max_new_tokens": args.judging.max_new_tokens,
        "seed": args.judging.seed,
        "texts": args.judging.texts,
    }))
}
