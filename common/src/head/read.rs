//! Reading a head from outside its driver: for the client and for checkers.
//!
//! Promises: what is given was the head at one moment after the call began (consistent reads; a
//! head that moves while its chunks are read is read again). Never does: write, or wait for long.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;

use super::codec::CodecError;
use super::item::{
    ChunkName, HeadItem, Item, StoredBody, parse_chunk_data, parse_head, unpack, unreadable,
};
use super::state::Head;
use crate::aws;
use crate::error::Error;
use crate::id::ApplicationName;
use crate::table;

/// Times that a head is read again when it moved while its chunks were being read.
const MOVING_HEAD_TRIES: u32 = 5;

/// The head of `application` as it is now; none when there is no item.
///
/// # Errors
/// What AWS answers, explained; MR4006 when the item is not a head that this Millrace reads.
pub async fn read(
    client: &Client,
    table: &str,
    application: &ApplicationName,
) -> Result<Option<Head>, Error> {
    let get = Get { client, table, pk: table::application_pk(application) };
    let refused = |error: CodecError| unreadable(application, &error);
    let mut last: Option<HeadItem> = None;
    for _ in 0..MOVING_HEAD_TRIES {
        let Some(item) = get.item(table::HEAD_SK).await? else { return Ok(None) };
        let item = parse_head(&item).map_err(|what| refused(CodecError::Damaged(what)))?;
        let is_same = last.as_ref() == Some(&item);
        let chunks = get.chunks(&item).await?;
        match unpack(&item, &chunks) {
            Ok(head) => return Ok(Some(head)),
            // Its chunks may have gone with the commit that replaced it.
            Err(CodecError::Damaged(_)) if !is_same => last = Some(item),
            Err(error) => return Err(refused(error)),
        }
    }
    Err(refused(CodecError::Damaged("it moves faster than it can be read".into())))
}

struct Get<'a> {
    client: &'a Client,
    table: &'a str,
    pk: String,
}

impl Get<'_> {
    async fn item(&self, sk: &str) -> Result<Option<Item>, Error> {
        let key = HashMap::from([
            (table::PK.to_owned(), AttributeValue::S(self.pk.clone())),
            (table::SK.to_owned(), AttributeValue::S(sk.to_owned())),
        ]);
        let get = self.client.get_item().table_name(self.table).set_key(Some(key));
        let answer = get.consistent_read(true).send().await.map_err(|error| {
            aws::explain("dynamodb", "GetItem", &format!("table {}", self.table), &error)
        })?;
        Ok(answer.item)
    }

    /// The bytes of the chunks that are there; too few when one is not, which the hash tells.
    async fn chunks(&self, head: &HeadItem) -> Result<Vec<u8>, Error> {
        let count = match &head.body {
            StoredBody::Chunked { count, .. } => *count,
            StoredBody::None | StoredBody::Inline(_) => 0,
        };
        let mut packed = Vec::new();
        for index in 0..count {
            let commit_id = head.commit_id.clone();
            let name = ChunkName { batch: head.batch, commit_id, index };
            let item = self.item(&name.sk()).await?;
            packed.extend_from_slice(item.as_ref().and_then(parse_chunk_data).unwrap_or_default());
        }
        Ok(packed)
    }
}
