//! `/metrics`: the cluster and its applications in Prometheus's text format, computed when asked.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use millrace_common::error::Error;
use millrace_proto::v1;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::api::Refusal;
use crate::application::state_name;
use crate::control::{Core, view};
use crate::grpc::Leader;

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;

pub(super) async fn metrics(State(leader): State<Leader>) -> Result<Response, Refusal> {
    let text = match leader.control() {
        Ok(_) => leader.read(collect).await?,
        Err(_) => {
            let mut registry = Registry::with_prefix("millrace");
            leading(&mut registry, 0);
            render(&registry)
        }
    }?;
    Ok(([(CONTENT_TYPE, FORMAT)], text).into_response())
}

fn leading(registry: &mut Registry, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register("master_leading", "1 while this master leads its cluster", gauge);
}

fn render(registry: &Registry) -> Result<String, Error> {
    let mut text = String::new();
    encode(&mut text, registry)
        .map_err(|error| Error::internal("the metrics can not be written").caused_by(error))?;
    Ok(text)
}

fn set(family: &Gauges, labels: &[(&'static str, &str)], value: impl TryInto<i64>) {
    let labels: Labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    family.get_or_create(&labels).set(value.try_into().unwrap_or(i64::MAX));
}

fn collect(core: &Core) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("millrace");
    leading(&mut registry, 1);
    let term: Gauge = Gauge::default();
    term.set(i64::try_from(core.identity.term).unwrap_or(i64::MAX));
    registry.register("master_term", "Leadership term", term);
    nodes(&mut registry, core);
    applications(&mut registry, core);
    render(&registry)
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Gauges {
    let family = Gauges::default();
    registry.register(name, help, family.clone());
    family
}

fn nodes(registry: &mut Registry, core: &Core) {
    let state = family(registry, "node_state", "1 for the state that the node is in");
    let offered = family(registry, "node_cores_offered", "Cores that the node offers");
    let used = family(registry, "node_cores_used", "Cores of the containers on the node");
    let memory_offered =
        family(registry, "node_memory_offered_bytes", "Memory that the node offers");
    let memory_used = family(registry, "node_memory_used_bytes", "Memory granted on the node");
    for node in view::nodes(core) {
        let id = node.node_id.as_str();
        let name = node.state().as_str_name().trim_start_matches("NODE_STATE_");
        set(&state, &[("node", id), ("state", name)], 1);
        let (o, u) = (node.offered.unwrap_or_default(), node.used.unwrap_or_default());
        set(&offered, &[("node", id)], o.cores);
        set(&used, &[("node", id)], u.cores);
        set(&memory_offered, &[("node", id)], o.memory_bytes);
        set(&memory_used, &[("node", id)], u.memory_bytes);
    }
}

fn applications(registry: &mut Registry, core: &Core) {
    let state = family(registry, "application_state", "1 for the state of the application");
    let attempt = family(registry, "application_attempt", "Number of the last attempt");
    let executors = family(registry, "application_executors", "Executors it has");
    let batch = family(registry, "application_batch", "Number of the last committed batch");
    let last_commit =
        family(registry, "application_last_commit_ms", "Unix time of the last commit, in ms");
    let behind = family(
        registry,
        "application_millis_behind_latest",
        "Largest distance of a shard behind its newest record; -1 when not known",
    );
    let records = family(registry, "application_records", "Records committed since it began");
    let rows = family(registry, "application_rows", "Rows committed since it began");
    let bad = family(registry, "application_bad_records", "Bad records met in this attempt");
    let bad_of_shard = family(
        registry,
        "application_bad_records_of_shard",
        "Bad records met in this attempt, by shard",
    );
    let out_of_range = family(
        registry,
        "application_out_of_range_records",
        "KPL user records outside their shard's range in this attempt, dropped or not",
    );
    let gaps = family(
        registry,
        "application_lost_ranges",
        "Ranges of records lost since the start and passed over by on_data_loss = continue",
    );
    let busy = family(registry, "application_task_cores_busy", "Compute threads at work");
    let cores = family(registry, "application_task_cores", "Compute threads of its executors");
    let buffered = family(registry, "application_buffered_bytes", "Bytes of blocks not committed");
    for application in view::applications(core) {
        let labels = [("application", application.name.as_str())];
        let in_state = [
            ("application", application.name.as_str()),
            ("state", state_name(application.state())),
        ];
        set(&state, &in_state, 1);
        set(&attempt, &labels, application.attempts.last().map_or(0, |attempt| attempt.number));
        set(&executors, &labels, application.num_executors);
        let Some(report) = application.report else { continue };
        let v1::DriverReport { last_commit_ms, millis_behind_latest, .. } = report;
        set(&batch, &labels, report.batch);
        set(&last_commit, &labels, last_commit_ms);
        set(&behind, &labels, millis_behind_latest);
        set(&records, &labels, report.records_total);
        set(&rows, &labels, report.rows_total);
        set(&bad, &labels, report.bad_records_total);
        set(&out_of_range, &labels, report.out_of_range_total);
        let of_shard = |source, shard| {
            [("application", application.name.as_str()), ("source", source), ("shard", shard)]
        };
        for bad in &report.bad_records {
            set(&bad_of_shard, &of_shard(&bad.source, &bad.shard_id), bad.num_records);
        }
        for gap in &report.gaps {
            set(&gaps, &of_shard(&gap.source, &gap.shard_id), gap.num_gaps);
        }
        set(&busy, &labels, report.task_cores_busy);
        set(&cores, &labels, report.task_cores_total);
        set(&buffered, &labels, report.buffered_bytes);
    }
}
