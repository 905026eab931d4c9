// Kinto Admin's screens of reviews and of the history, in a browser: what editor and reviewer do there is what the API then shows.
//
// Usage: node with_kinto_admin_reviews.mjs SERVER_URL, with playwright-core in NODE_PATH and Chromium as CHROMIUM or on the
// PATH. The server has the plugins admin, history and kinto_remote_settings, with reviews.

import { checker, require, user } from "./check.mjs";

const { chromium } = require("playwright-core");
const server = process.argv[2];
const check = checker();

const [work, published] = ["/buckets/main-workspace", "/buckets/main"];
const [source, destination] = [work, published].map((bucket) => `${bucket}/collections/news`);

const ask = async (name, method, path, body) => {
  const answer = await fetch(`${server}${path}`, {
    method,
    headers: { ...user(name), "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  return { status: answer.status, ...(await answer.json()) };
};
/// Asks until the condition holds of the answer, and checks that it came to hold.
const becomes = async (what, path, condition) => {
  let answer;
  for (let attempt = 0; attempt < 200; attempt++) {
    answer = await ask("alice", "GET", path);
    if (condition(answer)) break;
    await new Promise((done) => setTimeout(done, 100));
  }
  check(`${what}: ${condition(answer) ? "yes" : JSON.stringify(answer)}`, condition(answer));
  return answer;
};
const titles = ({ changes }) =>
  changes.filter((record) => !record.deleted).map((record) => record.title).sort().join();
const shows = (expected) => (changeset) => titles(changeset) === expected;
const changeset = (collection) => `${collection}/changeset?_expected=${Math.random()}`;
const isStatus = (status) => ({ data }) => data?.status === status;

// What is there before anybody opens a browser.
const setup = [
  ["PUT", work],
  ["PUT", source, { data: { schema: { type: "object", properties: { title: { type: "string" } } } } }],
];
for (const [method, path, body = {}] of setup) {
  const { status } = await ask("alice", method, path, body);
  check(`${method} ${path}`, status === 201);
}
const bob = (await ask("bob", "GET", "/")).user.id;
await ask("alice", "PATCH", `${work}/groups/news-reviewers`, { data: { members: [bob] } });
await ask("alice", "PATCH", work, { permissions: { read: [bob] } });

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const refused = [];
const failures = [];

/// A browser of one's own, logged in.
const logIn = async (name) => {
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(20_000);
  page.on("dialog", (dialog) => dialog.accept());
  page.on("response", (answer) => {
    // The build has no such picture, on other servers neither.
    if (answer.status() >= 400 && !answer.url().endsWith("/favicon.png")) refused.push(`${name}: ${answer.status()} ${answer.request().method()} ${answer.url()}`);
  });
  // What it says of itself at each load of a page, before it has taken up the login.
  page.on("pageerror", (error) => {
    if (!error.message.includes("Client not configured")) failures.push(`${name}: ${error}`);
  });
  await page.goto(`${server}/admin/`);
  await page.getByLabel("Basic Auth").check();
  await page.fill("#root_credentials_username", name);
  await page.fill("#root_credentials_password", "secret");
  await page.getByRole("button", { name: "Sign in using Basic Auth", exact: true }).click();
  await page.getByText("Create bucket").first().waitFor();
  return {
    page,
    /// Opens a page of it anew, whatever it was about to do; from the home page, once that shows who is logged in, as the server has
    /// told it. Another page would be drawn without the login, and may stay so: Kinto Admin 6.2 never asks for a collection's records if
    /// it has the collection before the server's description.
    go: async (path) => {
      await page.goto("about:blank");
      await page.goto(`${server}/admin/#/`);
      await page.getByText("basicauth:").first().waitFor();
      await page.evaluate((hash) => { location.hash = hash; }, path);
    },
    press: (label) => page.getByRole("button", { name: label, exact: true }).click(),
    sees: (text) => page.getByText(text, { exact: false }).first().waitFor(),
    /// Presses a button that asks for a comment, and leaves one.
    say: async (label, confirm, comment) => {
      await page.getByRole("button", { name: label }).click();
      await page.getByPlaceholder("Comment...").fill(comment);
      await page.getByRole("button", { name: confirm, exact: true }).click();
    },
  };
};
const [alice, reviewer] = [await logIn("alice"), await logIn("bob")];
check("editor and reviewer are logged in", true);
const review = `${source}/simple-review`;

const write = async (title) => {
  await alice.go(`${source}/records/create`);
  await alice.page.fill("#root_title", title);
  await alice.press("Create record");
  await becomes(`the source has ${title}`, `${source}/records?title=${title}`, ({ data }) => data.length === 1);
};
const request = async (comment) => {
  await alice.go(review);
  await alice.say("Request review...", "Request review", comment);
  await becomes("it is under review", source, isStatus("to-review"));
};

try {
  await write("one");
  await becomes("that is in progress", source, isStatus("work-in-progress"));
  await alice.go(review);
  await alice.sees("work-in-progress");
  check("who edits is not asked to approve", (await alice.page.getByText("Approve...").count()) === 0);

  await request("please look");
  await becomes("the preview shows it", changeset("/buckets/main-preview/collections/news"), shows("one"));
  await becomes("nothing is published yet", changeset(destination), shows(""));
  check("who requested cannot approve", (await alice.page.getByText("Approve...").count()) === 0);

  await reviewer.go(review);
  await reviewer.sees("Review requested by");
  await reviewer.sees("please look");
  await reviewer.sees("one");
  check("the reviewer reads who asks, what they say, and what changes", true);
  await reviewer.say("Decline...", "Reject changes", "not yet");
  const declined = await becomes("it is declined", source, isStatus("work-in-progress"));
  check("with the reviewer's comment", declined.data.last_reviewer_comment === "not yet");
  await alice.go(`${source}/records`);
  await alice.sees("not yet");
  check("the editor reads why", true);

  await write("two");
  await request("now?");
  await reviewer.go(review);
  await reviewer.sees("now?");
  await reviewer.page.getByRole("button", { name: "Approve..." }).click();
  const approved = await becomes("it is approved", source, isStatus("signed"));
  check("by the reviewer", approved.data.last_review_by === bob);
  const signed = await becomes("both records are published", changeset(destination), shows("one,two"));
  check("and signed", /^[\w-]{128}$/.test(signed.metadata.signature.signature));
  await alice.go(`${destination}/records`);
  await alice.sees("two");
  check("the admin lists what is published", true);
  await alice.go(review);
  await alice.sees("No changes to review");
  check("there is nothing to review", true);
  // The toolbar above the records, in which the three states are.
  await alice.go(`${source}/records`);
  await alice.sees("Approved");
  await alice.page.locator(".bs-wizard").getByText(bob).first().waitFor();
  check("the states above the records say who approved", true);

  await write("three");
  await alice.go(review);
  await alice.say("Rollback changes...", "Rollback", "a mistake");
  await becomes("it is rolled back", source, isStatus("signed"));
  await becomes(
    "the source is what is published",
    `${source}/records`,
    ({ data }) => data.map(({ title }) => title).sort().join() === "one,two",
  );

  // The history, of the collection and of the bucket.
  const rows = alice.page.locator("table tbody tr:not(.history-row-details)");
  const row = (...texts) => texts.reduce((found, hasText) => found.filter({ hasText }), rows).first();
  await alice.go(`${source}/history`);
  await row("request", "collection").waitFor();
  await row("create", "record").waitFor();
  await row("collection", bob).waitFor();
  const all = await rows.count();
  check(`the history tells of requests, records and who approved: ${all} entries`, all > 8);
  const record = row("create", "record");
  await record.getByTitle("View entry details").click();
  await alice.page.locator(".history-row-details").getByText("title").first().waitFor();
  check("an entry has details", true);
  const update = row("request", "collection");
  await update.getByTitle("View entry details").click();
  await alice.page.locator(".history-row-details").getByText("last_review_request_by").first().waitFor();
  check("those of an update are what changed", true);
  check(
    "the entry leads to its object",
    (await update.getByRole("link").first().getAttribute("href")).includes(`${source}/attributes`),
  );
  await record.getByTitle("Compare with this version").click();
  await alice.page.waitForURL(/compare\?target=main-workspace\/news@\d+/);
  await alice.sees("three");
  check("a version compares with what is there: what was rolled back is gone", true);

  await alice.go(`${source}/history`);
  await row("create", "record").waitFor();
  // Waits from before the press: the answer may be there before the press is done.
  await Promise.all([
    alice.page.waitForResponse((answer) => answer.url().includes("exclude_user_id")),
    alice.page.getByLabel("Show plugin entries").uncheck(),
  ]);
  await row("create", "record").waitFor();
  check("entries of the stack are left out", (await rows.filter({ hasText: "plugin:" }).count()) === 0);
  await alice.go(`${source}/history?resource_name=record`);
  await row("create", "record").waitFor();
  check("entries of one kind are shown", (await rows.filter({ hasText: "collection" }).count()) === 0);
  const since = (await ask("alice", "GET", source)).data.last_modified;
  await alice.go(`${source}/history?since=${since}`);
  await alice.sees("No history entry found");
  check("and those since a time", true);
  await alice.go(`${work}/history`);
  await row("create", "bucket").waitFor();
  await row("create", "group").waitFor();
  check("the bucket's tells of groups too", true);
  await alice.go(`${work}/groups/news-reviewers/history`);
  await row("update", "group").waitFor();
  check("and the group's of its members", true);

  check(`the pages fail at nothing: ${failures}`, failures.length === 0);
  check(`nothing that they ask is refused: ${refused.join(", ")}`, refused.length === 0);
} catch (error) {
  for (const { page } of [alice, reviewer]) {
    console.log(page.url(), await page.locator("#app").innerText().catch(() => "no page"));
  }
  console.log(refused.join("\n"), failures.join("\n"));
  throw error;
} finally {
  await browser.close();
}
