//! The number of round trips of each request.

use tests::{Kinto, NOBODY, RECORD, RECORDS};

#[tokio::test]
async fn a_request_costs_as_many_round_trips_as_the_design_allows() {
    let kinto = Kinto::with_collection().await;
    let requests = kinto.aws.requests();
    for (method, path, body, reads, writes) in [
        ("PUT", RECORD, "{}", 1, 1),
        ("PUT", RECORD, "{}", 1, 1),
        ("PATCH", RECORD, r#"{"data": {"a": 1}}"#, 1, 1),
        ("GET", RECORD, "", 1, 0),
        ("HEAD", RECORD, "", 1, 0),
        ("DELETE", RECORD, "", 1, 1),
        ("POST", RECORDS, "{}", 1, 1),
        ("GET", "/buckets/main", "", 1, 0),
        ("PUT", "/buckets/other", "{}", 1, 1),
    ] {
        requests.take();
        kinto.send(method, path, &[], body).await;
        let counts = (
            requests.of("BatchGetItem"),
            requests.of("TransactWriteItems"),
            requests.total(),
        );
        assert_eq!(counts, (reads, writes, reads + writes), "{method} {path}");
    }
    requests.take();
    assert_eq!(
        kinto
            .get("/buckets/monitor/collections/changes/records")
            .await
            .status,
        200
    );
    // Before the first batch of the stream, which creates the monitor's state, there may be entries of an earlier
    // version.
    assert_eq!((requests.of("Query"), requests.total()), (1, 2));
    requests.take();
    // The groups of the user, and those of all authenticated users, at once.
    kinto.get("/").await;
    assert_eq!((requests.of("Query"), requests.total()), (2, 2));
    requests.take();
    kinto.as_user(NOBODY).get("/").await;
    assert_eq!(requests.total(), 0);
}
