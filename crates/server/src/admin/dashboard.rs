//! The dashboard: static files in the binary, served at `/` and below `/dashboard/`.
//!
//! Owns: the files and their headers. Does not: answer for the cluster; the page asks `/v1` like any other client.
//! Invariants: nothing is loaded from another host and no script or style is inline, so that the policy can forbid both;
//! the files hold no secrets and need no token.
//! Limits: `DASHBOARD_BYTES_MAX` for all files together.

use std::future::ready;

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the page may do. WebSockets go to any host: the test client connects to the listener that the user names.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the dashboard.
#[derive(Clone, Copy)]
struct File {
    /// Path of its URL.
    path: &'static str,
    /// Content type.
    kind: &'static str,
    /// Its bytes.
    body: &'static [u8],
}

/// Names a file of the folder `dashboard` of this crate.
macro_rules! file {
    ($name:literal, $kind:expr) => {
        File {
            path: concat!("/dashboard/", $name),
            kind: $kind,
            body: include_bytes!(concat!("../../dashboard/", $name)),
        }
    };
}

/// The page itself; everything else it names.
const PAGE: File = File { path: "/", kind: HTML, body: include_bytes!("../../dashboard/index.html") };

const FILES: [File; 20] = [
    file!("style.css", CSS),
    file!("icon.svg", SVG),
    file!("app.js", SCRIPT),
    file!("api.js", SCRIPT),
    file!("chart.js", SCRIPT),
    file!("cluster-map.js", SCRIPT),
    file!("dialog.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("history.js", SCRIPT),
    file!("text.js", SCRIPT),
    file!("mqtt/client.js", SCRIPT),
    file!("mqtt/codec.js", SCRIPT),
    file!("mqtt/reasons.js", SCRIPT),
    file!("views/client.js", SCRIPT),
    file!("views/cluster.js", SCRIPT),
    file!("views/node.js", SCRIPT),
    file!("views/queues.js", SCRIPT),
    file!("views/retained.js", SCRIPT),
    file!("views/sessions.js", SCRIPT),
    file!("views/traffic.js", SCRIPT),
];

/// The routes of the page and its files.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    std::iter::once(PAGE).chain(FILES).fold(Router::new(), |router, file| {
        let tag = entity_tag(file.body);
        let path = file.path;
        router.route(path, get(move |headers: HeaderMap| ready(answer(&file, &tag, &headers))))
    })
}

/// The file, or 304 when the client has it already.
fn answer(file: &File, tag: &str, request: &HeaderMap) -> Response {
    let mut response = if has_it(request, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(CONTENT_TYPE, file.kind)], file.body).into_response()
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, tag);
    }
    for (name, value) in common_headers() {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `no-cache`: the browser asks again each time, and a node with another version is noticed at once.
fn common_headers() -> [(HeaderName, &'static str); 6] {
    [
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ]
}

fn has_it(request: &HeaderMap, tag: &str) -> bool {
    let offered = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    offered
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().trim_start_matches("W/"))
        .any(|value| value == tag || value == "*")
}

/// A quoted tag of the content: FNV-1a of 64 bits. Files of one binary are told from those of another, nothing more.
fn entity_tag(body: &[u8]) -> String {
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("\"{hash:016x}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DASHBOARD_BYTES_MAX;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn text(file: &File) -> &str {
        std::str::from_utf8(file.body).unwrap()
    }

    fn on_disk(folder: &Path, below: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                on_disk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_all_are_small() {
        let mut found = BTreeSet::new();
        on_disk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard"), "/dashboard/", &mut found);
        found.remove("/dashboard/index.html");
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(served, found);
        let bytes: usize = FILES.iter().chain([&PAGE]).map(|file| file.body.len()).sum();
        assert!(bytes <= DASHBOARD_BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn files_name_only_files_that_are_served() {
        let served = |path: &str| path == "/" || FILES.iter().any(|file| file.path == path);
        for name in text(&PAGE).split(['"', '\'']).filter(|name| name.starts_with("/dashboard/")) {
            assert!(served(name), "index.html names {name}");
        }
        for file in FILES.iter().filter(|file| file.kind == SCRIPT) {
            let (folder, _) = file.path.rsplit_once('/').unwrap();
            let imports =
                text(file).lines().filter(|line| line.starts_with("import ") || line.starts_with("} from "));
            for line in imports {
                let name = line.split('\'').nth(1).unwrap_or_else(|| panic!("{}: {line}", file.path));
                let path = match name.strip_prefix("../") {
                    Some(name) => format!("/dashboard/{name}"),
                    None => format!("{folder}/{}", name.trim_start_matches("./")),
                };
                assert!(served(&path), "{} imports {name}", file.path);
            }
        }
    }

    #[test]
    fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
        let page = text(&PAGE);
        for (start, _) in page.match_indices("<script") {
            assert!(page[start..].lines().next().unwrap().contains("src=\"/dashboard/"), "an inline script");
        }
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="));
        for file in FILES.iter().chain([&PAGE]) {
            let foreign = text(file).replace("http://www.w3.org/2000/svg", "");
            let named = ["https://", "//cdn", "@import", "url(http"];
            assert!(named.iter().all(|name| !foreign.contains(name)), "{} names another host", file.path);
            assert!(!text(file).contains("innerHTML"), "{} writes markup from text", file.path);
        }
    }

    #[test]
    fn headers_forbid_what_the_page_does_not_need_and_a_known_file_is_not_sent_again() {
        let file = &FILES[0];
        let tag = entity_tag(file.body);
        let first = answer(file, &tag, &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[CONTENT_TYPE], CSS);
        let policy = first.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self'; ") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        for (sent, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"0\", W/{tag}"), StatusCode::NOT_MODIFIED),
            ("\"0\"".to_owned(), StatusCode::OK),
        ] {
            let mut request = HeaderMap::new();
            request.insert(IF_NONE_MATCH, HeaderValue::from_str(&sent).unwrap());
            let again = answer(file, &tag, &request);
            assert_eq!(again.status(), status, "{sent}");
            assert_eq!(again.headers()[ETAG].to_str().unwrap(), tag);
            assert_eq!(again.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
    }

    #[test]
    fn tags_differ_where_contents_do() {
        let tags: BTreeSet<String> = FILES.iter().map(|file| entity_tag(file.body)).collect();
        assert_eq!(tags.len(), FILES.len());
    }
}
