//! A channel whose every call shows who calls.
//!
//! Promises: the token goes with each request and is marked so that nothing logs it. Never does:
//! ask for a token, or decide what one is good for.

use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::transport::channel::ResponseFuture;
use tower::Service;

use crate::access::Token;

/// A channel with the token of its caller, if it has one. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
    authorization: Option<HeaderValue>,
}

impl Caller {
    /// Calls over `channel` show `token`.
    #[must_use]
    pub fn new(channel: Channel, token: Option<&Token>) -> Self {
        Self { channel, authorization: token.map(Token::header) }
    }
}

impl Service<Request<Body>> for Caller {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        self.channel.call(request)
    }
}
