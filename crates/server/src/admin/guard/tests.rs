//! Requests, and how the guard answers them.

use super::*;
use crate::testing::TestFolder;

const TOKEN: &str = "0123456789abcdef";

/// Checks what a request with these headers gets: `None` when it passes.
fn check(rules: &Rules, request: &str, headers: &[(&str, &str)], expected: Option<(u16, &str)>) {
    let (method, uri) = request.split_once(' ').unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let found = rules.check(&method.parse().unwrap(), &uri.parse().unwrap(), &map).err();
    let found = found.as_ref().map(|error| (error.status().as_u16(), error.detail().code.as_str()));
    assert_eq!(found, expected, "{request} {headers:?}");
}

fn open() -> Rules {
    Rules { host_names: vec!["n1.example.net".to_owned()], tokens: None }
}

#[test]
fn only_names_of_this_node_are_answered() {
    let ours =
        ["localhost", "LOCALHOST:9883", "localhost.", "127.0.0.1:9883", "10.0.0.7", "[::1]", "[::1]:9883"];
    let more = ["n1.example.net", "N1.Example.Net:9883", "n1.example.net."];
    for host in ours.into_iter().chain(more) {
        check(&open(), "GET /v1/sessions", &[("host", host)], None);
        check(&open(), "GET /livez", &[("host", host)], None);
    }
    let foreign = [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[::1].evil",
        "[evil]",
        ":80",
    ];
    for host in foreign.into_iter().chain(["n1.example.net:port", "localhost:99999", "example.net"]) {
        check(&open(), "GET /v1/sessions", &[("host", host)], Some((421, "host_unknown")));
    }
    check(&open(), "GET /livez", &[], Some((421, "host_unknown")));
    let two = [("host", "localhost"), ("host", "evil.example")];
    check(&open(), "GET /livez", &two, Some((421, "host_unknown")));
    let absolute = "GET http://evil.example/livez";
    check(&open(), absolute, &[("host", "localhost")], Some((421, "host_unknown")));
}

#[test]
fn what_changes_something_is_json_and_from_here() {
    let host = ("host", "localhost:9883");
    let json = ("content-type", "application/json; charset=utf-8");
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request = format!("{method} /v1/reload");
        check(&open(), &request, &[host, json], None);
        check(&open(), &request, &[host], Some((415, "content_type_not_json")));
        let text = ("content-type", "text/plain");
        check(&open(), &request, &[host, text], Some((415, "content_type_not_json")));
        check(&open(), &request, &[host, json, ("origin", "http://localhost:9883")], None);
        for origin in
            ["null", "http://evil.example", "http://localhost", "http://localhost:9883.evil.example"]
        {
            check(&open(), &request, &[host, json, ("origin", origin)], Some((403, "origin_foreign")));
        }
    }
    check(&open(), "GET /v1/sessions", &[host, ("origin", "http://evil.example")], None);
}

#[test]
fn token_opens_everything_and_its_absence_little() {
    let folder = TestFolder::new();
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let rules = Rules { host_names: Vec::new(), tokens: Some(Tokens::load(&file).unwrap()) };
    let host = ("host", "localhost");
    for path in ["/livez", "/readyz", "/readyz/tcp", "/", "/dashboard", "/dashboard/app.js"] {
        check(&rules, &format!("GET {path}"), &[host], None);
    }
    for path in ["/metrics", "/v1/sessions", "/v1/openapi.json", "/readyzx", "/dashboards"] {
        let request = format!("GET {path}");
        check(&rules, &request, &[host], Some((401, "token_missing")));
        check(&rules, &request, &[host, ("authorization", "Basic abc")], Some((401, "token_missing")));
        check(&rules, &request, &[host, ("authorization", "Bearer wrong")], Some((401, "token_wrong")));
        check(&rules, &request, &[host, ("authorization", &format!("bearer {TOKEN}"))], None);
    }
    let json = ("content-type", "application/json");
    check(&rules, "POST /readyz", &[host, json], Some((401, "token_missing")));
}
