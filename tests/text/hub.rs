//! Data sets of the hub: found in a cache laid out by hand, and fetched from a server on this machine that stands for the hub.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use patarm::data::hub::{Hub, HubName};
use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn hub(cache: &Path, endpoint: &str, offline: bool) -> Hub {
    Hub { cache: cache.to_path_buf(), endpoint: endpoint.to_string(), token: Some("secret".into()), offline }
}

fn name(text: &str) -> HubName {
    HubName::parse(text).unwrap()
}

/// A snapshot as the Python library leaves it.
fn cached(cache: &Path, files: &[&str]) -> PathBuf {
    let folder = cache.join("datasets--maker--set");
    let snapshot = folder.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for file in files {
        let path = snapshot.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    snapshot
}

#[test]
fn a_split_is_found_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let files = [
        "README.md",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test-00000-of-00001.parquet",
        "dataset_infos.json",
        "more/other.jsonl",
    ];
    let snapshot = cached(cache.path(), &files);
    let hub = hub(cache.path(), "http://127.0.0.1:1", true);
    let found = hub.files(&name("maker/set:train")).unwrap();
    assert_eq!(found, [snapshot.join(files[1]), snapshot.join(files[2])]);
    assert_eq!(hub.files(&name("hf://datasets/maker/set/more/other.jsonl")).unwrap(), [snapshot.join(files[5])]);
    assert_eq!(hub.files(&name(&format!("maker/set@{COMMIT}:test"))).unwrap(), [snapshot.join(files[3])]);

    std::fs::remove_file(snapshot.join(files[1])).unwrap();
    for (text, words) in [
        ("maker/set", ["several splits: more/other, test, train", "maker/set:SPLIT"]),
        ("maker/set:dev", ["no split dev; it has more/other, test, train", "HF_HUB_OFFLINE is set"]),
        ("maker/set:train", ["only 1 of 2 files", "hf download --repo-type dataset maker/set"]),
        ("maker/other", ["the cache has no main of it", "datasets--maker--other"]),
        ("maker/set@v2:train", ["the cache has no v2 of it", "there is no such file"]),
        ("hf://datasets/maker/set/x.json", ["it has no file x.json", "data/test-00000-of-00001.parquet"]),
    ] {
        let said = hub.files(&name(text)).unwrap_err().to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
    }
}

/// A server that answers GET requests, and keeps the requests.
struct Server {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Status, headers and body for a path.
type Answer = fn(&str) -> (&'static str, Vec<(&'static str, String)>, Vec<u8>);

impl Server {
    fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = requests.clone();
        std::thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap(), answer, &kept)));
        Self { endpoint, requests }
    }
}

fn serve(mut stream: TcpStream, answer: Answer, requests: &Mutex<Vec<String>>) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let head: Vec<String> = lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    let path = head[0].split(' ').nth(1).unwrap().to_string();
    let (status, headers, body) = answer(&path);
    requests.lock().unwrap().push(head.join("\n"));
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n");
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
}

fn the_hub(path: &str) -> (&'static str, Vec<(&'static str, String)>, Vec<u8>) {
    let body = |bytes: &[u8]| (("content-length", bytes.len().to_string()), bytes.to_vec());
    let resolve = format!("/datasets/maker/set/resolve/{COMMIT}/");
    match path {
        "/api/datasets/maker/set/revision/main" => {
            let names =
                ["README.md", "data/train-00000-of-00001.jsonl", "test 1.jsonl", "../evil.jsonl", "/etc/x.json"];
            let files: Vec<_> = names.iter().map(|name| json!({"rfilename": name})).collect();
            let (length, bytes) = body(json!({"sha": COMMIT, "siblings": files}).to_string().as_bytes());
            ("200 OK", vec![length], bytes)
        }
        path if path == format!("{resolve}data/train-00000-of-00001.jsonl") => {
            ("302 Found", vec![("location", "/blob/train".into()), ("content-length", "0".into())], Vec::new())
        }
        "/blob/train" => {
            let (length, bytes) = body(b"{\"n\": 1}\n");
            ("200 OK", vec![length, ("etag", "\"abc-123\"".into())], bytes)
        }
        path if path == format!("{resolve}test%201.jsonl") => {
            ("200 OK", vec![("content-length", "100".into())], b"broken off".to_vec())
        }
        _ => ("404 Not Found", vec![("content-length", "0".into())], Vec::new()),
    }
}

#[test]
fn what_the_cache_lacks_is_fetched_once_and_lies_there_as_the_python_library_would_lay_it() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(the_hub);
    let found = hub(cache.path(), &server.endpoint, false).files(&name("maker/set:train")).unwrap();
    let folder = cache.path().join("datasets--maker--set");
    let path = folder.join("snapshots").join(COMMIT).join("data/train-00000-of-00001.jsonl");
    assert_eq!(found, [path.as_path()]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"n\": 1}\n");
    assert_eq!(path.canonicalize().unwrap(), folder.join("blobs/abc-123").canonicalize().unwrap());
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let requests = server.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests[0].to_lowercase().contains("authorization: bearer secret"), "{}", requests[0]);
    // Now without a network.
    assert_eq!(hub(cache.path(), "http://127.0.0.1:1", true).files(&name("maker/set:train")).unwrap(), found);
}

#[test]
fn what_breaks_off_or_is_not_there_is_an_error_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(the_hub);
    for (text, words) in [
        ("maker/set:test", "resolve"),
        ("maker/set:dev", "no split dev; it has test, train"),
        ("maker/none:x", "there is no such data set"),
    ] {
        let said = hub(cache.path(), &server.endpoint, false).files(&name(text)).unwrap_err().to_string();
        assert!(said.contains(words) && said.contains(&server.endpoint), "{text}: {said}");
    }
    let folder = cache.path().join("datasets--maker--set");
    assert!(!folder.join("refs").exists());
    let snapshot = folder.join("snapshots").join(COMMIT);
    assert_eq!(std::fs::read_dir(snapshot).unwrap().count(), 0, "nothing half is left");
    let said = hub(cache.path(), "http://127.0.0.1:1", false).files(&name("maker/set:x")).unwrap_err().to_string();
    assert!(said.contains("cannot be fetched from http://127.0.0.1:1"), "{said}");
}
