//! The tokens of people and programs that this cluster has given out. Pure.
//!
//! Promises: what is kept of a token is its hash; one that is not here, is revoked or has expired is
//! not taken. Owned by the control actor's core.

use std::collections::BTreeMap;

use millrace_common::access::Token;
use millrace_common::error::{Code, Error};
use millrace_proto::v1;

/// Tokens that are kept, those that are over included: an item of the store each.
const TOKENS_MAX: usize = 1_000;

/// A token as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRecord {
    /// Whose it is and what it allows.
    pub info: v1::TokenInfo,
    /// SHA-256 of its text.
    pub hash: Vec<u8>,
}

impl TokenRecord {
    fn is_over(&self, now_ms: i64) -> bool {
        self.info.revoked_ms > 0 || (self.info.expires_ms > 0 && self.info.expires_ms <= now_ms)
    }
}

/// All of them, by id.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    by_id: BTreeMap<String, TokenRecord>,
}

impl Tokens {
    /// As the store holds them.
    pub(crate) fn restore(records: Vec<TokenRecord>) -> Self {
        let by_id = records.into_iter().map(|record| (record.info.id.clone(), record)).collect();
        Self { by_id }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Code::UnknownToken`] when it is not kept here, [`Code::TokenExpired`] when it is over.
    pub(crate) fn check(&self, id: &str, token: &Token, now_ms: i64) -> Result<String, Error> {
        let known = self.by_id.get(id).filter(|record| token.has_hash(&record.hash));
        let record = known.ok_or_else(|| {
            Error::new(
                Code::UnknownToken,
                format!("the token {id} is not in this cluster's list"),
                "ask an administrator for another; `millrace token list` shows those there are",
            )
        })?;
        if record.is_over(now_ms) {
            let what = if record.info.revoked_ms > 0 { "was revoked" } else { "has expired" };
            return Err(over(&record.info.name, id, what));
        }
        Ok(record.info.name.clone())
    }

    /// Takes a new one in. The one that had to go for it: the oldest of those that are over.
    ///
    /// # Errors
    /// [`Code::WrongState`] when there are too many that are not.
    pub(crate) fn add(
        &mut self,
        record: TokenRecord,
        now_ms: i64,
    ) -> Result<Option<String>, Error> {
        let mut gone = None;
        if self.by_id.len() >= TOKENS_MAX {
            let over = self.by_id.values().filter(|record| record.is_over(now_ms));
            let oldest = over.min_by_key(|record| record.info.created_ms).ok_or_else(|| {
                Error::new(
                    Code::WrongState,
                    format!("this cluster has {TOKENS_MAX} tokens, and all of them are in use"),
                    "revoke some with `millrace token revoke`, or give tokens a time to expire",
                )
            })?;
            let id = oldest.info.id.clone();
            self.by_id.remove(&id);
            gone = Some(id);
        }
        self.by_id.insert(record.info.id.clone(), record);
        Ok(gone)
    }

    /// Refuses a token from now on; as it is then.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] when there is none of this id.
    pub(crate) fn revoke(&mut self, id: &str, now_ms: i64) -> Result<TokenRecord, Error> {
        let record = self.by_id.get_mut(id).ok_or_else(|| {
            Error::new(
                Code::InvalidValue,
                format!("no token has the id {id:?}"),
                "see `millrace token list`; the one that came with the cluster's secret is revoked \
                 by changing the secret",
            )
        })?;
        if record.info.revoked_ms == 0 {
            record.info.revoked_ms = now_ms;
        }
        Ok(record.clone())
    }

    /// All, oldest first.
    pub(crate) fn list(&self) -> Vec<v1::TokenInfo> {
        let mut all: Vec<v1::TokenInfo> =
            self.by_id.values().map(|record| record.info.clone()).collect();
        all.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        all
    }
}

/// The refusal of a token that was good once.
pub(super) fn over(name: &str, id: &str, what: &str) -> Error {
    Error::new(
        Code::TokenExpired,
        format!("the token {id} of {name} {what}"),
        "ask an administrator for another (`millrace token create`)",
    )
}

#[cfg(test)]
mod tests {
    use millrace_common::access::{Role, Secret, Secrets, UserClaims};

    use super::*;

    fn token(secrets: &Secrets, id: &str, expires_ms: i64) -> (Token, TokenRecord) {
        let claims = UserClaims { id: id.to_owned(), role: Role::Viewer, expires_ms };
        let token = secrets.user_token(&claims);
        let info = v1::TokenInfo {
            id: id.to_owned(),
            name: "ann".to_owned(),
            expires_ms,
            ..Default::default()
        };
        let hash = token.hash().to_vec();
        (token, TokenRecord { info, hash })
    }

    #[test]
    fn a_token_is_good_from_its_making_to_its_end() {
        let secrets = Secrets::from(Secret::generate().unwrap());
        let (token_1, record) = token(&secrets, "1", 100);
        let mut tokens = Tokens::default();
        let code = |tokens: &Tokens, now| tokens.check("1", &token_1, now).map_err(|e| e.code());
        assert_eq!(code(&tokens, 5), Err(Code::UnknownToken));
        tokens.add(record, 5).unwrap();
        assert_eq!(code(&tokens, 99), Ok("ann".to_owned()));
        assert_eq!(code(&tokens, 100), Err(Code::TokenExpired));
        assert_eq!(tokens.revoke("1", 50).unwrap().info.revoked_ms, 50);
        assert_eq!(tokens.revoke("1", 60).unwrap().info.revoked_ms, 50);
        assert_eq!(code(&tokens, 60), Err(Code::TokenExpired));
        assert_eq!(tokens.revoke("2", 60).unwrap_err().code(), Code::InvalidValue);
    }

    #[test]
    fn another_token_under_a_known_id_is_not_taken() {
        let secrets = Secrets::from(Secret::generate().unwrap());
        let (_, record) = token(&secrets, "1", 0);
        let (other, _) = token(&secrets, "1", 7);
        let mut tokens = Tokens::default();
        tokens.add(record, 0).unwrap();
        assert_eq!(tokens.check("1", &other, 1).unwrap_err().code(), Code::UnknownToken);
    }

    #[test]
    fn those_that_are_over_make_room() {
        let secrets = Secrets::from(Secret::generate().unwrap());
        let mut tokens = Tokens::default();
        for number in 0..TOKENS_MAX {
            let expires_ms = if number == 7 { 10 } else { 0 };
            tokens.add(token(&secrets, &number.to_string(), expires_ms).1, 0).unwrap();
        }
        let new = token(&secrets, "new", 0).1;
        assert_eq!(tokens.add(new.clone(), 5).unwrap_err().code(), Code::WrongState);
        assert_eq!(tokens.add(new, 20).unwrap(), Some("7".to_owned()));
        assert_eq!(tokens.list().len(), TOKENS_MAX);
    }
}
