use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, HeaderValue, Request, Uri};
use hyper::body::{Body, Incoming};
use tokio::sync::watch;

use super::access::{AccessLog, Line};
use super::body::Format;
use super::crossing::{Aside, Crossing};
use super::peer::Proxies;
use super::problem::Problem;
use super::request::{self, Arrived, BodySpace};
use super::request_id::{RequestId, RequestIds};
use super::response::{self, Answer, Asked, Code, ThrottleStatus};
use crate::admission::{Admission, Quota, Refused, SendMessage};
use crate::clock::Clock;
use crate::message::InstanceId;
use crate::metering::WireMetrics;
use crate::queue::{Queue, Receipt};

/// A bug struck after the message was pushed: nobody knows whether it is stored, so its connection
/// closes without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outcome of a call is unknown")]
pub(super) struct OutcomeUnknown;

/// What the calls of one connection have in common.
#[derive(Clone)]
pub(super) struct Caller {
    /// Who is connected, by its own word or by that of a trusted proxy's PROXY header.
    pub(super) client: IpAddr,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// What every call of every connection is served with.
pub(super) struct Service {
    pub(super) admission: Arc<Admission>,
    pub(super) queue: Queue,
    pub(super) metrics: WireMetrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) request_ids: RequestIds,
    pub(super) body_deadline: Duration,
    pub(super) body_space: BodySpace,
    pub(super) throttle_status: ThrottleStatus,
    pub(super) access: Option<AccessLog>,
    pub(super) proxies: Arc<Proxies>,
}

/// What became of a call before anything had to be waited for.
struct Asking {
    format: Format,
    instance: Option<InstanceId>,
    quota: Option<Quota>,
    pushed: Result<Receipt, Problem>,
}

impl Asking {
    const fn refused(problem: Problem) -> Self {
        Self { format: Format::Json, instance: None, quota: None, pushed: Err(problem) }
    }
}

/// An answer, and what the access log says of its call.
struct Answered {
    answer: Answer,
    /// Whether a part of the request may still be on its way.
    unread: bool,
    code: Code,
    instance: Option<InstanceId>,
    bytes_in: usize,
    took: Duration,
}

/// Why a call was not pushed, and what was known of its instance by then.
struct Unpushed {
    problem: Problem,
    instance: Option<InstanceId>,
    quota: Option<Quota>,
}

impl From<Refused> for Unpushed {
    fn from(refused: Refused) -> Self {
        let Refused { refusal, instance, quota } = refused;
        Self { problem: Problem::Refusal(refusal), instance, quota }
    }
}

impl Service {
    /// Serves one call of an HTTP/1 connection.
    pub(super) fn http1(
        self: Arc<Self>,
        request: Request<Incoming>,
        crossing: Arc<Crossing>,
        caller: Caller,
    ) -> impl Future<Output = Result<Answer, OutcomeUnknown>> + Send {
        // Before anything is awaited: hyper may read again as soon as this returns.
        let aside = crossing.begin(!request.body().is_end_stream());
        async move {
            let served = self.guarded(request, caller.client, aside, Some(&crossing)).await;
            let (mut answer, unread) = served?;
            if *caller.shutdown.borrow() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            crossing.answer_ready(unread).await;
            Ok(answer)
        }
    }

    /// Serves one call of an HTTP/2 connection.
    pub(super) async fn http2(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: IpAddr,
    ) -> Result<Answer, OutcomeUnknown> {
        self.guarded(request, client, None, None).await.map(|(answer, _)| answer)
    }

    /// The one place where a panic is caught. The flag says that a part of the request may still
    /// be on its way.
    async fn guarded(
        &self,
        request: Request<Incoming>,
        client: IpAddr,
        aside: Option<Aside>,
        crossing: Option<&Crossing>,
    ) -> Result<(Answer, bool), OutcomeUnknown> {
        let request_id = self.request_ids.next();
        let pushed = AtomicBool::new(false);
        let host = host(request.headers(), request.uri());
        let host_id = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let asked = Asked { request_id, host: host_id, format: Format::Json, quota: None };
        let log = self.access.as_ref();
        let log = log.map(|log| (log, self.proxies.client(client, request.headers())));
        let call = self.answer(request, aside, crossing, asked, &pushed);
        let answered = match AssertUnwindSafe(call).catch_unwind().await {
            Ok(answered) => answered,
            Err(_) => self.panicked(&asked, pushed.load(Ordering::Relaxed))?,
        };
        self.metrics.answered(answered.code as usize);
        if let Some((log, peer)) = log {
            self.write_down(log, request_id, peer, &answered);
        }
        Ok((answered.answer, answered.unread))
    }

