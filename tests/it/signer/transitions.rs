//! The table of transitions: from which status to which, who may, and what it does.

use serde_json::{Value, json};
use tests::{ALICE, BOB, batch, statuses};

use super::{
    CAROL, DESTINATION, Expect, PREVIEW, SOURCE, Signer, WITH_PREVIEW, WITHOUT_PREVIEW, refused,
};

#[tokio::test]
async fn what_is_created_is_signed_and_has_its_groups_and_is_published_empty() {
    let signer = Signer::new().await;
    let source = signer.kinto.get(SOURCE).await.expect(200);
    let alice = signer.kinto.user_id().await;
    assert_eq!(source["data"]["status"], "signed");
    assert_eq!(source["data"]["last_signature_by"], json!(alice));
    let date = source["data"]["last_signature_date"].as_str().unwrap();
    assert!(date.ends_with("000+00:00") && date.len() == 32, "{date}");
    let write = &source["permissions"]["write"];
    for group in ["editors", "reviewers"] {
        let group = json!(format!("/buckets/work/groups/news-{group}"));
        assert!(write.as_array().unwrap().contains(&group), "{write}");
    }
    let reviewers = "/buckets/work/groups/news-reviewers";
    let reviewers = signer.kinto.get(reviewers).await.expect(200);
    assert_eq!(reviewers["permissions"]["write"], json!([alice]));
    for target in [PREVIEW, DESTINATION] {
        assert!(signer.verified(target).await.is_empty());
        let anonymous = signer.kinto.as_user(tests::NOBODY);
        let shown = anonymous.get(target).await.expect(200);
        assert_eq!(shown["data"]["signature"]["mode"], "p384ecdsa");
        assert_eq!(shown["data"]["signature"]["x5u"], "");
    }
}

#[tokio::test]
async fn an_edit_is_reviewed_approved_and_published() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    let source = signer.source().await;
    assert_eq!(source["status"], "work-in-progress");
    assert_eq!(source["last_edit_by"], json!(signer.kinto.user_id().await));
    assert!(signer.verified(PREVIEW).await.is_empty());

    signer.set(ALICE, "to-review").await.expect(200);
    assert_eq!(signer.status().await, "to-review");
    assert_eq!(signer.verified(PREVIEW).await, ["a=1"]);
    assert!(signer.verified(DESTINATION).await.is_empty());

    signer.set(BOB, "to-sign").await.expect(200);
    let source = signer.source().await;
    let bob = json!(signer.kinto.as_user(BOB).user_id().await);
    assert_eq!(source["status"], "signed");
    assert_eq!(source["last_review_by"], bob);
    assert_eq!(source["last_signature_by"], bob);
    assert_eq!(signer.verified(DESTINATION).await, ["a=1"]);
}

#[tokio::test]
async fn every_kind_of_change_is_published_and_what_is_equal_keeps_its_time() {
    let signer = Signer::new().await;
    for (id, n) in [("a", 1), ("b", 1), ("c", 1)] {
        signer.write(ALICE, id, n).await.expect(201);
    }
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    let kept = format!("{DESTINATION}/records/c");
    let before = signer.kinto.get(&kept).await.last_modified();
    let since = format!("{DESTINATION}/changeset?_expected=0");
    let since = signer.kinto.get(&since).await.expect(200)["timestamp"].clone();

    signer.write(ALICE, "a", 2).await.expect(200);
    signer.write(ALICE, "c", 1).await.expect(200);
    signer.write(ALICE, "d", 1).await.expect(201);
    let gone = format!("{SOURCE}/records/b");
    signer.kinto.delete(&gone).await.expect(200);
    signer.set(ALICE, "to-review").await.expect(200);
    assert_eq!(signer.verified(PREVIEW).await, ["a=2", "c=1", "d=1"]);
    assert_eq!(signer.verified(DESTINATION).await, ["a=1", "b=1", "c=1"]);
    signer.set(BOB, "to-sign").await.expect(200);
    assert_eq!(signer.verified(DESTINATION).await, ["a=2", "c=1", "d=1"]);
    assert_eq!(signer.kinto.get(&kept).await.last_modified(), before);
    // Who has the state before learns of the difference, tombstones among it.
    let changes = format!("{DESTINATION}/changeset?_expected=0&_since={since}");
    let changes = signer.kinto.get(&changes).await.expect(200)["changes"].clone();
    let changes = changes.as_array().unwrap();
    let ids: std::collections::BTreeSet<_> = changes
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect();
    assert!(ids.into_iter().eq(["a", "b", "d"]));
    assert!(changes.iter().any(|it| it["deleted"] == true));
    let times: std::collections::BTreeSet<_> = changes
        .iter()
        .map(|it| it["last_modified"].as_u64())
        .collect();
    assert_eq!(times.len(), 3);
}

