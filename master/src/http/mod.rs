//! The HTTP side of the master's one port: `/healthz`, `/metrics` and the read-only `/api/v1`.

mod api;
mod json;
mod metrics;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

pub(crate) use self::api::Refusal;
use crate::grpc::Leader;

/// Every HTTP route. Each needs a rule in `access/rules.rs`.
pub(crate) fn all() -> Vec<(&'static str, MethodRouter<Leader>)> {
    vec![
        ("/healthz", get(api::health)),
        ("/metrics", get(metrics::metrics)),
        ("/api/v1/cluster", get(api::cluster)),
        ("/api/v1/nodes", get(api::nodes)),
        ("/api/v1/applications", get(api::applications)),
        ("/api/v1/applications/{name}", get(api::application)),
        ("/api/v1/applications/{name}/batches", get(api::batches)),
        ("/api/v1/containers", get(api::containers)),
    ]
}

/// The routes, ready to be served.
pub(crate) fn routes(leader: Leader) -> Router {
    let router = |router: Router<Leader>, (path, method)| router.route(path, method);
    all().into_iter().fold(Router::new(), router).with_state(leader)
}

/// What nobody serves: the gRPC status of an unknown method for a gRPC client, else 404.
pub(crate) async fn unknown(headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("this master does not know the method").into_http();
    }
    (StatusCode::NOT_FOUND, "there is nothing here; see /api/v1/cluster\n").into_response()
}
