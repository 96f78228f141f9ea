//! A judge behind an HTTP endpoint: its flags, and votes on responses of rows.
//!
//! Threads ask for one vote at a time, and one thread takes the answers and writes rows. When the command ends early, it does
//! not wait for answers that are on their way: their rows are not written, and are asked again by --resume.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::flag;
use super::judged_rows::{Asked, Ended, RowVotes, Rows, Tokens};
use super::judging::{JudgingArgs, UNAVAILABLE, Vote};
use crate::data::Message;
use crate::file::{RowError, RowWriter, say};
use crate::judge::{
    ChatServer, EndpointError, EndpointJudge, JudgeSampling, JudgeSettings, RemoteJudgement, ServerSettings,
};
use crate::log::StageBar;
use crate::setting::{above, count};

/// A judge behind an endpoint.
#[derive(Clone, Debug, Args)]
pub struct EndpointArgs {
    /// Address of an OpenAI-compatible server whose model judges, such as http://localhost:8000/v1.
    #[arg(
        long,
        value_name = "URL",
        requires = "data",
        requires = "endpoint_model",
        conflicts_with_all = ["model", "thinking", "max_prompt_tokens", "max_running", "threads", "device"]
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
    /// Requests that may begin in a minute, each attempt being one; 0: as many as the server answers. They begin evenly apart.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        requires = "endpoint",
        value_parser = flag::<usize>(count(0, 1_000_000))
    )]
    pub requests_per_minute: usize,
    /// Attempts of each request, before its vote is unavailable.
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

impl EndpointArgs {
    /// All that rows of `command` by this endpoint's judge depend on.
    pub fn made_with(
        &self,
        command: &str,
        judge: &EndpointJudge,
        judging: &JudgingArgs,
        input: String,
    ) -> Result<Value, serde_json::Error> {
        let more = json!({"endpoint": self.endpoint, "model": self.endpoint_model});
        judging.made_with(command, judge.settings(), input, more)
    }

    /// The judge at an address, with the prompt and the rules that the command line says, or the built-in ones.
    pub fn judge(&self, address: &str, judging: &JudgingArgs) -> anyhow::Result<EndpointJudge> {
        let EndpointArgs { endpoint_model, endpoint_key_env, attempts, request_seconds, .. } = self;
        let settings = judging.changed(&*JudgeSettings::built_in()?)?;
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
            concurrency: self.concurrency,
            requests_per_minute: self.requests_per_minute,
        };
        let server = ChatServer::new(server, key).map_err(anyhow::Error::msg);
        let server =
            server.with_context(|| format!("--endpoint {}", if address.contains('@') { "URL" } else { address }))?;
        if server.shows_key() {
            say!(
                "note: the key in {variable} goes to {address} without encryption: whoever is on the way can read it; use https"
            );
        }
        Ok(EndpointJudge::new(settings, server, endpoint_model.as_deref().unwrap_or_default())?)
    }
}

/// What the threads that ask have in common.
struct Work {
    judge: EndpointJudge,
    how: JudgeSampling,
    asked: Vec<Asked<Vec<Message>>>,
    /// Responses, by their place in `asked`, with the number of a vote.
    open: Vec<(usize, usize)>,
    /// How many of those are taken.
    taken: AtomicUsize,
    /// There is nothing more to ask: a server has refused, or nobody waits for answers.
    over: AtomicBool,
}

/// What became of a vote: its place in [`Work::open`], and the answer.
type Heard = (usize, Result<RemoteJudgement, EndpointError>);

