//! A server that speaks the chat completions of OpenAI: one POST, tried again as long as that can help.
//!
//! The key goes into one header and nowhere else. Whatever the server says is searched for it before anything is shown or kept,
//! and no redirect is followed, so that neither the key nor a prompt reaches a host that was not named.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use ureq::http::{HeaderMap, HeaderValue, Uri, header};

use crate::random::Stream;

/// The path below the address of a server.
const PATH: &str = "/chat/completions";
/// The largest answer that is read. A judgement has a few kilobytes, with long thoughts a few hundred.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// The largest explanation of a failure that is read, and how many characters of it are shown.
const REASON_BYTES_MAX: u64 = 64 << 10;
const REASON_CHARACTERS_MAX: usize = 300;
/// The wait before the second attempt, which doubles from attempt to attempt, and the longest one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest wait that a server may ask for.
const ASKED_WAIT_MAX: Duration = Duration::from_secs(120);
/// A shorter key is a word that servers without keys are given (`EMPTY`), and may stand in a text by chance.
const KEY_CHARACTERS_MIN: usize = 8;
/// Where the jitter of a judgement lies in its random numbers. Lane 0 is its seed.
const JITTER: u32 = 1;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The last attempt failed as the ones before. Another request may be answered.
    #[error("{0}")]
    Down(String),
    /// The server does not take this request, such as one whose prompt is too long for it. It may take another.
    #[error("{0}")]
    Rejected(String),
    /// Every other request would fail too.
    #[error("{0}")]
    Refused(String),
}

/// How a server is asked.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The address before `/chat/completions`, such as `http://localhost:8000/v1`.
    pub address: String,
    /// The environment variable that the key is in.
    pub key_variable: String,
    /// Attempts of each request.
    pub attempts: usize,
    /// How long one attempt may take, from the connection to the last byte.
    pub time_limit: Duration,
    /// Requests at the same time.
    pub concurrency: usize,
    /// Attempts that may begin in a minute, of all requests together; 0: any number.
    pub requests_per_minute: usize,
}

/// A server, and the key that it is asked with. It has no `Debug`, which would show the key.
pub struct ChatServer {
    agent: ureq::Agent,
    url: String,
    key: Option<(String, HeaderValue)>,
    settings: ServerSettings,
    pace: Pace,
}

/// Attempts begin at least so far apart, whoever makes them.
struct Pace {
    apart: Duration,
    next: Mutex<Instant>,
}

/// What became of one attempt that failed.
enum Fault {
    /// The next attempt may succeed; `wait`: what the server asks for.
    Passing {
        reason: String,
        wait: Option<Duration>,
    },
    /// It is this request that is not taken.
    Rejected(String),
    Lasting(String),
}

impl Pace {
    fn new(per_minute: usize) -> Self {
        let apart = if per_minute == 0 { 0.0 } else { 60.0 / per_minute as f64 };
        Self { apart: Duration::from_secs_f64(apart), next: Mutex::new(Instant::now()) }
    }

    /// How long an attempt must wait that is ready now. Its place is taken.
    fn place(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.max(*next);
        *next = at + self.apart;
        at - now
    }
}

