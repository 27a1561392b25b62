use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Uri};
use hyper::body::{Body, Incoming};

use super::body::Format;
use super::crossing::{Aside, Crossing};
use super::problem::Problem;
use super::request::{self, Arrived, BodySpace};
use super::request_id::RequestIds;
use super::response::{self, Answer, Asked, Code, ThrottleStatus};
use crate::admission::{Admission, Quota, SendMessage};
use crate::clock::Clock;
use crate::metering::WireMetrics;
use crate::queue::{Queue, Receipt};

/// A bug struck after the message was pushed: nobody knows whether it is stored, so its connection
/// closes without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outcome of a call is unknown")]
pub(super) struct OutcomeUnknown;

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
}

/// What became of a call before anything had to be waited for.
struct Asking {
    format: Format,
    quota: Option<Quota>,
    pushed: Result<Receipt, Problem>,
}

impl Asking {
    const fn refused(problem: Problem) -> Self {
        Self { format: Format::Json, quota: None, pushed: Err(problem) }
    }
}

impl Service {
    /// Serves one call of an HTTP/1 connection.
    pub(super) fn http1(
        self: Arc<Self>,
        request: Request<Incoming>,
        crossing: Arc<Crossing>,
    ) -> impl Future<Output = Result<Answer, OutcomeUnknown>> + Send {
        // Before anything is awaited: hyper may read again as soon as this returns.
        let aside = crossing.begin(!request.body().is_end_stream());
        async move {
            let (answer, unread) = self.guarded(request, aside, Some(&crossing)).await?;
            crossing.answer_ready(unread).await;
            Ok(answer)
        }
    }

    /// Serves one call of an HTTP/2 connection.
    pub(super) async fn http2(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Answer, OutcomeUnknown> {
        self.guarded(request, None, None).await.map(|(answer, _)| answer)
    }

    /// The one place where a panic is caught. The flag says that a part of the request may still
    /// be on its way.
    async fn guarded(
        &self,
        request: Request<Incoming>,
        aside: Option<Aside>,
        crossing: Option<&Crossing>,
    ) -> Result<(Answer, bool), OutcomeUnknown> {
        let request_id = self.request_ids.next();
        let pushed = AtomicBool::new(false);
        let host = host(request.headers(), request.uri());
        let host_id = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let asked = Asked { request_id, host: host_id, format: Format::Json, quota: None };
        let call = self.answer(request, aside, crossing, asked, &pushed);
        if let Ok(answered) = AssertUnwindSafe(call).catch_unwind().await {
            return Ok(answered);
        }
        self.metrics.panics.inc();
        let outcome_unknown = pushed.load(Ordering::Relaxed);
        tracing::error!(%request_id, outcome_unknown, "a call panicked");
        if outcome_unknown {
            return Err(OutcomeUnknown);
        }
        self.metrics.answered(Code::InternalError as usize);
        Ok((response::refused(&asked, &Problem::Panicked, self.throttle_status), true))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        aside: Option<Aside>,
        crossing: Option<&Crossing>,
        asked: Asked<'_>,
        pushed: &AtomicBool,
    ) -> (Answer, bool) {
        let since = self.clock.now();
        let asking = match self.arrive(request, aside, crossing).await {
            Ok(arrived) => self.ask(&arrived, pushed),
            Err(problem) => Asking::refused(problem),
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
        self.metrics.answered(code as usize);
        (answer, unread)
    }

    async fn arrive(
        &self,
        request: Request<Incoming>,
        aside: Option<Aside>,
        crossing: Option<&Crossing>,
    ) -> Result<Arrived, Problem> {
        let (mut parts, body) = request.into_parts();
        let query = match aside {
            Some(Aside::TooLong) => return Err(Problem::TargetTooLong),
            Some(Aside::Query(query)) => query,
            None => parts.uri.query().unwrap_or_default().to_owned().into(),
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
        Ok(Arrived { method: parts.method, path_is_root, query, headers: parts.headers, body })
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
            Ok((receipt, quota)) => Asking { format, quota: Some(quota), pushed: Ok(receipt) },
            Err((problem, quota)) => Asking { format, quota, pushed: Err(problem) },
        }
    }

    /// The way of every message: examine, reserve, charge, push.
    fn push(
        &self,
        call: &SendMessage<'_>,
        pushed: &AtomicBool,
    ) -> Result<(Receipt, Quota), (Problem, Option<Quota>)> {
        let refused =
            |refused: crate::admission::Refused| (Problem::Refusal(refused.refusal), refused.quota);
        let examined = self.admission.examine(call).map_err(refused)?;
        let slot = self
            .queue
            .reserve(&examined)
            .map_err(|full| (Problem::Full(full), Some(examined.quota())))?;
        let (admitted, quota) = self.admission.charge(examined).map_err(refused)?;
        pushed.store(true, Ordering::Relaxed);
        Ok((slot.push(admitted), quota))
    }
}

/// The host a request names: `:authority` in HTTP/2, the `Host` header in HTTP/1.1.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
    headers.get(HOST).cloned().or_else(|| HeaderValue::from_str(uri.authority()?.as_str()).ok())
}
