//! The HTTP side of the master's one port: `/healthz`, `/metrics` and the read-only `/api/v1`.

mod api;
mod json;
mod metrics;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::grpc::Leader;

/// Every HTTP route.
pub(crate) fn routes(leader: Leader) -> Router {
    Router::new()
        .route("/healthz", get(api::health))
        .route("/metrics", get(metrics::metrics))
        .route("/api/v1/cluster", get(api::cluster))
        .route("/api/v1/nodes", get(api::nodes))
        .route("/api/v1/applications", get(api::applications))
        .route("/api/v1/applications/{name}", get(api::application))
        .route("/api/v1/applications/{name}/batches", get(api::batches))
        .route("/api/v1/containers", get(api::containers))
        .with_state(leader)
}

/// What nobody serves: the gRPC status of an unknown method for a gRPC client, else 404.
pub(crate) async fn unknown(headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("this master does not know the method").into_http();
    }
    (StatusCode::NOT_FOUND, "there is nothing here; see /api/v1/cluster\n").into_response()
}
