//! Kinto Admin below `/v1/admin/`, as `kinto.plugins.admin` of Kinto 25.0 serves it (compared side by side).

use std::path::PathBuf;

use kinto_local::{Options, Stack};
use kinto_serverless::settings::{Settings, Vars};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response};

/// A minimal build, with something beside it that must not be served.
struct Build(PathBuf);

impl Build {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let build = place.join("build");
        std::fs::create_dir_all(build.join("assets")).unwrap();
        std::fs::write(place.join("secret"), "secret").unwrap();
        std::fs::write(build.join("VERSION"), "1.2.3\n").unwrap();
        std::fs::write(build.join("index.html"), "<h1>Admin</h1>").unwrap();
        std::fs::write(build.join("assets/a.js"), "let a;".repeat(2000)).unwrap();
        std::fs::write(build.join("assets/a.png"), [137, 80, 78, 71, 0, 255]).unwrap();
        std::os::unix::fs::symlink(place.join("secret"), build.join("link")).unwrap();
        Self(place)
    }

    fn path(&self) -> String {
        self.0.join("build").display().to_string()
    }

    async fn serve(&self, includes: &str) -> Server {
        let vars = [
            ("KINTO_INCLUDES", includes),
            ("KINTO_ADMIN_ASSETS_PATH", &self.path()),
        ];
        let stack = Stack::start(&Options::default(), Vars::from_iter(vars)).await;
        Server(stack.unwrap())
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

struct Server(Stack);

impl Server {
    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let client = Client::builder().redirect(Policy::none()).build().unwrap();
        let url = self.0.url();
        let url = format!("{}{path}", url.trim_end_matches("/v1/"));
        let mut request = client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[]).await
    }
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_page_is_at_its_slash_with_a_policy_of_its_own() {
    let build = Build::new("admin-page");
    let server = build.serve("kinto.plugins.admin").await;
    let page = server.get("/v1/admin/").await;
    assert_eq!(page.status(), 200);
    assert_eq!(header(&page, "content-type"), "text/html; charset=UTF-8");
    assert_eq!(
        header(&page, "content-security-policy"),
        "default-src 'self'; img-src data: *; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
    );
    assert_eq!(header(&page, "x-content-type-options"), "nosniff");
    assert_eq!(page.text().await.unwrap(), "<h1>Admin</h1>");

    // One step at a time, as in Kinto; this slash alone is not removed.
    for (from, to) in [
        ("/v1/admin", "/v1/admin/"),
        ("/admin/", "/v1/admin/"),
        ("/admin", "/v1/admin"),
        ("/v1/admin/assets/", "/v1/admin/assets"),
    ] {
        let redirect = server.get(from).await;
        assert_eq!(
            (redirect.status().as_u16(), header(&redirect, "location")),
            (307, to)
        );
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let refused = server.send(method, "/v1/admin/", &[]).await;
        assert_eq!(refused.status(), 405);
    }
    let head = server.send(Method::HEAD, "/v1/admin/", &[]).await;
    assert_eq!(
        (head.status().as_u16(), head.bytes().await.unwrap().len()),
        (200, 0)
    );
}

#[tokio::test]
async fn what_the_page_loads_may_be_kept_for_an_hour_and_is_compressed_where_it_is_text() {
    let build = Build::new("admin-assets");
    let server = build.serve("kinto.plugins.admin").await;
    let script = server.get("/v1/admin/assets/a.js").await;
    assert_eq!(script.status(), 200);
    assert_eq!(
        header(&script, "content-type"),
        "text/javascript; charset=UTF-8"
    );
    assert_eq!(header(&script, "cache-control"), "max-age=3600");
    assert_eq!(header(&script, "content-encoding"), "");
    let modified = header(&script, "last-modified").to_owned();
    assert_eq!(script.text().await.unwrap(), "let a;".repeat(2000));

    let gzip = [("accept-encoding", "gzip")];
    let compressed = server
        .send(Method::GET, "/v1/admin/assets/a.js", &gzip)
        .await;
    assert_eq!(header(&compressed, "content-encoding"), "gzip");
    assert!(compressed.bytes().await.unwrap().len() < 1000);

    let since = [("if-modified-since", modified.as_str())];
    let known = server
        .send(Method::GET, "/v1/admin/assets/a.js", &since)
        .await;
    assert_eq!(
        (known.status().as_u16(), known.bytes().await.unwrap().len()),
        (304, 0)
    );
    let before = [("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")];
    let changed = server
        .send(Method::GET, "/v1/admin/assets/a.js", &before)
        .await;
    assert_eq!(changed.status(), 200);

    let image = server
        .send(Method::GET, "/v1/admin/assets/a.png", &gzip)
        .await;
    assert_eq!(header(&image, "content-type"), "image/png");
    assert_eq!(image.bytes().await.unwrap()[..], [137, 80, 78, 71, 0, 255]);
}

#[tokio::test]
async fn nothing_outside_of_the_build_can_be_named() {
    let build = Build::new("admin-outside");
    let server = build.serve("kinto.plugins.admin").await;
    for path in [
        "../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "assets/../../secret",
        "assets/..%2f..%2fsecret",
        "%2fetc/passwd",
        "/etc/passwd",
        "link",
        "%00",
        "assets",
        "nope",
        "index.html%00.js",
    ] {
        let answer = server.get(&format!("/v1/admin/{path}")).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 404, "{path}: {text}");
        assert!(text.contains("\"errno\":111"), "{path}: {text}");
    }
    let other = server.get("/v1/adminother").await;
    assert_eq!(other.status(), 404);
}

#[tokio::test]
async fn the_capability_has_the_builds_version_and_users_can_list_what_they_may_see() {
    let build = Build::new("admin-hello");
    let server = build.serve("kinto.plugins.admin").await;
    let hello = server.get("/v1/").await.text().await.unwrap();
    let hello: serde_json::Value = serde_json::from_str(&hello).unwrap();
    let capabilities = &hello["capabilities"];
    assert_eq!(capabilities["admin"]["version"], "1.2.3");
    assert_eq!(
        capabilities["admin"]["url"],
        "https://github.com/Kinto/kinto-admin/"
    );
    assert!(capabilities["permissions_endpoint"].is_object());
}

#[tokio::test]
async fn without_the_plugin_there_is_nothing() {
    let build = Build::new("admin-off");
    let server = build.serve("").await;
    assert_eq!(server.get("/v1/admin").await.status(), 404);
    let redirect = server.get("/v1/admin/").await;
    assert_eq!(
        (redirect.status().as_u16(), header(&redirect, "location")),
        (307, "/v1/admin")
    );
    let hello = server.get("/v1/").await.text().await.unwrap();
    assert!(!hello.contains("\"admin\"") && !hello.contains("permissions_endpoint"));
}

#[test]
fn a_build_that_is_not_there_stops_the_start_and_the_way_to_one_is_named() {
    let vars = [
        ("KINTO_USERID_HMAC_SECRET", "s"),
        ("KINTO_INCLUDES", "kinto.plugins.admin"),
        ("KINTO_ADMIN_ASSETS_PATH", "/nowhere"),
    ];
    let error = Settings::from_vars(&Vars::from_iter(vars)).unwrap_err();
    assert_eq!(error.variable, "KINTO_ADMIN_ASSETS_PATH");
    assert!(
        error.problem.contains("/nowhere") && error.problem.contains("admin/fetch"),
        "{error}"
    );
}