#[tokio::test]
async fn refusals_say_400_with_errno_109_or_403_with_121() {
    let signer = Signer::new().await;
    assert_eq!(refused(signer.set(BOB, "to-sign").await, 400), 109);
    assert_eq!(refused(signer.set(ALICE, "to-rollback").await, 400), 109);
    assert_eq!(refused(signer.set(ALICE, "other").await, 400), 109);
    signer.write(ALICE, "a", 1).await.expect(201);
    assert_eq!(refused(signer.set(BOB, "to-sign").await, 400), 109);
    assert_eq!(refused(signer.set(ALICE, "to-sign").await, 403), 121);
    assert_eq!(refused(signer.set(CAROL, "to-review").await, 403), 121);
    assert_eq!(refused(signer.set(CAROL, "to-sign").await, 403), 121);
    signer.set(BOB, "to-review").await.expect(200);
    assert_eq!(refused(signer.set(BOB, "to-sign").await, 403), 121);
    assert_eq!(refused(signer.set(ALICE, "to-sign").await, 403), 121);
    assert_eq!(signer.status().await, "to-review");
    let removed = json!({"data": {"status": null}});
    let merge = [("content-type", "application/merge-patch+json")];
    let answer = signer
        .kinto
        .send("PATCH", SOURCE, &merge, &removed.to_string())
        .await;
    assert_eq!(refused(answer, 400), 109);
    let forged = json!({"data": {"last_edit_by": "nobody"}});
    assert_eq!(refused(signer.kinto.patch(SOURCE, forged).await, 400), 109);
    assert_eq!(
        refused(signer.kinto.put(SOURCE, json!({"data": {}})).await, 400),
        109
    );
    assert_eq!(signer.status().await, "to-review");
}

#[tokio::test]
async fn an_edit_during_review_ends_it_and_metadata_does_not() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    let comment = json!({"data": {"last_reviewer_comment": "hm", "displayFields": ["n"]}});
    signer
        .kinto
        .as_user(BOB)
        .patch(SOURCE, comment)
        .await
        .expect(200);
    assert_eq!(signer.status().await, "to-review");
    // One that changes nothing as well.
    signer.write(ALICE, "a", 1).await.expect(200);
    assert_eq!(signer.status().await, "work-in-progress");
    assert_eq!(refused(signer.set(BOB, "to-sign").await, 400), 109);
}

#[tokio::test]
async fn a_reviewer_rejects() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    let rejection = json!({"data": {"status": "work-in-progress", "last_reviewer_comment": "no"}});
    signer
        .kinto
        .as_user(BOB)
        .patch(SOURCE, rejection)
        .await
        .expect(200);
    let source = signer.source().await;
    assert_eq!(source["status"], "work-in-progress");
    assert_eq!(source["last_reviewer_comment"], "no");
    assert_eq!(source["last_edit_by"], json!(signer.kinto.user_id().await));
    assert_eq!(signer.verified(PREVIEW).await, ["a=1"]);
    assert!(signer.verified(DESTINATION).await.is_empty());
}

#[tokio::test]
async fn a_request_without_a_comment_empties_it() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    let request = json!({"data": {"status": "to-review", "last_editor_comment": "please"}});
    signer.kinto.patch(SOURCE, request).await.expect(200);
    assert_eq!(signer.source().await["last_editor_comment"], "please");
    signer.write(ALICE, "a", 2).await.expect(200);
    assert_eq!(signer.source().await["last_editor_comment"], "please");
    signer.set(ALICE, "to-review").await.expect(200);
    assert_eq!(signer.source().await["last_editor_comment"], "");
}

