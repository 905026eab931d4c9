//! `/__metrics__`, as Kinto 26.5 with `kinto.plugins.prometheus` serves it.

use serde_json::json;
use tests::{COLLECTION, Kinto, RECORD, RECORDS, batch, put};

const ON: (&str, &str) = (
    "KINTO_INCLUDES",
    "kinto.plugins.prometheus kinto.plugins.default_bucket",
);

/// The metrics; a scrape tells what came before it.
async fn scrape(kinto: &Kinto) -> String {
    let answer = kinto.get("/__metrics__").await;
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(answer.header("content-type"), content_type);
    answer.body.as_str().unwrap().to_owned()
}

/// The value of the only series that begins so.
fn value(text: &str, series: &str) -> f64 {
    let mut lines = text.lines().filter(|line| line.starts_with(series));
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("no {series} in {text}"));
    assert_eq!(lines.next(), None, "{series}");
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn with_collection(more: &[(&str, &str)]) -> Kinto {
    let settings: Vec<_> = [ON].iter().chain(more).copied().collect();
    let kinto = Kinto::with(&settings);
    kinto.put("/buckets/main", json!({})).await;
    kinto.put(COLLECTION, json!({})).await;
    kinto
}

#[tokio::test]
async fn names_kinds_and_labels_are_kintos() {
    let kinto = with_collection(&[]).await;
    kinto.put(RECORD, json!({})).await;
    let text = scrape(&kinto).await;
    // From Kinto's own `/__metrics__`.
    for line in [
        "# TYPE kinto_request_summary_total counter",
        "# TYPE kinto_request_summary_created gauge",
        "# TYPE kinto_request_duration_seconds histogram",
        "# TYPE kinto_request_duration_seconds_created gauge",
        "# TYPE kinto_request_size summary",
        "# TYPE kinto_request_size_created gauge",
        "# TYPE kinto_authentication_total counter",
        r#"kinto_request_summary_total{bucket_id="main",collection_id="one",endpoint="record-object",group_id="",method="put",record_id="r1",status="201"} 1.0"#,
        r#"kinto_request_summary_total{bucket_id="main",collection_id="",endpoint="bucket-object",group_id="",method="put",record_id="",status="201"} 1.0"#,
        r#"kinto_request_duration_seconds_bucket{bucket_id="main",collection_id="one",endpoint="record-object",group_id="",le="+Inf",method="put",record_id="r1"} 1.0"#,
        r#"kinto_request_duration_seconds_count{bucket_id="main",collection_id="one",endpoint="record-object",group_id="",method="put",record_id="r1"} 1.0"#,
        r#"kinto_request_size_count{bucket_id="main",collection_id="one",endpoint="record-object",group_id="",method="put",record_id="r1"} 1.0"#,
        r#"kinto_authentication_total{type="basicauth"} 3.0"#,
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    let bounds = text.lines().filter(|line| {
        line.starts_with("kinto_request_duration_seconds_bucket") && line.contains("record-object")
    });
    let bounds = bounds.map(|line| line.split("le=\"").nth(1).unwrap());
    let bounds: Vec<_> = bounds
        .map(|bound| bound.split('"').next().unwrap())
        .collect();
    let of_kinto = ["0.01", "0.05", "0.1", "0.5", "1.0", "3.0", "6.0", "+Inf"];
    assert_eq!(bounds, of_kinto);
    assert!(!text.contains("kinto_users"), "{text}");
}

#[tokio::test]
async fn a_refused_request_has_no_ids_for_labels() {
    let kinto = with_collection(&[]).await;
    kinto.get(&format!("{RECORDS}/made-up")).await;
    kinto.get("/made-up").await;
    kinto.send("MADE-UP", COLLECTION, &[], "").await;
    let text = scrape(&kinto).await;
    assert!(!text.contains("made-up"), "{text}");
    let empty = r#"{bucket_id="",collection_id="",endpoint="#;
    let refused = format!(
        "kinto_request_summary_total{empty}\"record-object\",group_id=\"\",method=\"get\",record_id=\"\",status=\"404\"}}"
    );
    assert!((value(&text, &refused) - 1.0).abs() < 0.1);
    let unknown = format!("kinto_request_summary_total{empty}\"unknown\"");
    assert!((value(&text, &unknown) - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn requests_in_a_batch_count_as_well_as_the_batch() {
    let kinto = with_collection(&[("KINTO_METRICS_MATCHDICT_FIELDS", "")]).await;
    batch(&kinto, vec![put("a"), put("b")]).await;
    let text = scrape(&kinto).await;
    let count = |endpoint: &str, method: &str| {
        let labels = format!("endpoint=\"{endpoint}\",method=\"{method}\"");
        value(
            &text,
            &format!("kinto_request_summary_total{{{labels},status"),
        )
    };
    assert!((count("batch", "post") - 1.0).abs() < 0.1);
    assert!((count("record-object", "put") - 2.0).abs() < 0.1);
}

#[tokio::test]
async fn settings_name_metrics_and_turn_them_off() {
    let kinto = with_collection(&[
        ("KINTO_PROMETHEUS_PREFIX", "remote-settings"),
        (
            "KINTO_PROMETHEUS_DISABLED_METRICS",
            "request_size remotesettings_authentication",
        ),
        ("KINTO_PROMETHEUS_CREATED_METRICS_ENABLED", "false"),
        ("KINTO_PROMETHEUS_HISTOGRAM_BUCKETS", "0.5"),
    ])
    .await;
    let text = scrape(&kinto).await;
    assert!(
        text.contains("remotesettings_request_summary_total{"),
        "{text}"
    );
    for absent in ["request_size", "authentication", "_created", "le=\"1.0\""] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    assert!(
        text.contains("le=\"0.5\"") && text.contains("le=\"+Inf\""),
        "{text}"
    );
    let capability = &kinto.get("/").await.body["capabilities"]["prometheus"];
    assert_eq!(capability["prefix"], "remotesettings_");
    let disabled = json!(["request_size", "authentication"]);
    assert_eq!(capability["disabled_metrics"], disabled);
}

#[tokio::test]
async fn without_the_plugin_there_is_no_such_endpoint() {
    let kinto = Kinto::with_collection().await;
    assert_eq!(kinto.get("/__metrics__").await.status, 404);
    let capabilities = &kinto.get("/").await.body["capabilities"];
    assert_eq!(capabilities["prometheus"], json!(null));
}
