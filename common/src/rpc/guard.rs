//! What stands before the servers of containers: they belong to one attempt, and nobody else has
//! business there.
//!
//! Promises: with a token nothing passes that does not show the same one, whatever the method. Never
//! does: tell methods apart.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::access::Token;
use crate::error::{Code, Error};

/// Lets those through who show this token; everybody when there is none.
#[derive(Clone, Debug)]
pub struct Guard {
    expected: Option<Token>,
}

impl Guard {
    /// A guard that expects `token`.
    #[must_use]
    pub fn new(token: Option<Token>) -> Self {
        Self { expected: token }
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), Error> {
        let Some(expected) = &self.expected else { return Ok(()) };
        let shown = Token::of_header(request.headers().get(AUTHORIZATION))?;
        if shown.is(expected) {
            return Ok(());
        }
        Err(Error::new(
            Code::NotAllowed,
            "this container serves its own attempt of its application only",
            "nothing: ask the master",
        ))
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind a [`Guard`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.guard.check(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(error) => {
                tracing::warn!(method = request.uri().path(), %error, "a call is refused");
                Either::Right(ready(Ok(error.to_status().into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::access::{Secret, Secrets};

    fn code(guard: &Guard, authorization: Option<HeaderValue>) -> Option<Code> {
        let mut request = Request::new(());
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        guard.check(&request).err().map(|error| error.code())
    }

    #[test]
    fn only_the_attempts_own_token_passes() {
        let secrets = Secrets::from(Secret::generate().unwrap());
        let own = secrets.container_token("a", 2);
        let guard = Guard::new(Some(own.clone()));
        assert_eq!(code(&guard, Some(own.header())), None);
        assert_eq!(code(&guard, None), Some(Code::UnknownToken));
        let basic = HeaderValue::from_static("Basic dXNlcg==");
        assert_eq!(code(&guard, Some(basic)), Some(Code::UnknownToken));
        for other in [
            secrets.container_token("a", 1),
            secrets.container_token("b", 2),
            secrets.node_token(),
            secrets.admin_token(),
        ] {
            assert_eq!(code(&guard, Some(other.header())), Some(Code::NotAllowed), "{other:?}");
        }
        assert_eq!(code(&Guard::new(None), None), None);
    }
}
