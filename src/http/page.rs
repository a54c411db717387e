//! The status page: one HTML file, one style, one script and an icon, all inside the binary and
//! without a word from anywhere else. What it shows it gets from `/api/v1/`.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};

/// Answers `/`.
pub(super) async fn html() -> Response {
    asset("text/html; charset=utf-8", include_str!("assets/page.html"))
}

/// Answers `/assets/page.css`.
pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("assets/page.css"))
}

/// Answers `/assets/page.js`.
pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("assets/page.js"))
}

/// Answers `/assets/charts.js`.
pub(super) async fn charts() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("assets/charts.js"))
}

/// Answers `/assets/icon.svg`.
pub(super) async fn icon() -> Response {
    asset("image/svg+xml", include_str!("assets/icon.svg"))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        // Another version of the program has another page.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

/// Names of targets are whatever users write: nothing that stands in the page itself is run.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; object-src 'none'";
