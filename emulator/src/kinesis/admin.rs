//! The operations on streams and shards as such: create, describe, list, reshard, retention, tags.

use std::sync::{Arc, Mutex, PoisonError};

use super::answers::{ShardShape, mode_name, seconds, status_name};
use super::descriptions::{
    Common, DescribeStreamAnswer, DescribeStreamSummaryAnswer, Description, ListShardsAnswer,
    ListStreamsAnswer, ListTagsAnswer, Mode, Monitoring, StreamSummary, Summary, Tag,
    UpdateShardCountAnswer,
};
use super::error::{ErrorKind, KinesisError, KinesisResult};
use super::iterator::PageToken;
use super::listing::{ListShardsQuery, MAX_SHARDS_PER_PAGE, ShardFilter};
use super::read::{millis, shard_index};
use super::requests::{self, parse};
use super::stream::{Status, Stream, StreamMeta};
use super::topology::{Topology, parse_shard_id};
use super::{Kinesis, to_json};

/// Retention of a new stream and its bounds, in hours.
const DEFAULT_RETENTION_HOURS: u64 = 24;
const MAX_RETENTION_HOURS: u64 = 8760;
/// Record size of a new stream and its bounds, in KiB.
const DEFAULT_RECORD_KIB: u64 = 1024;
const MAX_RECORD_KIB: u64 = 10_240;
/// Shards of a new on-demand stream.
const ON_DEMAND_SHARDS: u32 = 4;
/// The most shards that one stream may have here.
const MAX_SHARDS: u32 = 20_000;
/// Shards in an answer of DescribeStream, streams in one of ListStreams, when no limit is given.
const DEFAULT_PAGE: usize = 100;

const NOTHING: &[u8] = b"";

impl Kinesis {
    pub(super) fn create_stream(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::CreateStream = parse(body)?;
        let stream = request.stream();
        let name = stream.required()?;
        require_stream_name(name)?;
        let on_demand = match request.stream_mode_details.as_ref().map(|m| m.stream_mode.as_str()) {
            None | Some("PROVISIONED") => false,
            Some("ON_DEMAND") => true,
            Some(mode) => {
                let known = "satisfy enum value set: [PROVISIONED, ON_DEMAND]";
                return Err(KinesisError::constraint(mode, "streamMode", known));
            }
        };
        let count = request.shard_count.unwrap_or(if on_demand { ON_DEMAND_SHARDS } else { 1 });
        require_shard_count(count, "shardCount")?;
        let max_record_kib = request.max_record_size_in_kib.unwrap_or(DEFAULT_RECORD_KIB);
        require_record_size(max_record_kib)?;
        self.remove_deleted(name)?;

        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        if streams.contains_key(name) {
            let account = &self.options.account_id;
            return Err(KinesisError::new(
                ErrorKind::ResourceInUse,
                format!("Stream {name} under account {account} already exists."),
            ));
        }
        let now_ms = self.now_ms();
        let meta = StreamMeta {
            name: name.to_owned(),
            created_ms: now_ms,
            status: Status::Creating { until_ms: now_ms + self.transition_ms() },
            retention_hours: DEFAULT_RETENTION_HOURS,
            on_demand,
            max_record_kib,
            tags: request.tags.unwrap_or_default(),
            topology: Topology::uniform(count, now_ms),
            trimmed: Default::default(),
        };
        let made = Stream::create(&self.options.dir, meta)
            .map_err(|error| KinesisError::internal("Cannot make the stream's files", &error))?;
        streams.insert(name.to_owned(), Arc::new(Mutex::new(made)));
        Ok(NOTHING.into())
    }

    pub(super) fn delete_stream(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::OnlyStream = parse(body)?;
        let stream = request.stream();
        let shared = self.find(&stream)?;
        let name = {
            let mut held = self.lock(&shared);
            if matches!(held.meta.status, Status::Deleting { .. }) {
                held.require_active()?;
            }
            let until_ms = self.now_ms() + self.transition_ms();
            held.update(|meta| {
                meta.status = Status::Deleting { until_ms };
                Ok(())
            })?;
            held.meta.name.clone()
        };
        self.remove_deleted(&name)?;
        Ok(NOTHING.into())
    }