#[tokio::test]
async fn signing_again_moves_no_record_and_keeps_the_status() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    signer.write(ALICE, "a", 2).await.expect(200);
    let path = format!("{DESTINATION}/changeset?_expected=0");
    let before = signer.kinto.get(&path).await;
    let sorted = json!({"data": {"status": "to-resign", "sort": "-n"}});
    signer
        .kinto
        .as_user(CAROL)
        .patch(SOURCE, sorted)
        .await
        .expect(200);
    assert_eq!(signer.status().await, "work-in-progress");
    let after = signer.kinto.get(&path).await;
    assert_eq!(before.body["timestamp"], after.body["timestamp"]);
    assert_eq!(after.body["metadata"]["sort"], "-n");
    assert_ne!(
        before.body["metadata"]["signature"],
        after.body["metadata"]["signature"]
    );
    assert_ne!(before.header("etag"), after.header("etag"));
    assert_eq!(signer.verified(DESTINATION).await, ["a=1"]);
    assert_eq!(signer.verified(PREVIEW).await, ["a=1"]);
}

#[tokio::test]
async fn a_rollback_takes_back_what_is_not_published() {
    let signer = Signer::new().await;
    for id in ["a", "b"] {
        signer.write(ALICE, id, 1).await.expect(201);
    }
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    signer.write(ALICE, "a", 2).await.expect(200);
    signer.write(ALICE, "c", 1).await.expect(201);
    signer
        .kinto
        .delete(&format!("{SOURCE}/records/b"))
        .await
        .expect(200);
    signer.set(ALICE, "to-review").await.expect(200);
    let before = signer.kinto.get(&format!("{SOURCE}/records")).await;
    signer.set(BOB, "to-rollback").await.expect(200);
    let source = signer.source().await;
    assert_eq!(source["status"], "signed");
    assert_eq!(
        source["last_edit_by"],
        json!(signer.kinto.as_user(BOB).user_id().await)
    );
    assert_eq!(source["last_editor_comment"], "");
    for collection in [PREVIEW, DESTINATION] {
        assert_eq!(signer.verified(collection).await, ["a=1", "b=1"]);
    }
    let after = signer
        .kinto
        .get(&format!("{SOURCE}/records?_sort=id"))
        .await;
    let ns: Vec<_> = after.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["n"])
        .collect();
    assert_eq!(ns, [1, 1]);
    // With times of its own, so that who polls learns of it.
    assert!(after.header("etag") > before.header("etag"));
}

#[tokio::test]
async fn without_review_any_writer_publishes() {
    let signer = Signer::with(WITHOUT_PREVIEW, "false").await;
    signer.write(CAROL, "a", 1).await.expect(201);
    signer.set(CAROL, "to-sign").await.expect(200);
    assert_eq!(signer.verified(DESTINATION).await, ["a=1"]);
    assert_eq!(signer.status().await, "signed");
    assert_eq!(refused(signer.set(CAROL, "to-sign").await, 400), 109);
}

#[tokio::test]
async fn a_batch_is_carried_out_in_its_order() {
    let signer = Signer::with(WITHOUT_PREVIEW, "false").await;
    let write = |id: &str, n: u64| json!({"method": "PUT", "path": format!("{SOURCE}/records/{id}"), "body": {"data": {"n": n}}});
    let set = |status: &str| json!({"method": "PATCH", "path": SOURCE, "body": {"data": {"status": status}}});
    let answer = batch(
        &signer.kinto,
        vec![write("a", 1), set("to-sign"), write("b", 1)],
    )
    .await;
    assert_eq!(statuses(&answer), [201, 200, 201]);
    assert_eq!(signer.verified(DESTINATION).await, ["a=1"]);
    assert_eq!(signer.status().await, "work-in-progress");
    // The last of two counts.
    let answer = batch(
        &signer.kinto,
        vec![set("to-sign"), write("a", 2), set("to-sign")],
    )
    .await;
    assert_eq!(statuses(&answer), [200, 200, 200]);
    assert_eq!(signer.verified(DESTINATION).await, ["a=2", "b=1"]);
    assert_eq!(signer.status().await, "signed");
}

