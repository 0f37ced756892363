//! The one layer before everything that the master serves.
//!
//! Promises: a request passes only when a rule says what it needs and its token has it; the service
//! then finds the [`Principal`] among the request's extensions. Never does: look into a message.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millrace_common::access::{Claims, Role, Secrets, Token, UserClaims};
use millrace_common::clock::SharedClock;
use millrace_common::error::{Code, Error};

use super::audit::{Audit, Deed};
use super::principal::Principal;
use super::rules::{self, Need};
use super::tokens::over;
use crate::grpc::Leader;
use crate::http::Refusal;

/// What the layer decides by.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// None: everybody may do everything, from this host.
    pub secrets: Option<Arc<Secrets>>,
    /// Of the tokens' ends.
    pub clock: SharedClock,
    /// The list of tokens.
    pub leader: Leader,
    /// Where refusals are written down.
    pub audit: Audit,
}

/// Lets a request through with the one who asks, or answers with a refusal.
pub(crate) async fn gate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match gate.admit(&path, request.headers()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err((who, error)) => {
            let deed =
                Deed { who: who.as_ref(), action: "refused", application: "", subject: &path };
            gate.audit.record(&deed, Err(&error));
            refuse(error, request.headers())
        }
    }
}

/// A refusal in the caller's own language.
fn refuse(error: Error, headers: &HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).map(header::HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return error.to_status().into_http();
    }
    let mut response = Refusal::from(error).into_response();
    if response.status() == axum::http::StatusCode::UNAUTHORIZED {
        let scheme = header::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

impl Gate {
    /// Who asks; a refusal comes with who it is, where that is known.
    async fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Principal, (Option<Principal>, Error)> {
        let Some(secrets) = &self.secrets else { return Ok(Principal::Anyone) };
        let need = rules::need(path);
        if need == Some(Need::Nothing) {
            return Ok(Principal::Anyone);
        }
        let principal =
            self.principal(secrets, headers, need).await.map_err(|error| (None, error))?;
        let refusal = match need {
            Some(need) if need.is_met_by(&principal) => return Ok(principal),
            Some(need) => Error::new(
                Code::NotAllowed,
                format!("{path} needs {}, and this is {principal}", need.describe()),
                "ask an administrator for a token that allows it (`millrace token create --role`)",
            ),
            None => Error::new(
                Code::NotAllowed,
                format!("there is nothing at {path} that anybody may ask for"),
                "see docs/operations.md for what a master serves",
            ),
        };
        Err((Some(principal), refusal))
    }

    async fn principal(
        &self,
        secrets: &Secrets,
        headers: &HeaderMap,
        need: Option<Need>,
    ) -> Result<Principal, Error> {
        let token = Token::of_header(headers.get(AUTHORIZATION))?;
        Ok(match secrets.open(&token)? {
            Claims::Node => Principal::Node,
            Claims::Container { application, attempt } => {
                Principal::Container { application, attempt }
            }
            Claims::User(claims) => self.user(claims, token, need).await?,
        })
    }

    /// Whose token it is. Only the leader has the list of tokens: a standby, which tells nobody
    /// anything but that it stands by, goes by the seal.
    async fn user(
        &self,
        claims: UserClaims,
        token: Token,
        need: Option<Need>,
    ) -> Result<Principal, Error> {
        let UserClaims { id, role, expires_ms } = claims;
        if id.is_empty() {
            return Ok(Principal::User { name: "root".to_owned(), role });
        }
        let now_ms = self.clock.now_ms();
        if expires_ms > 0 && expires_ms <= now_ms {
            return Err(over("its owner", &id, "has expired"));
        }
        let only_looks = need == Some(Need::Role(Role::Viewer));
        if only_looks && self.leader.control().is_err() {
            return Ok(Principal::User { name: id, role });
        }
        let check = move |core: &crate::control::Core| core.tokens.check(&id, &token, now_ms);
        let name = self.leader.read(check).await??;
        Ok(Principal::User { name, role })
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::access::Secret;
    use millrace_common::clock::ManualClock;
    use tokio::sync::watch;

    use super::*;
    use crate::store::Known;

    const LOOK: &str = "/api/v1/cluster";
    const CHANGE: &str = "/millrace.v1.ClientService/KillApplication";

    /// The gate of a master that stands by.
    fn standby(secrets: Option<&Secrets>) -> Gate {
        let (_, serving) = watch::channel(None);
        let (_, known) =
            watch::channel(Known { leader: Some("10.0.0.6:7070".to_owned()), trouble: None });
        let clock: SharedClock = ManualClock::at(1_000);
        Gate {
            secrets: secrets.cloned().map(Arc::new),
            clock: clock.clone(),
            leader: Leader::new(serving, known),
            audit: Audit::open(None, clock).unwrap().0,
        }
    }

    async fn ask(gate: &Gate, path: &str, token: Option<&Token>) -> Result<Principal, Code> {
        let headers = token.map(|token| (AUTHORIZATION, token.header())).into_iter().collect();
        gate.admit(path, &headers).await.map_err(|(_, error)| error.code())
    }

    fn user(secrets: &Secrets, role: Role, expires_ms: i64) -> Token {
        secrets.user_token(&UserClaims { id: "7f".to_owned(), role, expires_ms })
    }

    #[tokio::test]
    async fn without_a_secret_everybody_passes() {
        assert_eq!(ask(&standby(None), CHANGE, None).await, Ok(Principal::Anyone));
        assert_eq!(ask(&standby(None), "/nothing", None).await, Ok(Principal::Anyone));
    }

    #[tokio::test]
    async fn a_standby_lets_look_by_the_seal_and_names_the_leader_for_the_rest() {
        let secrets = Secrets::from(Secret::generate().unwrap());
        let gate = standby(Some(&secrets));
        let token = user(&secrets, Role::Admin, 0);
        assert!(ask(&gate, LOOK, Some(&token)).await.is_ok());
        assert_eq!(ask(&gate, CHANGE, Some(&token)).await, Err(Code::NotLeader));
        let over = user(&secrets, Role::Admin, 1_000);
        assert_eq!(ask(&gate, LOOK, Some(&over)).await, Err(Code::TokenExpired));
        let foreign = user(&Secrets::from(Secret::generate().unwrap()), Role::Admin, 0);
        assert_eq!(ask(&gate, LOOK, Some(&foreign)).await, Err(Code::UnknownToken));
    }

    #[tokio::test]
    async fn what_has_no_rule_is_open_to_nobody() {
        let secrets = Secrets::from(Secret::generate().unwrap());
        let gate = standby(Some(&secrets));
        let root = secrets.admin_token();
        for path in ["/nothing", "/millrace.v1.BlockService/Fetch", "/api/v1"] {
            assert_eq!(ask(&gate, path, Some(&root)).await, Err(Code::NotAllowed), "{path}");
            assert_eq!(ask(&gate, path, None).await, Err(Code::UnknownToken), "{path}");
        }
        assert_eq!(ask(&gate, "/healthz", None).await, Ok(Principal::Anyone));
        assert!(ask(&gate, CHANGE, Some(&root)).await.is_ok(), "the secret's own is in no list");
    }
}
