// What kinto-http for JavaScript does with a server: `with_kinto_http.mjs URL`, where URL ends in /v1.

import { randomUUID } from "node:crypto";
import { checker, refused, require, user } from "./check.mjs";

const KintoClient = require("kinto-http/dist/kinto-http.min.js");

const url = process.argv[2];
const check = checker();
const [alice, bob] = ["alice", "bob"].map((name) => new KintoClient(url, { headers: user(name) }));
const nobody = new KintoClient(url);
const id = `javascript-${randomUUID()}`;

const { settings, user: me } = await alice.fetchServerInfo();
check("the server knows the user", me.id.startsWith("basicauth:"));
const { id: bobId } = await bob.fetchUser();

const created = await alice.createBucket(id, { data: { title: "Of JavaScript" }, safe: true });
check("a bucket is created with its data", created.data.title === "Of JavaScript");
check("who creates may write", created.permissions.write[0] === me.id);
check("a safe creation of what exists is refused", await refused(412, alice.createBucket(id, { safe: true })));
check("the bucket is listed", (await alice.listBuckets()).data.some((bucket) => bucket.id === id));

const bucket = alice.bucket(id);
check("a bucket's data is merged", (await bucket.setData({ n: 1 }, { patch: true })).data.title === "Of JavaScript");
check("a bucket's data is replaced", !("title" in (await bucket.setData({ n: 2 })).data));
await bucket.createCollection("articles", { data: { sort: "n" } });
check("the collection is listed", (await bucket.listCollections()).data[0].id === "articles");
const articles = bucket.collection("articles");
check("a collection's data is read", (await articles.getData()).sort === "n");

const { data: one } = await articles.createRecord({ id: "one", n: 1 });
check("a record is created", one.id === "one" && one.n === 1);
check("a record is read", (await articles.getRecord("one")).data.last_modified === one.last_modified);
const { data: posted } = await articles.createRecord({ n: 2 });
check("a record gets an id", posted.id.length === 36);
check("the records' timestamp is the latest record's", (await articles.getRecordsTimestamp()) === `"${posted.last_modified}"`);
const { data: updated } = await articles.updateRecord({ id: "one", n: 10 }, { safe: true, last_modified: one.last_modified });
check("a record is updated", updated.n === 10 && updated.last_modified > one.last_modified);
check("an update of what changed meanwhile is refused", await refused(412, articles.updateRecord(one, { safe: true })));
check("a deletion of what changed meanwhile is refused", await refused(412, articles.deleteRecord(one, { safe: true })));
const { data: patched } = await articles.updateRecord({ id: "one", title: "One" }, { patch: true });
check("a patch keeps the other fields", patched.n === 10 && patched.title === "One");

const bobs = bob.bucket(id).collection("articles");
check("who has no permission may not read", await refused(403, bobs.listRecords()));
check("who is nobody may not read", await refused(401, nobody.bucket(id).collection("articles").listRecords()));
await bucket.createGroup("editors", [bobId]);
check("a group has its members", (await bucket.getGroup("editors")).data.members[0] === bobId);
check("the group is listed", (await bucket.listGroups()).data[0].id === "editors");
await articles.setPermissions({ read: [`/buckets/${id}/groups/editors`] });
check("permissions are set", (await articles.getPermissions()).read[0] === `/buckets/${id}/groups/editors`);
check("a member may do what the group may", (await bobs.listRecords()).data.length === 2);
check("and no more", await refused(403, bobs.createRecord({ id: "other" })));
await articles.addPermissions({ write: [bobId] });
check("permissions are added", (await bobs.createRecord({ id: "of-bob" })).data.id === "of-bob");
await articles.removePermissions({ write: [bobId] });
check("permissions are taken back", await refused(403, bobs.createRecord({ id: "other" })));
await bucket.deleteGroup("editors");
check("a group is deleted", (await bucket.listGroups()).data.length === 0);

const numbers = [...Array(settings.batch_max_requests + 5).keys()];
const write = (batch) => numbers.forEach((n) => batch.createRecord({ id: `r${n}`, n, even: n % 2 === 0 }));
const responses = await articles.batch(write);
check("a batch of more than the maximum is sent in parts", responses.every(({ status, body }, n) => status === 201 && body.data.n === n));
const aggregated = await articles.batch(
  (batch) => {
    batch.updateRecord({ id: "r0", n: 100 });
    batch.createRecord({ id: "r1" }, { safe: true });
    batch.deleteRecord("missing");
  },
  { aggregate: true },
);
const counts = ["published", "conflicts", "skipped", "errors"].map((outcome) => aggregated[outcome].length);
check("a batch tells what became of each request", counts.join() === "1,1,1,0");
check("and keeps what went well", (await articles.getRecord("r0")).data.n === 100);

const total = numbers.length + 3;
check("records are counted", (await articles.getTotalRecords()) === total);
let page = await articles.listRecords({ limit: 10, sort: "n" });
const sizes = [page.data.length];
while (page.hasNextPage) {
  page = await page.next();
  sizes.push(page.data.length);
}
check("pages come one after the other", sizes.join() === "10,10,10,3");
check("all pages are followed", (await articles.listRecords({ limit: 7, pages: Infinity })).data.length === total);
const { data: few } = await articles.listRecords({ filters: { even: true, lt_n: 7 }, sort: "-n", fields: ["n"] });
check("records are filtered and sorted", few.map(({ id }) => id).join() === "r6,r4,r2");
check("some fields are read", Object.keys(few[0]).sort().join() === "id,last_modified,n");

const since = await articles.getRecordsTimestamp();
const { data: deleted } = await articles.deleteRecord("r2");
check("a record is deleted", deleted.deleted && (await refused(404, articles.getRecord("r2"))));
const { data: changes } = await articles.listRecords({ since });
check("a tombstone tells of the deletion", changes.length === 1 && changes[0].deleted && changes[0].last_modified === deleted.last_modified);
check("records are deleted by a filter", (await articles.deleteRecords({ filters: { even: true } })).data.length === 13);
check("records are deleted page by page", (await articles.deleteRecords({ limit: 5, pages: Infinity })).data.length > 5);
const { data: permissions } = await alice.listPermissions();
check("permissions are listed", permissions.some(({ uri }) => uri === `/buckets/${id}`));
check("a collection is deleted", (await bucket.deleteCollection("articles")).data.deleted);
check("a bucket is deleted", (await alice.deleteBucket(id)).data.deleted);
check("and is gone", await refused(403, bucket.getData()));
