//! A whole weir in this process on the real disk: signed calls over loopback, 64 connections, each
//! answered after its message and bill are synced. Signing is done before the clock starts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir::clock::{Clock, SystemClock};
use weir::config::Config;
use weir::pipeline::{self, Report, Stop};

use crate::support;

const CONNECTIONS: usize = 64;

struct Quiet;

impl Report for Quiet {
    fn progress(&self, _: u64, _: u64) {}
}

type Sender = SendRequest<Empty<Bytes>>;

fn config(folder: &std::path::Path) -> Config {
    let text = format!(
        "data_dir = \"{}\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\ndrain_notice = \"0s\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
         [limits]\ninstance_qps = 1000000\nburst = 1000000\nnonces_max = 100000000\n\
         [delivery.embedded]\nlisten = \"127.0.0.1:0\"\n\
         [[accounts]]\nid = \"1\"\n[[accounts.access_keys]]\nid = \"{}\"\nsecret = \"{}\"\n\
         [[instances]]\nid = \"{}\"\naccount = \"1\"\ntopics = [\"TopicA\"]\n",
        folder.display(),
        support::KEY,
        support::SECRET,
        support::INSTANCE,
    );
    Config::parse("bench", &text).unwrap()
}

async fn connect(address: std::net::SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(nonce: u64, host: &str) -> Request<Empty<Bytes>> {
    let query =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(support::fields()).finish();
    let mut request = Request::post(format!("/?{query}")).body(Empty::new()).unwrap();
    *request.headers_mut() = support::v3(nonce, host);
    request
}

/// Sends all requests over all connections and gives both back with the time it took.
async fn run(
    senders: Vec<Sender>,
    requests: Vec<Request<Empty<Bytes>>>,
) -> (Vec<Sender>, Duration) {
    let mut shares: Vec<Vec<_>> = (0..CONNECTIONS).map(|_| vec![]).collect();
    for (at, request) in requests.into_iter().enumerate() {
        shares[at % CONNECTIONS].push(request);
    }
    let mut tasks = JoinSet::new();
    let began = SystemClock.now();
    for (mut sender, share) in senders.into_iter().zip(shares) {
        tasks.spawn(async move {
            for request in share {
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status().as_u16(), 200);
                response.into_body().collect().await.unwrap();
            }
            sender
        });
    }
    let senders = tasks.join_all().await;
    (senders, SystemClock.now() - began)
}

pub(crate) fn end_to_end(criterion: &mut Criterion) {
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in("target").unwrap();
    let runtime = Runtime::new().unwrap();
    let running = runtime
        .block_on(pipeline::start(config(folder.path()), Arc::new(SystemClock), Arc::new(Quiet)))
        .unwrap();
    let address = running.addresses.http;
    let (stop, stopped) = watch::channel(Stop::Run);
    let serving = runtime.spawn(running.until(stopped));
    let mut senders = runtime.block_on(async {
        let mut senders = vec![];
        for _ in 0..CONNECTIONS {
            senders.push(connect(address).await);
        }
        senders
    });
    let mut nonce = 0;
    let mut group = criterion.benchmark_group("end to end");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(10));
    group.bench_function("64 connections", |bencher| {
        bencher.iter_custom(|iterations| {
            let host = address.to_string();
            let requests = (0..iterations).map(|at| request(nonce + at, &host)).collect();
            nonce += iterations;
            let (same, took) = runtime.block_on(run(std::mem::take(&mut senders), requests));
            senders = same;
            took
        });
    });
    group.finish();
    stop.send(Stop::Now).unwrap();
    runtime.block_on(serving).unwrap();
}
