// What two kinto.js clients that share a collection do with a server: `with_kinto.mjs URL`, where URL ends in /v1.

import { randomUUID } from "node:crypto";
import { checker, require, user } from "./check.mjs";

require("fake-indexeddb/auto");
const { default: Kinto } = require("kinto");
const KintoClient = require("kinto-http/dist/kinto-http.min.js");

const remote = process.argv[2];
const check = checker();
const bucket = `offline-${randomUUID()}`;
const headers = user("alice");
const http = new KintoClient(remote, { headers });

/// A device: a database of its own, in sync with the same collection.
const device = (dbName) => {
  const kinto = new Kinto({ remote, bucket, headers, adapterOptions: { dbName } });
  return kinto.collection("tasks", { idSchema: { generate: randomUUID, validate: (id) => id.length > 0 } });
};
/// The titles of the tasks that a device holds. Where a deletion won a conflict it holds the tombstone.
const titles = async (tasks) => {
  const { data } = await tasks.list({ order: "title" });
  return data.flatMap(({ title, deleted }) => (deleted ? [] : [title])).join();
};
const counts = (result) =>
  ["created", "updated", "deleted", "published", "conflicts", "resolved", "errors"]
    .filter((kind) => result[kind].length)
    .map((kind) => `${result[kind].length} ${kind}`)
    .join();

await http.createBucket(bucket);
await http.bucket(bucket).createCollection("tasks");
const [phone, laptop] = [device("phone"), device("laptop")];

check("nothing is in sync with nothing", counts(await phone.sync()) === "");
const { data: milk } = await phone.create({ title: "milk" });
const { data: bread } = await phone.create({ title: "bread" });
await phone.upsert({ id: "tea", title: "tea" });
check("records made offline are published", counts(await phone.sync()) === "3 published");
check("and come to the other", counts(await laptop.sync()) === "3 created" && (await titles(laptop)) === "bread,milk,tea");
check("a second sync does nothing", counts(await laptop.sync()) === "" && counts(await phone.sync()) === "");

await laptop.update({ id: milk.id, title: "soy milk" }, { patch: true });
await laptop.delete(bread.id);
check("an update and a deletion are published", counts(await laptop.sync()) === "2 published");
check("and come to the other, the deletion as a donetone", counts(await phone.sync()) === "1 updated,1 deleted");
check("both hold the same", (await titles(phone)) === "soy milk,tea" && (await titles(laptop)) === "soy milk,tea");

// The same record is changed on both.
await phone.update({ id: milk.id, title: "oat milk" }, { patch: true });
await laptop.update({ id: milk.id, title: "rice milk" }, { patch: true });
await phone.sync();
const conflicted = await laptop.sync();
check("a conflict is told and nothing is overwritten", counts(conflicted) === "1 conflicts");
const [conflict] = conflicted.conflicts;
check("with both sides", conflict.local.title === "rice milk" && conflict.remote.title === "oat milk");
await laptop.resolve(conflict, { ...conflict.local, title: "any milk" });
check("what is resolved is published", counts(await laptop.sync()) === "1 published");
await phone.sync();
check("and both hold the same", (await titles(phone)) === "any milk,tea" && (await titles(laptop)) === "any milk,tea");

await phone.update({ id: "tea", title: "green tea" }, { patch: true });
await laptop.update({ id: "tea", title: "black tea" }, { patch: true });
await phone.sync();
await laptop.sync({ strategy: Kinto.syncStrategy.SERVER_WINS });
check("the server wins when told so", (await titles(laptop)) === "any milk,green tea");
await phone.update({ id: "tea", title: "white tea" }, { patch: true });
await laptop.update({ id: "tea", title: "red tea" }, { patch: true });
await phone.sync();
await laptop.sync({ strategy: Kinto.syncStrategy.CLIENT_WINS });
await phone.sync();
check("the client wins when told so", (await titles(phone)) === "any milk,red tea");

// Deleted on one, changed on the other.
await phone.delete("tea");
await laptop.update({ id: "tea", title: "mint tea" }, { patch: true });
await phone.sync();
const lost = await laptop.sync({ strategy: Kinto.syncStrategy.SERVER_WINS });
check("a change of what was deleted meanwhile is a conflict", counts(lost) === "1 resolved");
check("which the deletion wins when told so", (await titles(laptop)) === "any milk");

for (let n = 0; n < 60; n++) await phone.create({ title: `task ${n}` });
check("many records are published in batches", counts(await phone.sync()) === "60 published");
check("and come to the other", counts(await laptop.sync()) === "60 created");
const done = (await phone.list()).data.filter(({ title }) => title.startsWith("task")).map(({ id }) => id);
for (const id of done) await phone.delete(id);
await phone.sync();
check("and so are their deletions", counts(await laptop.sync()) === "60 deleted" && (await titles(laptop)) === "any milk");

// The collection is deleted and made again, as by a flush of the server.
await http.bucket(bucket).deleteCollection("tasks");
await http.bucket(bucket).createCollection("tasks");
const flushed = await phone.sync().then(
  () => false,
  (error) => /flushed/.test(error.message),
);
check("a flush of the server is noticed", flushed);
await phone.resetSyncStatus();
check("and what is held is published again", counts(await phone.sync()) === "1 published");
const fresh = device("tablet");
check("so that a new device has it", counts(await fresh.sync()) === "1 created" && (await titles(fresh)) === "any milk");

await http.deleteBucket(bucket);
process.exit(0);