    pub(super) fn describe_stream(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::DescribeStream = parse(body)?;
        let shared = self.find(&request.stream())?;
        let stream = self.lock(&shared);
        let after =
            request.exclusive_start_shard_id.as_deref().map(require_shard_id).transpose()?;
        let query = ListShardsQuery { filter: ShardFilter::All, after };
        let limit = request.limit.unwrap_or(DEFAULT_PAGE).clamp(1, 10_000);
        let (page, rest) = query.page(&stream.meta.topology, 0, limit);
        let shards: Vec<_> = page.iter().map(|entry| ShardShape::new(&stream, entry)).collect();
        let description =
            Description { common: self.common(&stream), shards, has_more_shards: rest.is_some() };
        Ok(to_json(&DescribeStreamAnswer { stream_description: description }))
    }

    pub(super) fn describe_stream_summary(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::OnlyStream = parse(body)?;
        let shared = self.find(&request.stream())?;
        let stream = self.lock(&shared);
        let summary = Summary {
            common: self.common(&stream),
            open_shard_count: stream.meta.topology.open_shards().count(),
            consumer_count: 0,
            max_record_size_in_kib: stream.meta.max_record_kib,
        };
        Ok(to_json(&DescribeStreamSummaryAnswer { stream_description_summary: summary }))
    }

    fn common(&self, stream: &Stream) -> Common {
        Common {
            stream_name: stream.meta.name.clone(),
            stream_arn: self.arn(&stream.meta.name),
            stream_status: status_name(stream.meta.status),
            stream_mode_details: Mode { stream_mode: mode_name(stream.meta.on_demand) },
            retention_period_hours: stream.meta.retention_hours,
            stream_creation_timestamp: seconds(stream.meta.created_ms),
            enhanced_monitoring: [Monitoring { shard_level_metrics: [] }],
            encryption_type: "NONE",
        }
    }

