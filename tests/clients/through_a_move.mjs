// A kinto.js client whose server is moved: `through_a_move.mjs OLD` syncs with the server at OLD, then reads the URL of the
// new one from its input, as if the name that it knows had got another address, and goes on.

import { createInterface } from "node:readline";
import { checker, require, user } from "./check.mjs";

require("fake-indexeddb/auto");
const { default: Kinto } = require("kinto");

const check = checker();
const NAME = "http://kinto.test/v1";
let address = process.argv[2];

// What is asked for, and how many objects come.
let asked = [];
const { fetch } = globalThis;
globalThis.fetch = async (url, options) => {
  const response = await fetch(url.replace(NAME, address), options);
  const body = await response.clone().json().catch(() => ({}));
  asked.push({ method: options?.method ?? "GET", path: url.slice(NAME.length), objects: body.data?.length ?? 0 });
  return response;
};

const kinto = new Kinto({ remote: NAME, bucket: "main", headers: user("account1") });
const tasks = kinto.collection("tasks", { idSchema: { generate: () => "local", validate: (id) => id.length > 0 } });
const ids = (objects) => objects.map((object) => (object.old ?? object).id).sort().join();
const sync = async () => {
  asked = [];
  return tasks.sync();
};

const first = await sync();
check("all is downloaded once", ids(first.created) === "deleted-before,kept,updated-after,updated-before,deleted-after".split(",").sort().join());
check("nothing is changed", ids((await sync()).created) === "");
await tasks.create({ title: "made offline" });

console.log("synced");
[address] = await new Promise((resolve) => createInterface({ input: process.stdin }).once("line", (line) => resolve(line.split(" "))));

const after = await sync();
check("nothing conflicts, nothing fails", after.ok && !after.conflicts.length && !after.errors.length);
check("what was made comes", ids(after.created) === "made-after,made-before");
check("what was changed comes", ids(after.updated.map(({ new: object }) => object)) === "updated-after,updated-before");
check("tombstones from before and after the move come", ids(after.deleted) === "deleted-after,deleted-before");
check("what was made offline is published", ids(after.published) === "local");
const lists = asked.filter(({ method, path }) => method === "GET" && path.includes("/records"));
check("lists are asked for by _since", lists.length > 0 && lists.every(({ path }) => path.includes("_since=")));
const objects = lists.map(({ objects }) => objects);
// What was published comes back once.
check(`nothing comes twice (${objects})`, objects.reduce((sum, count) => sum + count, 0) <= 7 && objects[0] === 6);
const { data } = await tasks.list();
check("it holds what the server does", ids(data) === "kept,local,made-after,made-before,updated-after,updated-before");
await sync();
const last = await sync();
check("a further sync changes nothing", !last.created.length && !last.updated.length && !last.deleted.length && !last.published.length);
check("and brings nothing", asked.every(({ objects }) => objects === 0));
process.exit(0);
