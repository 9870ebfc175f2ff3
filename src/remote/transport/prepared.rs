//! A connection that sends nothing: prepared answers replace those of a server.
//!
//! *Not here*: the interpretation of answers, which is the same as for servers.
//!
//! *Used by* tests and the fuzzer, which prepare answers that servers do not normally send.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use parking_lot::Mutex;
use reqwest::StatusCode;
use reqwest::header::{HeaderName, HeaderValue};

use super::http::{RequestInfo, interpret};
use super::open::Endpoint;
use super::{Transport, TransportError, TransportOptions};

/// An answer as a server might send it.
#[derive(Debug, Clone, Default)]
pub struct PreparedAnswer {
    /// The status code.
    pub status: u16,
    /// Names and values of headers, in order. Values that HTTP does not allow cannot come from a server and are left
    /// out.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The pieces in which the body arrives.
    pub body: Vec<Vec<u8>>,
}

/// The current answer of a prepared connection.
#[derive(Debug, Clone, Default)]
pub struct PreparedAnswers(Arc<Mutex<PreparedAnswer>>);

impl PreparedAnswers {
    /// Replaces the answer for all requests from now on.
    pub fn set(&self, answer: PreparedAnswer) {
        *self.0.lock() = answer;
    }
}

impl Transport {
    /// Opens a connection on which every request gets the answer that `answers` holds at that moment, and none is
    /// repeated.
    ///
    /// # Errors
    /// [`TransportError::Runtime`] when no thread can be started.
    pub fn prepared(answers: &PreparedAnswers) -> Result<Self, TransportError> {
        let endpoint = Endpoint::with_connector(answers.clone())?;
        let transport = Self::with_endpoints(vec![endpoint], Arc::default(), &TransportOptions::default())?;
        Ok(transport.with_patience(Duration::ZERO))
    }
}

impl PreparedAnswer {
    fn response(&self) -> Result<HttpResponse, HttpError> {
        let unusable = |error: http::Error| HttpError::new(HttpErrorKind::Unknown, error);
        let status = StatusCode::from_u16(self.status).map_err(|error| unusable(error.into()))?;
        let mut response = http::Response::builder().status(status);
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                response = response.header(name, value);
            }
        }
        let pieces = PreparedBody(self.body.iter().cloned().map(Bytes::from).collect());
        response.body(HttpResponseBody::new(pieces)).map_err(unusable)
    }
}

/// A body that arrives in prepared pieces.
struct PreparedBody(VecDeque<Bytes>);

impl Body for PreparedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

impl HttpConnector for PreparedAnswers {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for PreparedAnswers {
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let response = self.0.lock().response()?;
            interpret(&RequestInfo::of(&request), response).await
        })
    }
}
