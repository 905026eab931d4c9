// Kinto Admin in a browser, as /v1/admin/ serves it: what somebody does in it arrives in the API.
//
// Usage: node with_kinto_admin.mjs SERVER_URL, with playwright-core in NODE_PATH and Chromium as CHROMIUM or on the PATH.

import { checker, require, user } from "./check.mjs";

const { chromium } = require("playwright-core");
const server = process.argv[2];
const check = checker();

const api = async (path) => {
  const answer = await fetch(`${server}${path}`, { headers: user("alice") });
  return { status: answer.status, ...(await answer.json()) };
};

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const page = await browser.newPage();
page.setDefaultTimeout(20_000);
page.on("dialog", (dialog) => dialog.accept());

// The page may do all that it wants to: its policy blocks nothing of it.
const blocked = [];
page.on("console", (message) => {
  if (message.text().includes("Content Security Policy")) blocked.push(message.text());
});
const foreign = [];
page.on("request", (request) => {
  const { protocol, origin } = new URL(request.url());
  if (protocol !== "data:" && origin !== new URL(server).origin) foreign.push(request.url());
});

/// Opens a page of it anew, whatever it was about to do.
const go = async (path) => {
  await page.goto("about:blank");
  await page.goto(`${server}/admin/#${path}`);
};
const press = (name) => page.getByRole("button", { name, exact: true }).click();
/// Types what is to be deleted, as Kinto Admin wants it.
const remove = async (path, kind, id) => {
  await go(path);
  await page.fill("#root", id);
  await press(`Delete ${kind}`);
};
/// Asks the API until the condition holds of its answer, and checks that it came to hold.
const becomes = async (what, path, condition) => {
  let answer;
  for (let attempt = 0; attempt < 100; attempt++) {
    answer = await api(path);
    if (condition(answer)) break;
    await new Promise((done) => setTimeout(done, 100));
  }
  check(what, condition(answer));
  return answer;
};
const isGone = ({ status }) => status === 404 || status === 403;

try {
  await page.goto(`${server}/admin`);
  check("the address without its slash leads there", page.url().startsWith(`${server}/admin/`));
  await page.getByLabel("Basic Auth").check();
  await page.fill("#root_credentials_username", "alice");
  await page.fill("#root_credentials_password", "secret");
  await press("Sign in using Basic Auth");
  await page.getByText("Create bucket").first().waitFor();
  check("alice is logged in", true);

  const [bucket, collection] = ["/buckets/main", "/buckets/main/collections/news"];
  const [group, records] = [`${bucket}/groups/editors`, `${collection}/records`];

  await go("/buckets/create");
  await page.fill("#root_id", "main");
  await press("Create bucket");
  await becomes("a bucket is created", bucket, ({ data }) => data?.id === "main");

  await go("/buckets/main/collections/create");
  await page.fill("#root_id", "news");
  await press("Create collection");
  await becomes(
    "a collection is created with a schema",
    collection,
    ({ data }) => data?.schema?.properties?.title?.type === "string",
  );

  await go(`${records}/create`);
  await page.fill("#root_title", "Hello");
  await page.fill("#root_content", "World");
  await press("Create record");
  const list = await becomes(
    "a record is created by the schema's form",
    records,
    ({ data }) => data?.[0]?.title === "Hello",
  );
  const record = `${records}/${list.data[0].id}`;

  await go(`${record}/attributes`);
  await page.fill("#root_title", "Hello again");
  await press("Update record");
  await becomes("the record is changed", record, ({ data }) => data?.title === "Hello again");

  await go(`${bucket}/groups/create`);
  await page.fill("#root_id", "editors");
  await page.click("#root_members__add");
  await page.fill("#root_members_0", "account:bob");
  await press("Create group");
  await becomes(
    "a group is created with its member",
    group,
    ({ data }) => data?.members?.[0] === "account:bob",
  );

  await go(`${collection}/permissions`);
  await page.locator(".field-anonymous").getByLabel("read").check();
  await press("Submit");
  await becomes(
    "everyone may read the collection",
    collection,
    ({ permissions }) => permissions?.read?.includes("system.Everyone"),
  );

  await go(`${record}/attributes`);
  await press("Delete record");
  await becomes("the record is deleted", record, isGone);
  await remove(`${group}/attributes`, "group", "editors");
  await becomes("the group is deleted", group, isGone);
  await remove(`${collection}/attributes`, "collection", "news");
  await becomes("the collection is deleted", collection, isGone);
  await remove(`${bucket}/attributes`, "bucket", "main");
  await becomes("the bucket is deleted", bucket, isGone);

  check(`the page's policy blocks nothing of it: ${blocked}`, blocked.length === 0);
  check(`nothing is asked of other servers: ${foreign}`, foreign.length === 0);
} catch (error) {
  console.log(await page.locator("#app").innerText().catch(() => "no page"));
  throw error;
} finally {
  await browser.close();
}