    pub(super) fn list_streams(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::ListStreams = parse(body)?;
        let after = request.next_token.or(request.exclusive_start_stream_name);
        let limit = request.limit.unwrap_or(DEFAULT_PAGE).clamp(1, 10_000);
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        let mut left = streams
            .iter()
            .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after))
            .filter(|(_, stream)| !self.lock(stream).is_deleted(now_ms));
        let page: Vec<_> = left.by_ref().take(limit).map(|(_, s)| s.clone()).collect();
        let has_more_streams = left.next().is_some();
        drop(streams);
        let stream_summaries: Vec<_> = page
            .iter()
            .map(|shared| {
                let stream = self.lock(shared);
                StreamSummary {
                    stream_name: stream.meta.name.clone(),
                    stream_arn: self.arn(&stream.meta.name),
                    stream_status: status_name(stream.meta.status),
                    stream_mode_details: Mode { stream_mode: mode_name(stream.meta.on_demand) },
                    stream_creation_timestamp: seconds(stream.meta.created_ms),
                }
            })
            .collect();
        let stream_names: Vec<_> = stream_summaries.iter().map(|s| s.stream_name.clone()).collect();
        let next_token = stream_names.last().cloned().filter(|_| has_more_streams);
        Ok(to_json(&ListStreamsAnswer {
            stream_names,
            has_more_streams,
            next_token,
            stream_summaries,
        }))
    }

    pub(super) fn list_shards(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::ListShards = parse(body)?;
        let now_ms = self.now_ms();
        let (shared, query) = match &request.next_token {
            Some(token) => self.listing_from_token(&request, token, now_ms)?,
            None => self.listing_from_start(&request)?,
        };
        let stream = self.lock(&shared);
        if let Some(created) = request.stream_creation_timestamp
            && request.next_token.is_none()
            && millis(created) / 1000 != stream.meta.created_ms / 1000
        {
            return Err(KinesisError::new(
                ErrorKind::ResourceNotFound,
                format!("Stream {} was not created at {created}.", stream.meta.name),
            ));
        }
        let max = request.max_results.unwrap_or(MAX_SHARDS_PER_PAGE);
        if !(1..=10_000).contains(&max) {
            let bounds = "have value between 1 and 10000";
            return Err(KinesisError::constraint(&max.to_string(), "maxResults", bounds));
        }
        let horizon_ms = stream.meta.horizon_ms(now_ms).max(stream.meta.created_ms);
        let (page, rest) = query.page(&stream.meta.topology, horizon_ms, max);
        let next_token = rest.map(|query| {
            let meta = &stream.meta;
            PageToken {
                stream: meta.name.clone(),
                stream_created_ms: meta.created_ms,
                query,
                issued_ms: now_ms,
            }
            .to_token()
        });
        let shards = page.iter().map(|entry| ShardShape::new(&stream, entry)).collect();
        Ok(to_json(&ListShardsAnswer { shards, next_token }))
    }

    fn listing_from_token(
        &self,
        request: &requests::ListShards,
        token: &str,
        now_ms: u64,
    ) -> KinesisResult<(super::SharedStream, ListShardsQuery)> {
        let named = request.stream().name()?.is_some();
        if named
            || request.exclusive_start_shard_id.is_some()
            || request.stream_creation_timestamp.is_some()
            || request.shard_filter.is_some()
        {
            return Err(KinesisError::invalid_argument(
                "NextToken and StreamName cannot be provided together; with NextToken only \
                 MaxResults may be given.",
            ));
        }
        let page = PageToken::from_token(token, now_ms)?;
        let shared = self.stream_named(&page.stream)?;
        if self.lock(&shared).meta.created_ms != page.stream_created_ms {
            return Err(KinesisError::invalid_argument(
                "The NextToken belongs to a deleted stream of the same name.",
            ));
        }
        Ok((shared, page.query))
    }

    fn listing_from_start(
        &self,
        request: &requests::ListShards,
    ) -> KinesisResult<(super::SharedStream, ListShardsQuery)> {
        let shared = self.find(&request.stream())?;
        let after =
            request.exclusive_start_shard_id.as_deref().map(require_shard_id).transpose()?;
        let filter = match &request.shard_filter {
            None => ShardFilter::All,
            Some(shape) => {
                let shard = shape.shard_id.as_deref().map(require_shard_id).transpose()?;
                ShardFilter::parse(&shape.kind, shard, shape.timestamp.map(millis))?
            }
        };
        Ok((shared, ListShardsQuery { filter, after }))
    }

    pub(super) fn split_shard(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::SplitShard = parse(body)?;
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        let shard = shard_index(&stream, &request.shard_to_split)?;
        let start = super::write::parse_hash_key(&request.new_starting_hash_key)?;
        let now_ms = self.now_ms();
        stream.reshard(now_ms, self.transition_ms(), |t| t.split(shard, start, now_ms))?;
        Ok(NOTHING.into())
    }

    pub(super) fn merge_shards(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::MergeShards = parse(body)?;
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        let first = shard_index(&stream, &request.shard_to_merge)?;
        let second = shard_index(&stream, &request.adjacent_shard_to_merge)?;
        let now_ms = self.now_ms();
        stream.reshard(now_ms, self.transition_ms(), |t| t.merge(first, second, now_ms))?;
        Ok(NOTHING.into())
    }

    pub(super) fn update_shard_count(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::UpdateShardCount = parse(body)?;
        if let Some(other) = request.scaling_type.as_deref().filter(|t| *t != "UNIFORM_SCALING") {
            let known = "satisfy enum value set: [UNIFORM_SCALING]";
            return Err(KinesisError::constraint(other, "scalingType", known));
        }
        let target = request.target_shard_count;
        require_shard_count(target, "targetShardCount")?;
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        let current = stream.meta.topology.open_shards().count() as u32;
        if self.options.limited && (target > current * 2 || target < current.div_ceil(2)) {
            return Err(KinesisError::invalid_argument(format!(
                "UpdateShardCount cannot scale below half or above double the current shard \
                 count: current {current}, target {target}."
            )));
        }
        let now_ms = self.now_ms();
        stream.reshard(now_ms, self.transition_ms(), |t| t.scale_to(target, now_ms))?;
        Ok(to_json(&UpdateShardCountAnswer {
            stream_name: stream.meta.name.clone(),
            current_shard_count: current,
            target_shard_count: target,
            stream_arn: self.arn(&stream.meta.name),
        }))
    }

    pub(super) fn change_retention(&self, body: &[u8], longer: bool) -> KinesisResult<Vec<u8>> {
        let request: requests::RetentionPeriod = parse(body)?;
        let hours = request.retention_period_hours;
        if !(DEFAULT_RETENTION_HOURS..=MAX_RETENTION_HOURS).contains(&hours) {
            let bounds = "have value between 24 and 8760";
            return Err(KinesisError::constraint(
                &hours.to_string(),
                "retentionPeriodHours",
                bounds,
            ));
        }
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        stream.require_active()?;
        let current = stream.meta.retention_hours;
        if (longer && hours < current) || (!longer && hours > current) {
            let (name, bound) =
                if longer { ("Increase", "shorter") } else { ("Decrease", "longer") };
            return Err(KinesisError::invalid_argument(format!(
                "Requested retention period ({hours} hours) for stream {} can not be {bound} than \
                 existing retention period ({current} hours). Use the other operation than \
                 {name}StreamRetentionPeriod.",
                stream.meta.name
            )));
        }
        stream.update(|meta| {
            meta.retention_hours = hours;
            Ok(())
        })?;
        Ok(NOTHING.into())
    }

    pub(super) fn update_max_record_size(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::UpdateMaxRecordSize = parse(body)?;
        require_record_size(request.max_record_size_in_kib)?;
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        stream.update(|meta| {
            meta.max_record_kib = request.max_record_size_in_kib;
            Ok(())
        })?;
        Ok(NOTHING.into())
    }

    pub(super) fn add_tags(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::AddTags = parse(body)?;
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        stream.update(|meta| {
            meta.tags.extend(request.tags.clone());
            Ok(())
        })?;
        Ok(NOTHING.into())
    }

    pub(super) fn remove_tags(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::RemoveTags = parse(body)?;
        let shared = self.find(&request.stream())?;
        let mut stream = self.lock(&shared);
        stream.update(|meta| {
            meta.tags.retain(|key, _| !request.tag_keys.contains(key));
            Ok(())
        })?;
        Ok(NOTHING.into())
    }

    pub(super) fn list_tags(&self, body: &[u8]) -> KinesisResult<Vec<u8>> {
        let request: requests::OnlyStream = parse(body)?;
        let shared = self.find(&request.stream())?;
        let stream = self.lock(&shared);
        let tags = stream.meta.tags.iter().map(|(k, v)| Tag { key: k.clone(), value: v.clone() });
        Ok(to_json(&ListTagsAnswer { tags: tags.collect(), has_more_tags: false }))
    }
}

fn require_stream_name(name: &str) -> KinesisResult<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    let rule = "satisfy regular expression pattern: [a-zA-Z0-9_.-]+ with 1 to 128 characters";
    Err(KinesisError::constraint(name, "streamName", rule))
}

fn require_shard_count(count: u32, member: &str) -> KinesisResult<()> {
    if (1..=MAX_SHARDS).contains(&count) {
        return Ok(());
    }
    let rule = "have value greater than or equal to 1 and at most 20000";
    Err(KinesisError::constraint(&count.to_string(), member, rule))
}

fn require_record_size(kib: u64) -> KinesisResult<()> {
    if (DEFAULT_RECORD_KIB..=MAX_RECORD_KIB).contains(&kib) {
        return Ok(());
    }
    let rule = "have value between 1024 and 10240";
    Err(KinesisError::constraint(&kib.to_string(), "maxRecordSizeInKiB", rule))
}

fn require_shard_id(id: &str) -> KinesisResult<u32> {
    parse_shard_id(id)
        .ok_or_else(|| KinesisError::invalid_argument(format!("{id} is not a shard id.")))
}
