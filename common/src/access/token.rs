//! What a token is and what it says.
//!
//! `mr_<claims>_<seal>`: the claims are readable, the seal is an HMAC-SHA256 over them under the
//! cluster's secret. So a master knows a token without having stored it, a standby too.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use millrace_proto::v1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::error::{Code, Error};

/// Longest token that is looked at: a name has 63 bytes at most.
const TOKEN_BYTES_MAX: usize = 256;

/// A token, ready to be shown. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// The token of this text; none for the empty one.
    ///
    /// # Errors
    /// [`Code::UnknownToken`] for what can not be a token.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let is_plain = text.len() <= TOKEN_BYTES_MAX
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && text.starts_with("mr_");
        if is_plain { Ok(Some(Self(text.into()))) } else { Err(malformed()) }
    }

    /// One that was made here.
    pub(super) fn sealed(text: String) -> Self {
        Self(text.into())
    }

    /// Its text, which is the secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The value of the `authorization` header that shows it; marked so that nobody logs it.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))
            .expect("a token is made of visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// The token that an `authorization` header shows.
    ///
    /// # Errors
    /// [`Code::UnknownToken`] when there is none, or it is no token.
    pub fn of_header(header: Option<&HeaderValue>) -> Result<Self, Error> {
        let Some(header) = header else {
            return Err(Error::new(
                Code::UnknownToken,
                "the request carries no token, and this cluster asks for one",
                "set MILLRACE_TOKEN_FILE or MILLRACE_TOKEN; `millrace local env` prints it for a \
                 local cluster, `millrace token create` makes one",
            ));
        };
        let text = header.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        Self::parse(text.unwrap_or("?"))?.ok_or_else(malformed)
    }

    /// True when this is the other, without telling by the time it takes where they differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }

    /// SHA-256 of it: what is kept of a token.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// True when `hash` is of this token, in constant time.
    #[must_use]
    pub fn has_hash(&self, hash: &[u8]) -> bool {
        self.hash().as_slice().ct_eq(hash).into()
    }
}

fn malformed() -> Error {
    Error::new(
        Code::UnknownToken,
        "what was given as a token is none",
        "a token begins with mr_ and is sent as `authorization: Bearer mr_...`",
    )
}

/// What a person or a program may do; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Submits, stops and repairs applications.
    Submitter,
    /// Everything: nodes and tokens too.
    Admin,
}

impl Role {
    /// As people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Admin => "admin",
        }
    }

    /// As a message's value.
    #[must_use]
    pub fn to_proto(self) -> v1::Role {
        match self {
            Self::Viewer => v1::Role::Viewer,
            Self::Submitter => v1::Role::Submitter,
            Self::Admin => v1::Role::Admin,
        }
    }

    /// From a message's value; none for one that is not known.
    #[must_use]
    pub fn from_proto(role: v1::Role) -> Option<Self> {
        match role {
            v1::Role::Unspecified => None,
            v1::Role::Viewer => Some(Self::Viewer),
            v1::Role::Submitter => Some(Self::Submitter),
            v1::Role::Admin => Some(Self::Admin),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Viewer, Self::Submitter, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| {
                Error::new(
                    Code::InvalidValue,
                    format!("{text:?} is no role"),
                    "choose viewer, submitter or admin",
                )
            })
    }
}

/// What a token of a person or a program says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserClaims {
    /// What it is listed and revoked by; empty for the one that comes with the secret.
    pub id: String,
    /// What it allows.
    pub role: Role,
    /// Unix time in milliseconds after which it is not taken any more; 0: never.
    pub expires_ms: i64,
}

/// What a token says, once its seal was found to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claims {
    /// A node of the cluster.
    Node,
    /// A person or a program.
    User(UserClaims),
    /// The containers of one attempt.
    Container {
        /// The application.
        application: String,
        /// Its attempt.
        attempt: u32,
    },
}

impl Claims {
    /// As they stand in a token.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Node => "node".to_owned(),
            Self::User(user) => format!("user.{}.{}.{}", user.id, user.role, user.expires_ms),
            Self::Container { application, attempt } => {
                format!("container.{application}.{attempt}")
            }
        }
    }

    /// Out of a token's text, whoever made it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let claims = match parts.next()? {
            "node" => Self::Node,
            "user" => Self::User(UserClaims {
                id: parts.next()?.to_owned(),
                role: parts.next()?.parse().ok()?,
                expires_ms: parts.next()?.parse().ok()?,
            }),
            "container" => Self::Container {
                application: parts.next()?.to_owned(),
                attempt: parts.next()?.parse().ok()?,
            },
            _ => return None,
        };
        parts.next().is_none().then_some(claims)
    }
}
