//! `POST /-/reload`: the wish goes to whoever reads the configuration, its answer to the client, as
//! in Prometheus.

use axum::extract::State;
use axum::http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use super::HttpState;

/// A wish to read the configuration again, to be answered by what was done, or why not.
pub type ReloadRequest = oneshot::Sender<Result<String, String>>;

/// Where wishes go.
pub type ReloadRequests = mpsc::Sender<ReloadRequest>;

pub(super) async fn reload(State(state): State<HttpState>) -> (StatusCode, String) {
    let Some(requests) = &state.reload else {
        let why = "There is no configuration file; start rttscope run --config.file FILE.\n";
        return (StatusCode::NOT_FOUND, why.to_owned());
    };
    let (request, answer) = oneshot::channel();
    let asked = requests.send(request).await.is_ok();
    match answer.await {
        Ok(Ok(done)) if asked => (StatusCode::OK, done + "\n"),
        Ok(Err(why)) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {why}\n"))
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "rttscope is stopping.\n".to_owned()),
    }
}