impl ChatServer {
    /// Nothing is asked yet. `key`: what the environment variable holds, if it is set. An error if the address or the key
    /// cannot be used; it does not say the key.
    pub fn new(settings: ServerSettings, key: Option<String>) -> Result<Self, String> {
        let url = url(&settings.address)?;
        let header = |key: String| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| format!("the key in {} has a character that no header can hold", settings.key_variable))?;
            value.set_sensitive(true);
            Ok::<_, String>((key, value))
        };
        let key = key.map(|key| key.trim().to_string()).filter(|key| !key.is_empty()).map(header).transpose()?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(settings.time_limit))
            .max_idle_connections(settings.concurrency)
            .max_idle_connections_per_host(settings.concurrency)
            .user_agent(concat!("patarm-train/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let pace = Pace::new(settings.requests_per_minute);
        Ok(Self { agent, url, key, settings, pace })
    }

    /// Whether others on the way can read the key: it goes to another machine, and is not encrypted.
    pub fn shows_key(&self) -> bool {
        let uri: Option<Uri> = self.url.parse().ok();
        let is_open = |uri: Uri| uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_loopback);
        self.key.is_some() && uri.is_some_and(is_open)
    }

    /// Posts a body until `read` can read the answer. The waits between attempts grow, with a jitter from `stream`.
    pub fn post<T>(
        &self,
        body: &str,
        stream: Stream,
        read: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, EndpointError> {
        let mut attempt = 1;
        loop {
            std::thread::sleep(self.pace.place(Instant::now()));
            let read = |bytes: Vec<u8>| read(&bytes).map_err(|reason| Fault::Passing { reason, wait: None });
            match self.attempt(body).and_then(read) {
                Ok(answer) => return Ok(answer),
                Err(Fault::Lasting(reason)) => return Err(EndpointError::Refused(self.with_address(&reason))),
                Err(Fault::Rejected(reason)) => return Err(EndpointError::Rejected(self.with_address(&reason))),
                Err(Fault::Passing { reason, .. }) if attempt >= self.settings.attempts => {
                    return Err(EndpointError::Down(self.with_address(&reason)));
                }
                Err(Fault::Passing { wait, .. }) => {
                    std::thread::sleep(wait.unwrap_or_else(|| back_off(attempt, stream)));
                    attempt += 1;
                }
            }
        }
    }

    /// `text` without the key, if a server repeats it.
    pub fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some((key, _)) if key.chars().count() >= KEY_CHARACTERS_MIN => text.replace(key.as_str(), "[key]"),
            _ => text.to_string(),
        }
    }

    fn attempt(&self, body: &str) -> Result<Vec<u8>, Fault> {
        let passing = |error: ureq::Error| Fault::Passing { reason: self.shown(&error.to_string()), wait: None };
        let mut request = self.agent.post(&self.url).header(header::CONTENT_TYPE, "application/json");
        if let Some((_, value)) = &self.key {
            request = request.header(header::AUTHORIZATION, value);
        }
        let mut answer = request.send(body).map_err(passing)?;
        let (status, wait) = (answer.status().as_u16(), asked_wait(answer.headers()));
        let place = answer.headers().get(header::LOCATION);
        let place = place.map(|place| self.shown(&String::from_utf8_lossy(place.as_bytes())));
        let is_answer = (200..300).contains(&status);
        let limit = if is_answer { ANSWER_BYTES_MAX } else { REASON_BYTES_MAX };
        let bytes = answer.body_mut().with_config().limit(limit).read_to_vec();
        if is_answer {
            return bytes.map_err(passing);
        }
        let said = bytes.map_or(String::new(), |bytes| self.shown(&explanation(&bytes)));
        let said = format!("HTTP {status}{said}");
        let variable = &self.settings.key_variable;
        Err(match (status, place, &self.key) {
            (408 | 425 | 429 | 500.., ..) => Fault::Passing { reason: said, wait },
            (400 | 413 | 422, ..) => Fault::Rejected(said),
            (401 | 403, _, Some(_)) => Fault::Lasting(format!("{said}; the key was that in {variable}")),
            (401 | 403, _, None) => Fault::Lasting(format!("{said}; there was no key: set {variable}")),
            (300..=399, Some(place), _) => {
                Fault::Lasting(format!("{said}: it sends on to {place}, which is not followed"))
            }
            _ => Fault::Lasting(said),
        })
    }

    /// What a server or the network says, as it may be shown: without the key, on one line, and cut.
    fn shown(&self, text: &str) -> String {
        let text = self.without_key(text);
        let shown: String = text.chars().take(REASON_CHARACTERS_MAX).flat_map(char::escape_debug).collect();
        let more = if text.chars().nth(REASON_CHARACTERS_MAX).is_some() { "…" } else { "" };
        format!("{}{more}", shown.replace("\\\"", "\"").replace("\\'", "'"))
    }

    fn with_address(&self, reason: &str) -> String {
        format!("{}: {reason}", self.without_key(&self.url))
    }
}

/// The address of chat completions below that of a server.
fn url(address: &str) -> Result<String, String> {
    let uri: Uri = address.parse().map_err(|error| format!("is no address: {error}"))?;
    if !["http", "https"].contains(&uri.scheme_str().unwrap_or_default()) || uri.host().is_none_or(str::is_empty) {
        return Err("expected an address such as http://localhost:8000/v1".into());
    }
    // It is shown, and kept beside the rows.
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
        return Err("an address may hold no user, password or query".into());
    }
    Ok(format!("{}{PATH}", address.trim_end_matches('/')))
}

/// Whether a host is this machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// What the body of a failure says, after a colon: the message of OpenAI's form, or all of it.
fn explanation(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let message = value.as_ref().and_then(|value| {
        let error = &value["error"];
        [&error["message"], error, &value["message"], &value["detail"]].into_iter().find_map(Value::as_str)
    });
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_string);
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

/// The wait after an attempt (the first is 1) that failed: between a half and the whole of a span that doubles.
fn back_off(attempt: usize, stream: Stream) -> Duration {
    let doublings = u32::try_from(attempt - 1).unwrap_or(u32::MAX).min(16);
    let span = (FIRST_WAIT * 2u32.pow(doublings)).min(WAIT_MAX);
    let [word, ..] = stream.block(u32::try_from(attempt).unwrap_or(u32::MAX), JITTER);
    span.mul_f32(0.5 + 0.5 * crate::random::unit(word))
}

