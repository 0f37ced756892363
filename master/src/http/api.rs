//! `/api/v1`: the same facts as the gRPC service, as JSON.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_common::error::{Code, Error};
use serde::Deserialize;
use serde_json::{Value, json};

use super::json as shape;
use crate::control::view;
use crate::grpc::Leader;

/// An error as an HTTP answer: `{"code", "message", "next_move"}`.
pub(crate) struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.code().grpc() {
            tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            _ if self.0.code() == Code::NotAllowed => StatusCode::FORBIDDEN,
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
            tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            tonic::Code::AlreadyExists | tonic::Code::FailedPrecondition => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let failure = self.0.to_failure();
        let body = json!({
            "code": failure.code,
            "message": failure.message,
            "next_move": failure.next_move,
        });
        (status, Json(body)).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

/// 200 while this process serves; `leading` says whether it is the leader.
pub(super) async fn health(State(leader): State<Leader>) -> Json<Value> {
    Json(json!({ "status": "ok", "leading": leader.control().is_ok() }))
}

pub(super) async fn cluster(State(leader): State<Leader>) -> Answer {
    let cluster = leader.read(view::cluster).await?;
    Ok(Json(json!({
        "cluster": cluster.cluster,
        "version": cluster.version,
        "term": cluster.term,
        "table": cluster.table,
        "started_ms": cluster.started_ms,
    })))
}

pub(super) async fn nodes(State(leader): State<Leader>) -> Answer {
    let nodes = leader.read(view::nodes).await?;
    let nodes: Vec<Value> = nodes.iter().map(shape::node).collect();
    Ok(Json(json!({ "nodes": nodes })))
}

pub(super) async fn applications(State(leader): State<Leader>) -> Answer {
    let applications = leader.read(view::applications).await?;
    let applications: Vec<Value> = applications.iter().map(shape::application).collect();
    Ok(Json(json!({ "applications": applications })))
}

pub(super) async fn application(State(leader): State<Leader>, Path(name): Path<String>) -> Answer {
    let found = leader.read(move |core| view::application(core, &name)).await??;
    let application = found.application.unwrap_or_default();
    let containers: Vec<Value> = found.containers.iter().map(shape::container_status).collect();
    Ok(Json(json!({ "application": shape::application(&application), "containers": containers })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchesQuery {
    #[serde(default)]
    limit: u32,
}

pub(super) async fn batches(
    State(leader): State<Leader>,
    Path(name): Path<String>,
    Query(BatchesQuery { limit }): Query<BatchesQuery>,
) -> Answer {
    let batches = leader.read(move |core| view::batches(core, &name, limit)).await??;
    let batches: Vec<Value> = batches.iter().map(shape::batch).collect();
    Ok(Json(json!({ "batches": batches })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ContainersQuery {
    #[serde(default)]
    application: String,
}

pub(super) async fn containers(
    State(leader): State<Leader>,
    Query(ContainersQuery { application }): Query<ContainersQuery>,
) -> Answer {
    let containers = leader.read(move |core| view::containers(core, &application)).await?;
    let containers: Vec<Value> = containers.iter().map(shape::container).collect();
    Ok(Json(json!({ "containers": containers })))
}