#[tokio::test]
async fn a_source_is_created_filled_and_published_in_one_batch() {
    let signer = Signer::with(WITHOUT_PREVIEW, "false").await;
    let other = "/buckets/work/collections/other";
    let requests = vec![
        json!({"method": "PUT", "path": other}),
        json!({"method": "PUT", "path": format!("{other}/records/a"), "body": {"data": {"n": 1}}}),
        json!({"method": "PATCH", "path": other, "body": {"data": {"status": "to-sign"}}}),
    ];
    let answer = batch(&signer.kinto, requests).await;
    assert_eq!(statuses(&answer), [201, 201, 200]);
    assert_eq!(
        signer.verified("/buckets/main/collections/other").await,
        ["a=1"]
    );
}

#[tokio::test]
async fn what_changed_after_it_was_reviewed_is_not_approved_by_the_same_batch() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    let requests = vec![
        json!({"method": "PUT", "path": format!("{SOURCE}/records/b"), "body": {"data": {"n": 1}}}),
        json!({"method": "PATCH", "path": SOURCE, "body": {"data": {"status": "to-sign"}}}),
    ];
    let answer = batch(&signer.kinto.as_user(BOB), requests).await;
    // A refusal is the answer to all of the batch, which is undone.
    assert_eq!(refused(answer, 400), 109);
    assert_eq!(signer.status().await, "to-review");
    assert_eq!(
        signer
            .kinto
            .get(&format!("{SOURCE}/records/b"))
            .await
            .status,
        404
    );
    assert!(signer.verified(DESTINATION).await.is_empty());
}

#[tokio::test]
async fn nobody_writes_what_is_published() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    let kinto = &signer.kinto;
    for target in [PREVIEW, DESTINATION] {
        let record = format!("{target}/records/a");
        let records = format!("{target}/records");
        let body = json!({"data": {"n": 9}});
        assert_eq!(refused(kinto.put(&record, body.clone()).await, 403), 121);
        assert_eq!(refused(kinto.patch(&record, body.clone()).await, 403), 121);
        assert_eq!(refused(kinto.post(&records, body.clone()).await, 403), 121);
        assert_eq!(refused(kinto.delete(&record).await, 403), 121);
        assert_eq!(refused(kinto.delete(&records).await, 403), 121);
        assert_eq!(refused(kinto.delete(target).await, 403), 121);
        assert_eq!(refused(kinto.patch(target, body).await, 403), 121);
        let grant = json!({"permissions": {"write": [kinto.user_id().await]}});
        assert_eq!(refused(kinto.patch(target, grant).await, 403), 121);
        assert_eq!(signer.verified(target).await, ["a=1"]);
        let readers = json!({"permissions": {"read": ["system.Authenticated"]}});
        kinto.patch(target, readers).await.expect(200);
    }
    let other = "/buckets/main/collections/other";
    assert_eq!(refused(kinto.put(other, json!({})).await, 403), 121);
}

#[tokio::test]
async fn what_is_published_of_a_source_goes_with_it() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    signer.kinto.delete(SOURCE).await.expect(200);
    for target in [PREVIEW, DESTINATION] {
        assert!(signer.verified(target).await.is_empty());
        let since = format!("{target}/records?_since=0");
        let tombstones = signer.kinto.get(&since).await.expect(200);
        assert_eq!(tombstones["data"][0]["deleted"], true);
    }
    for group in ["editors", "reviewers"] {
        let group = format!("/buckets/work/groups/news-{group}");
        assert_eq!(signer.kinto.get(&group).await.status, 404);
    }
    // Made again it is empty, and what was published stays as it was.
    signer.kinto.put(SOURCE, json!({})).await.expect(201);
    assert_eq!(signer.status().await, "signed");
    assert!(signer.verified(DESTINATION).await.is_empty());
    signer.kinto.delete(SOURCE).await.expect(200);
    signer.kinto.delete(DESTINATION).await.expect(200);
}

