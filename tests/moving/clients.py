"""Clients that synchronized with a Kinto continue with the local stack that it was moved to.

    python tests/moving/clients.py KINTO_SERVERLESS KINTO_LOCAL

One client is kinto.js; the other follows the monitor's changesets as Remote Settings' clients do. Between their last answer from the
old server and their first from the new one, objects are created, changed and deleted on both. Each client gets exactly the changes,
including tombstones from before the move, and nothing else. With kinto-changes 4.1.2 installed
(tests/differential/requirements.txt) the old server publishes changesets itself. Without it, the second client begins
with the contents of these changesets: the records, and the timestamps of their lists.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sides import HOST, SETTINGS, Served, Stack, run, send, storage

from postgres import Postgres
from servers import Kinto

ROOT = Path(__file__).parent.parent.parent
MONITOR = "/buckets/monitor/collections/changes/changeset"
RECORDS = "/buckets/main/collections/{}/records"
HAS_CHANGES = importlib.util.find_spec("kinto_changes") is not None
ALL = {"kept", "updated-before", "updated-after", "deleted-before", "deleted-after"}


def put(server, collection, name, title):
    answer = send(server, "PUT", f"{RECORDS.format(collection)}/{name}", "account1", {"data": {"title": title}})
    assert answer.status in (200, 201), answer.body


def change(server, collection, when):
    """Creates, changes and deletes one object each."""
    put(server, collection, f"made-{when}", when)
    put(server, collection, f"updated-{when}", when)
    assert send(server, "DELETE", f"{RECORDS.format(collection)}/deleted-{when}", "account1").status == 200


class ChangesetClient:
    """Follows the monitor, and gets the changes of each collection."""

    def __init__(self):
        self.monitor = None
        self.times = {}
        self.records = {}

    def begin(self, server, collections):
        """Starts with the contents of a changeset, if kinto-changes is not installed."""
        for name in collections:
            answer = send(server, "GET", RECORDS.format(name), None)
            self.records[name] = {record["id"]: record for record in answer.body["data"]}
            self.times[name] = int(answer.headers["etag"].strip('"'))
        self.monitor = max(self.times.values())

    def sync(self, server):
        """The collections that were fetched, each with the ids in the answer."""
        asked = {}
        since = "" if self.monitor is None else f"&_since=%22{self.monitor}%22"
        changes = send(server, "GET", f"{MONITOR}?_expected=0{since}", None).body
        for entry in changes["changes"]:
            name, reached = entry["collection"], entry["last_modified"]
            if entry["bucket"] != "main" or self.times.get(name, 0) >= reached:
                continue
            since = f"&_since=%22{self.times[name]}%22" if name in self.times else ""
            url = f"/buckets/main/collections/{name}/changeset?_expected={reached}{since}"
            changeset = send(server, "GET", url, None).body
            assert changeset["timestamp"] >= reached, changeset
            records = self.records.setdefault(name, {})
            asked[name] = sorted(record["id"] for record in changeset["changes"])
            for record in changeset["changes"]:
                if record.get("deleted"):
                    records.pop(record["id"], None)
                else:
                    records[record["id"]] = record
            self.times[name] = changeset["timestamp"]
        self.monitor = changes["timestamp"]
        return asked


def main():
    program, local = sys.argv[1:3]
    begin = time.monotonic()

    def step(text):
        print(f"{time.monotonic() - begin:6.1f} s: {text}", flush=True)

    os.environ["KINTO_CHANGES_RESOURCES"] = "/buckets/main"
    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        settings = {**SETTINGS, **storage(postgres.url("kinto"))}
        if HAS_CHANGES:
            settings |= {"kinto.includes": f"{SETTINGS['kinto.includes']} kinto_changes", "kinto.changes.resources": "/buckets/main"}
        kinto = Kinto(HOST, settings)
        for backend in kinto.backends:
            backend.initialize_schema()
        send(kinto, "PUT", "/accounts/account1", None, {"data": {"password": "secret"}})
        send(kinto, "PUT", "/buckets/main", "account1", {"permissions": {"read": ["system.Everyone"]}})
        for collection in ("tasks", "still", "news"):
            send(kinto, "PUT", f"/buckets/main/collections/{collection}", "account1")
            for name in sorted(ALL):
                put(kinto, collection, name, "first")
        client = ChangesetClient()
        if HAS_CHANGES:
            assert client.sync(kinto).keys() == {"tasks", "still", "news"}
            assert client.sync(kinto) == {}
        else:
            client.begin(kinto, ["tasks", "still", "news"])
        data = f"{directory}/table.db"
        # A first import before the last one, as in a move.
        run(program, "import", postgres.url("kinto"), "--data", data)
        with Served(kinto) as served:
            script = [Path(sys.executable).with_name("node"), ROOT / "tests/clients/through_a_move.mjs", served.url]
            modules = {**os.environ, "NODE_PATH": str(ROOT / "target/clients/node_modules")}
            with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=modules, text=True) as kinto_js:
                for line in kinto_js.stdout:
                    print(f"    {line.rstrip()}")
                    if line == "synced\n":
                        break
                change(kinto, "tasks", "before")
                change(kinto, "news", "before")
                run(program, "import", postgres.url("kinto"), "--data", data)
                with Stack(local, data) as server:
                    change(server, "tasks", "after")
                    said, _ = kinto_js.communicate(f"http://{server.host}/v1\n", timeout=60)
                    print("".join(f"    {line}\n" for line in said.splitlines()), end="")
                    assert kinto_js.returncode == 0, "kinto.js differs"
                    step("kinto.js went on")

                    changed = [f"{what}-{when}" for what in ("deleted", "made", "updated") for when in ("after", "before")]
                    deadline = time.monotonic() + 30
                    asked = {}
                    # The monitor shows the last write a moment later.
                    while "local" not in asked.get("tasks", []) and time.monotonic() < deadline:
                        for name, ids in client.sync(server).items():
                            asked.setdefault(name, []).extend(ids)
                    assert sorted(asked.pop("tasks")) == sorted([*changed, "local"]), asked
                    assert asked == {"news": ["deleted-before", "made-before", "updated-before"]}, asked
                    assert client.sync(server) == {}
                    for name in ("tasks", "still", "news"):
                        there = {record["id"]: record for record in send(server, "GET", RECORDS.format(name), None).body["data"]}
                        assert client.records[name] == there, name
        step(f"a client of changesets went on{'' if HAS_CHANGES else ' (of those that kinto-changes would publish)'}")


if __name__ == "__main__":
    main()
