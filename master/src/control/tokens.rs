//! Tokens are made and revoked; each is answered when its record is written.

use actix::prelude::*;
use millrace_common::error::Error;
use millrace_proto::v1;

use super::actor::Control;
use super::core::Core;
use crate::access::TokenRecord;
use crate::moment::Moment;
use crate::store::Record;

/// A token was made, and is to be taken from now on.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Error>")]
pub(crate) struct CreateToken(pub TokenRecord);

impl Handler<CreateToken> for Control {
    type Result = ResponseFuture<Result<(), Error>>;

    fn handle(&mut self, CreateToken(record): CreateToken, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let outcome = self.core.create_token(now, record);
        self.perform();
        let written = outcome.map(|ticket| self.written(ticket));
        Box::pin(async move { written?.await })
    }
}

/// A token is not to be taken any more.
#[derive(Debug, Message)]
#[rtype(result = "Result<v1::TokenInfo, Error>")]
pub(crate) struct RevokeToken(pub String);

impl Handler<RevokeToken> for Control {
    type Result = ResponseFuture<Result<v1::TokenInfo, Error>>;

    fn handle(&mut self, RevokeToken(id): RevokeToken, _: &mut Self::Context) -> Self::Result {
        let now = self.now();
        let outcome = self.core.revoke_token(now, &id);
        self.perform();
        let written = outcome.map(|(info, ticket)| (info, self.written(ticket)));
        Box::pin(async move {
            let (info, written) = written?;
            written.await.map(|()| info)
        })
    }
}

impl Core {
    /// Takes a token in; the ticket of its record.
    ///
    /// # Errors
    /// [`Code::WrongState`] when there are too many.
    ///
    /// [`Code::WrongState`]: millrace_common::error::Code::WrongState
    pub(crate) fn create_token(&mut self, now: Moment, record: TokenRecord) -> Result<u64, Error> {
        if let Some(gone) = self.tokens.add(record.clone(), now.wall_ms)? {
            self.write(Record::TokenGone(gone));
        }
        Ok(self.write(Record::Token(Box::new(record))))
    }

    /// Refuses a token from now on; what it was, and the ticket of its record.
    ///
    /// # Errors
    /// [`Code::InvalidValue`] when there is none of this id.
    ///
    /// [`Code::InvalidValue`]: millrace_common::error::Code::InvalidValue
    pub(crate) fn revoke_token(
        &mut self,
        now: Moment,
        id: &str,
    ) -> Result<(v1::TokenInfo, u64), Error> {
        let record = self.tokens.revoke(id, now.wall_ms)?;
        let info = record.info.clone();
        Ok((info, self.write(Record::Token(Box::new(record)))))
    }
}