/// Asks for the votes on what the rows wait for, and gives each finished row to `line`, which makes the text that is written.
/// Without a writer there is only `line`. Setting `stop` ends it early. `name`: of the command, for its progress bar.
pub fn ask(
    name: &'static str,
    judge: EndpointJudge,
    args: (&EndpointArgs, &JudgingArgs),
    asked: Vec<Asked<Vec<Message>>>,
    writer: Option<RowWriter>,
    line: impl FnMut(usize, RowVotes) -> String,
    stop: &AtomicBool,
) -> anyhow::Result<Ended<anyhow::Error>> {
    let (endpoint, judging) = args;
    let how = judging.sampling()?;
    let mut rows = Rows::new(writer, asked.iter().map(|of| of.row), line);
    let is_open = |(_, of): &(usize, &Asked<_>)| rows.is_open(of.row);
    let open = asked.iter().enumerate().filter(is_open).flat_map(|(of, _)| (0..how.votes).map(move |vote| (of, vote)));
    let open: Vec<(usize, usize)> = open.collect();
    let work = Work { judge, how, asked, open, taken: AtomicUsize::new(0), over: AtomicBool::new(false) };
    let work = Arc::new(work);
    let (sender, receiver) = channel();
    for number in 0..endpoint.concurrency.min(work.open.len()) {
        let (work, sender) = (work.clone(), sender.clone());
        let thread = std::thread::Builder::new().name(format!("endpoint-{number}"));
        thread.spawn(move || work.ask(&sender)).context("--concurrency: no more threads can be started")?;
    }
    drop(sender);
    let mut bar = StageBar::new(name, work.open.len() as u64, 0);
    let mut written = Ok(());
    let judged = take(&work, &receiver, &mut rows, &mut written, judging.texts, &mut bar, stop);
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
            let answer = self.judge.judge(&of.prompt, &self.how, of.stream.fold(*vote as u64));
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
    tokens: Tokens,
}

/// Requests that the server did not take, as long as it has taken none.
#[derive(Default)]
struct Rejected {
    reason: Option<String>,
    responses: HashSet<usize>,
    /// The server has answered, or has said something else: the first reason is not one that every request has.
    differ: bool,
}

/// So many responses whose requests are rejected for one reason, before any was answered, end the command.
const REJECTED_MAX: usize = 8;

impl Rejected {
    /// Takes note of a request for a response. An error if it looks as if every request would be rejected.
    fn add(&mut self, response: usize, reason: &str) -> anyhow::Result<()> {
        self.differ |= self.reason.get_or_insert_with(|| reason.into()) != reason;
        self.responses.insert(response);
        let all = self.responses.len() >= REJECTED_MAX;
        ensure!(self.differ || !all, "{reason} (the same for the first {REJECTED_MAX} responses)");
        Ok(())
    }

    /// Whether every request may yet turn out to be rejected.
    fn is_open(&self) -> bool {
        !self.differ && !self.responses.is_empty()
    }
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
    let (mut done, mut down, mut rejected) = (0, 0, Rejected::default());
    // Rows that are not written before it is known that the server answers at all.
    let mut held: Vec<(usize, Ballot)> = Vec::new();
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
                rejected.differ = true;
                ballot.tokens += Tokens { written: judged.tokens, read: judged.prompt_tokens };
                Vote::of(&judged.verdict, judged.text, texts)
            }
            Err(EndpointError::Refused(reason)) => bail!(reason),
            Err(error @ (EndpointError::Down(_) | EndpointError::Rejected(_))) => {
                let reason = error.to_string();
                if matches!(error, EndpointError::Rejected(_)) {
                    rejected.add(of, &reason)?;
                }
                down += 1;
                if down == 1 {
                    bar.say(&format!("note: a vote is {UNAVAILABLE}, and further ones are only counted: {reason}"));
                }
                Vote::without(UNAVAILABLE)
            }
        });
        done += 1;
        bar.update(done as u64, &[(UNAVAILABLE, f64::from(down))]);
        if ballot.votes.iter().all(Option::is_some) {
            held.push((of, std::mem::take(ballot)));
        }
        if !rejected.is_open() || done == work.open.len() {
            *written = held.drain(..).try_for_each(|(of, Ballot { votes, tokens })| {
                let Asked { row, response, .. } = work.asked[of];
                rows.answer(row, response, votes.into_iter().flatten().collect(), tokens)
            });
        }
    }
    Ok(())
}