#[tokio::test]
async fn the_groups_write_whatever_a_put_says() {
    let signer = Signer::new().await;
    let mut source = signer.source().await;
    source.as_object_mut().unwrap().remove("id");
    source.as_object_mut().unwrap().remove("last_modified");
    let put = json!({"data": source, "permissions": {"write": []}});
    signer.kinto.put(SOURCE, put).await.expect(200);
    let carol = signer.kinto.as_user(CAROL);
    let body: Value = carol.get(SOURCE).await.expect(200);
    let expected = json!([
        "/buckets/work/groups/news-editors",
        "/buckets/work/groups/news-reviewers"
    ]);
    assert_eq!(body["permissions"], json!({}));
    let editors = signer.kinto.get(SOURCE).await.expect(200);
    assert_eq!(editors["permissions"]["write"], expected);
}

#[tokio::test]
async fn floats_cannot_be_signed() {
    let signer = Signer::new().await;
    let path = format!("{SOURCE}/records/a");
    for n in ["1.5", "1.0", "1e2", "-0.0", "18446744073709551616"] {
        let body = format!(r#"{{"data": {{"deep": [{{"n": {n}}}]}}}}"#);
        let answer = signer.kinto.send("PUT", &path, &[], &body).await;
        assert_eq!(refused(answer, 400), 109, "{n}");
    }
    assert_eq!(signer.status().await, "signed");
    let largest = json!({"data": {"n": u64::MAX}});
    signer.kinto.put(&path, largest).await.expect(201);
}

#[tokio::test]
async fn who_may_not_create_groups_may_not_create_a_source() {
    let signer = Signer::new().await;
    let bob = signer.kinto.as_user(BOB);
    let alice = signer.kinto.user_id().await;
    let create =
        json!({"permissions": {"write": [alice], "collection:create": [bob.user_id().await]}});
    signer
        .kinto
        .patch("/buckets/work", create)
        .await
        .expect(200);
    let other = "/buckets/work/collections/other";
    let answer = bob.put(other, json!({})).await.expect(403);
    assert_eq!(answer["errno"], 121);
    assert!(answer["message"].as_str().unwrap().contains("group:create"));
    assert_eq!(signer.kinto.get(other).await.status, 404);
}

#[tokio::test]
async fn hello_tells_what_is_signed() {
    let signer = Signer::new().await;
    let hello = signer.kinto.get("/").await.expect(200);
    let capability = &hello["capabilities"]["signer"];
    let place = |bucket| json!({"bucket": bucket, "collection": null});
    let resources = json!([{
        "source": place("work"),
        "preview": place("preview"),
        "destination": place("main"),
    }]);
    assert_eq!(capability["resources"], resources);
    assert_eq!(capability["to_review_enabled"], true);
    assert_eq!(capability["editors_group"], "{collection_id}-editors");
    assert_eq!(capability["plugin_userid"], "plugin:remote-settings");
    let heartbeat = signer.kinto.get("/__heartbeat__").await.expect(200);
    assert_eq!(heartbeat["signer"], true);
}

#[tokio::test]
async fn without_a_preview_an_approval_publishes_what_was_reviewed() {
    let signer = Signer::with(WITHOUT_PREVIEW, "true").await;
    signer.write(ALICE, "a", 1).await.expect(201);
    let request = json!({"data": {"status": "to-review", "last_editor_comment": "please"}});
    signer.kinto.patch(SOURCE, request).await.expect(200);
    signer.write(ALICE, "a", 2).await.expect(200);
    signer.set(ALICE, "to-review").await.expect(200);
    // Only who has a preview to look at is told anew.
    assert_eq!(signer.source().await["last_editor_comment"], "please");
    signer.set(BOB, "to-sign").await.expect(200);
    assert_eq!(signer.verified(DESTINATION).await, ["a=2"]);
}

#[tokio::test]
async fn what_was_written_past_the_plugin_since_the_review_is_not_approved() {
    let signer = Signer::new().await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    // By a server that does not sign.
    let plain = tests::Kinto::over(&signer.kinto.aws, &[]);
    let body = json!({"data": {"n": 9}});
    plain
        .put(&format!("{SOURCE}/records/a"), body)
        .await
        .expect(200);
    assert_eq!(signer.status().await, "to-review");
    assert_eq!(refused(signer.set(BOB, "to-sign").await, 400), 109);
    assert!(signer.verified(DESTINATION).await.is_empty());
    signer.set(BOB, "work-in-progress").await.expect(200);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    assert_eq!(signer.verified(DESTINATION).await, ["a=9"]);
}

#[tokio::test]
async fn a_source_leaves_room_for_the_names_of_its_groups() {
    let signer = Signer::new().await;
    let long = format!("/buckets/work/collections/{}", "x".repeat(250));
    assert_eq!(refused(signer.kinto.put(&long, json!({})).await, 400), 109);
    assert_eq!(signer.kinto.get(&long).await.status, 404);
}

#[tokio::test]
async fn who_leaves_the_editors_writes_no_more() {
    let signer = Signer::new().await;
    let dave = "Basic ZGF2ZTo=";
    let id = signer.kinto.as_user(dave).user_id().await;
    let editors = "/buckets/work/groups/news-editors";
    let alice = signer.kinto.user_id().await;
    let with = json!({"data": {"members": [alice, id]}});
    signer.kinto.patch(editors, with).await.expect(200);
    signer.write(dave, "a", 1).await.expect(201);
    signer.write(dave, "a", 2).await.expect(200);
    signer.set(dave, "to-review").await.expect(200);
    let without = json!({"data": {"members": [alice]}});
    signer.kinto.patch(editors, without).await.expect(200);
    assert_eq!(refused(signer.write(dave, "a", 3).await, 403), 121);
    assert_eq!(
        refused(signer.set(dave, "work-in-progress").await, 403),
        121
    );
    assert_eq!(signer.status().await, "to-review");
}

#[tokio::test]
async fn a_long_list_that_is_deleted_ends_the_review_before_anything_goes() {
    let signer = Signer::new().await;
    for start in (0..200).step_by(25) {
        let put = |n: u64| json!({"method": "PUT", "path": format!("{SOURCE}/records/r{n}"), "body": {"data": {"n": n}}});
        let requests = (start..start + 25).map(put).collect();
        batch(&signer.kinto, requests).await.expect(200);
    }
    signer.set(ALICE, "to-review").await.expect(200);
    assert_eq!(signer.verified(PREVIEW).await.len(), 200);
    // It takes three transactions, of which the first is committed.
    let written = signer.kinto.aws.requests();
    written.take();
    signer.kinto.aws.inject(move |target, _| {
        let late = written.of("TransactWriteItems") > 1;
        (late && target.ends_with("TransactWriteItems"))
            .then(|| kinto_local::Fault::error("ResourceNotFoundException"))
    });
    let answer = signer.kinto.delete(&format!("{SOURCE}/records")).await;
    signer.kinto.aws.clear_faults();
    assert_eq!(answer.status, 503);
    assert_eq!(signer.status().await, "work-in-progress");
    assert_eq!(refused(signer.set(BOB, "to-sign").await, 400), 109);
    signer
        .kinto
        .delete(&format!("{SOURCE}/records"))
        .await
        .expect(200);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    assert!(signer.verified(DESTINATION).await.is_empty());
}

#[tokio::test]
async fn what_is_published_goes_with_its_source_where_that_is_set() {
    let hard = (
        "KINTO_SIGNER_HARD_DELETE_DESTINATION_ON_SOURCE_DELETION",
        "true",
    );
    let signer = Signer::with_more(WITH_PREVIEW, "true", &[hard]).await;
    signer.write(ALICE, "a", 1).await.expect(201);
    signer.set(ALICE, "to-review").await.expect(200);
    signer.set(BOB, "to-sign").await.expect(200);
    signer.kinto.delete(SOURCE).await.expect(200);
    for collection in [PREVIEW, DESTINATION] {
        signer
            .kinto
            .get(&format!("{collection}/changeset?_expected=0"))
            .await
            .expect(404);
    }
    // Made again, nothing is left of it.
    signer.kinto.put(SOURCE, json!({})).await.expect(201);
    for collection in [PREVIEW, DESTINATION] {
        assert_eq!(signer.verified(collection).await, [""; 0]);
    }
}