/// The wait that a server asks for: seconds, or the date until which.
fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds.clamp(0.0, ASKED_WAIT_MAX.as_secs_f64())).ok()?,
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?;
            until.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(ASKED_WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_by_a_date_and_has_a_limit() {
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            asked_wait(&headers)
        };
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds));
        assert_eq!(
            (asked("0"), asked("7"), asked(" 1.5 ")),
            (seconds(0), seconds(7), Some(Duration::from_millis(1500)))
        );
        assert_eq!((asked("-1"), asked("1e300"), asked("999999")), (seconds(0), seconds(120), seconds(120)));
        assert_eq!((asked("NaN"), asked("soon"), asked("")), (None, None, None));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT"), seconds(0));
        assert_eq!(asked("Tue, 01 Jan 2999 00:00:00 GMT"), seconds(120));
        let near = asked(&httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60))).unwrap();
        assert!((50..=60).contains(&near.as_secs()), "{near:?}");
        assert_eq!(asked_wait(&HeaderMap::new()), None);
    }

    #[test]
    fn waits_double_up_to_a_limit_and_differ_from_request_to_request() {
        let stream = Stream::new(1);
        for (attempt, most) in [(1, 500), (2, 1000), (3, 2000), (7, 30_000), (usize::MAX, 30_000)] {
            let wait = back_off(attempt, stream).as_millis();
            assert!((most / 2..=most).contains(&wait), "{attempt}: {wait}");
            assert_eq!(wait, back_off(attempt, stream).as_millis());
        }
        assert_ne!(back_off(1, stream), back_off(1, stream.fold(1)));
    }

    #[test]
    fn addresses_are_http_and_hold_no_secret() {
        assert_eq!(url("http://localhost:8000/v1/").unwrap(), "http://localhost:8000/v1/chat/completions");
        for address in
            ["", "localhost:8000", "ftp://a/v1", "http://", "http://me:word@host/v1", "https://host/v1?key=1"]
        {
            assert!(url(address).is_err(), "{address}");
        }
    }

    #[test]
    fn what_a_server_says_is_shown_on_one_line_cut_and_without_the_key() {
        let settings = ServerSettings {
            address: "http://host/v1".into(),
            key_variable: "KEY".into(),
            attempts: 1,
            time_limit: Duration::from_secs(1),
            concurrency: 1,
            requests_per_minute: 0,
        };
        let server = ChatServer::new(settings.clone(), Some("sk-12345678\n".into())).unwrap();
        let said = server.shown(&explanation(br#"{"error": {"message": "no \"key\" sk-12345678\n\u001b[31m"}}"#));
        assert_eq!(said, r#": no "key" [key]\n\u{1b}[31m"#);
        let long = server.shown(&"é".repeat(1000));
        assert_eq!(long.chars().filter(|c| *c == 'é').count(), REASON_CHARACTERS_MAX);
        assert_eq!(explanation(b"<html>"), ": <html>");
        assert_eq!(explanation(b" "), "");
        let error = ChatServer::new(settings.clone(), Some("sk-\u{1}12345678".into())).err().unwrap();
        assert!(error.contains("KEY") && !error.contains("12345678"), "{error}");

        let shows = |address: &str, key: &str| {
            let settings = ServerSettings { address: address.into(), ..settings.clone() };
            ChatServer::new(settings, Some(key.into())).unwrap().shows_key()
        };
        for own in ["http://localhost:1/v1", "http://127.0.0.9/v1", "http://[::1]:8000/v1", "http://a.localhost/v1"] {
            assert!(!shows(own, "sk-12345678"), "{own}");
        }
        for open in ["http://10.0.0.1/v1", "http://localhost.com/v1", "http://[2001:db8::1]/v1", "http://host/v1"] {
            assert!(shows(open, "sk-12345678") && !shows(open, ""), "{open}");
            assert!(!shows(&open.replace("http:", "https:"), "sk-12345678"), "{open}");
        }
    }

    #[test]
    fn attempts_begin_as_far_apart_as_a_limit_wants() {
        let pace = Pace::new(120);
        let start = Instant::now() + Duration::from_secs(1);
        let millis = |wait: Duration| wait.as_millis();
        // Two are ready at once, one a little later, one long after that.
        assert_eq!((millis(pace.place(start)), millis(pace.place(start))), (0, 500));
        assert_eq!(millis(pace.place(start + Duration::from_millis(600))), 400);
        let late = start + Duration::from_secs(9);
        assert_eq!((millis(pace.place(late)), millis(pace.place(late))), (0, 500));
        let none = Pace::new(0);
        assert!((0..1000).all(|_| none.place(start).is_zero()));
    }
}