    #[cold]
    fn panicked(&self, asked: &Asked<'_>, pushed: bool) -> Result<Answered, OutcomeUnknown> {
        self.metrics.panics.inc();
        let request_id = asked.request_id;
        tracing::error!(%request_id, outcome_unknown = pushed, "a call panicked");
        if pushed {
            return Err(OutcomeUnknown);
        }
        Ok(Answered {
            answer: response::refused(asked, &Problem::Panicked, self.throttle_status),
            unread: true,
            code: Code::InternalError,
            instance: None,
            bytes_in: 0,
            took: Duration::ZERO,
        })
    }

    fn write_down(&self, log: &AccessLog, id: RequestId, peer: IpAddr, answered: &Answered) {
        if answered.code == Code::Ok && !log.samples_success() {
            return;
        }
        log.write(Line {
            at: self.clock.unix(),
            request_id: id,
            instance: answered.instance.clone(),
            code: response::CODES[answered.code as usize],
            status: answered.answer.status().as_u16(),
            bytes_in: answered.bytes_in,
            bytes_out: answered.answer.body().size_hint().lower(),
            took: answered.took,
            peer,
        });
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        aside: Option<Aside>,
        crossing: Option<&Crossing>,
        asked: Asked<'_>,
        pushed: &AtomicBool,
    ) -> Answered {
        let since = self.clock.now();
        let (asking, bytes_in) = match self.arrive(request, aside, crossing).await {
            Ok(arrived) => {
                let bytes = arrived.query.len() + arrived.body.bytes.len();
                (self.ask(&arrived, pushed), bytes)
            }
            Err(problem) => (Asking::refused(problem), 0),
        };
        let asked = Asked { format: asking.format, quota: asking.quota, ..asked };
        let outcome = match asking.pushed {
            Ok(receipt) => receipt.await.map_err(Problem::Unstored),
            Err(problem) => Err(problem),
        };
        let (code, answer, unread) = match outcome {
            Ok(stored) => (Code::Ok, response::stored(&asked, stored), false),
            Err(problem) => (
                problem.code(),
                response::refused(&asked, &problem, self.throttle_status),
                problem.leaves_request_unread(),
            ),
        };
        let took = self.clock.now().saturating_duration_since(since);
        self.metrics.duration.observe(took.as_secs_f64());
        Answered { answer, unread, code, instance: asking.instance, bytes_in, took }
    }

    async fn arrive(
        &self,
        request: Request<Incoming>,
        aside: Option<Aside>,
        crossing: Option<&Crossing>,
    ) -> Result<Arrived, Problem> {
        let (mut parts, body) = request.into_parts();
        let (query, room) = match aside {
            Some(Aside::TooLong) => return Err(Problem::TargetTooLong),
            Some(Aside::NoRoom) => return Err(Problem::BodiesFull),
            Some(Aside::Query(query, room)) => (query, room),
            None => (parts.uri.query().unwrap_or_default().to_owned().into(), None),
        };
        let room = match crossing {
            None => request::room_for_head(&parts.headers, &self.body_space)?,
            Some(_) => room,
        };
        let body = request::read(body, self.body_deadline, &self.body_space).await?;
        if let Some(crossing) = crossing {
            crossing.body_ended();
        }
        if !parts.headers.contains_key(HOST)
            && let Some(host) = host(&parts.headers, &parts.uri)
        {
            parts.headers.insert(HOST, host);
        }
        let path_is_root = parts.uri.path() == "/";
        let (method, headers) = (parts.method, parts.headers);
        Ok(Arrived { method, path_is_root, query, headers, body, _room: room })
    }

    fn ask(&self, arrived: &Arrived, pushed: &AtomicBool) -> Asking {
        let call = match request::parse(arrived) {
            Ok(call) => call,
            Err(problem) => return Asking::refused(problem),
        };
        let format = match request::format(&call) {
            Ok(format) => format,
            Err(refusal) => return Asking::refused(Problem::Refusal(refusal)),
        };
        match self.push(&call, pushed) {
            Ok((receipt, instance, quota)) => {
                Asking { format, instance: Some(instance), quota: Some(quota), pushed: Ok(receipt) }
            }
            Err(Unpushed { problem, instance, quota }) => {
                Asking { format, instance, quota, pushed: Err(problem) }
            }
        }
    }

    /// The way of every message: examine, reserve, charge, push.
    fn push(
        &self,
        call: &SendMessage<'_>,
        pushed: &AtomicBool,
    ) -> Result<(Receipt, InstanceId, Quota), Unpushed> {
        let examined = self.admission.examine(call)?;
        let instance = examined.instance().clone();
        let slot = self.queue.reserve(&examined).map_err(|full| Unpushed {
            problem: Problem::Full(full),
            instance: Some(instance.clone()),
            quota: Some(examined.quota()),
        })?;
        let (admitted, quota) = self.admission.charge(examined)?;
        pushed.store(true, Ordering::Relaxed);
        Ok((slot.push(admitted), instance, quota))
    }
}

/// The host a request names: `:authority` in HTTP/2, the `Host` header in HTTP/1.1.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
    headers.get(HOST).cloned().or_else(|| HeaderValue::from_str(uri.authority()?.as_str()).ok())
}
