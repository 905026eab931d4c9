"""Random walks over statuses, edits, batches and users, on the real signer and on ours: the same answers, and the same published.

    KINTO_REMOTE_SETTINGS=DIR target/venv/bin/python tests/signer/walks.py [--walks N] [--seed S] [--spoil NAME]

DIR holds the package `kinto_remote_settings` (in mozilla/remote-settings: kinto-remote-settings/src) and what it imports that the
environment lacks. Needs PostgreSQL, for the real one takes back a refused request with its database, and `cargo build --bin
kinto-local`. `--spoil NAME` has ours answer wrong in one way (`SPOILS`), which must be found; `--spoil all` tries each.
"""

import argparse
import base64
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "moving"))
sys.path.extend(os.environ["KINTO_REMOTE_SETTINGS"].split(os.pathsep))

import logging  # noqa: E402

import canonicaljson  # noqa: E402
import kinto  # noqa: E402
from cryptography.exceptions import InvalidSignature  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: E402
from postgres import Postgres  # noqa: E402
from webob import Request as WebRequest  # noqa: E402

logging.disable(logging.CRITICAL)

BINARY = Path(os.environ.get("KINTO_LOCAL", HERE.parent.parent / "target/debug/kinto-local"))
USERS = ["alice", "bob", "carol", "dave"]
REVIEW, FREE = "work", "free"
RESOURCES = f"/buckets/{REVIEW} -> /buckets/preview -> /buckets/main\n/buckets/{FREE} -> /buckets/open"
TARGETS = {REVIEW: ["preview", "main"], FREE: ["open"]}
# Set-ups of the original leave what is published out of the history.
EXCLUDED = "/buckets/preview /buckets/main /buckets/open"
PLUGIN = "plugin:remote-settings"
STATUSES = ["work-in-progress", "to-review", "to-sign", "to-resign", "to-rollback", "signed", "nonsense", None, 7]
# What the answers of both must have in common, but for these: each with its reason.
JUSTIFIED = {
    # Ours writes the source only when status or editor become others, so that its writers do not meet at one item.
    "last_edit_date",
}


# The lines of the table of transitions that many walks have to take: review or none, from, to, what became of it.
ENOUGH = 200
SIGNED, PROGRESS, UNDER_REVIEW = "signed", "work-in-progress", "to-review"
LINES = [
    *((kind, before, PROGRESS, "ok") for kind in ("reviewed", "free") for before in (SIGNED, PROGRESS, UNDER_REVIEW)),
    *((kind, before, UNDER_REVIEW, "ok") for kind in ("reviewed", "free") for before in (SIGNED, PROGRESS, UNDER_REVIEW)),
    *(("reviewed", before, UNDER_REVIEW, 403) for before in (SIGNED, PROGRESS)),
    *((kind, SIGNED, "to-sign", 400) for kind in ("reviewed", "free")),
    ("reviewed", PROGRESS, "to-sign", 400), ("reviewed", PROGRESS, "to-sign", 403),
    ("reviewed", UNDER_REVIEW, "to-sign", "ok"), ("reviewed", UNDER_REVIEW, "to-sign", 403),
    ("free", PROGRESS, "to-sign", "ok"), ("free", UNDER_REVIEW, "to-sign", "ok"),
    *((kind, before, "to-resign", "ok") for kind in ("reviewed", "free") for before in (SIGNED, PROGRESS, UNDER_REVIEW)),
    *((kind, SIGNED, "to-rollback", 400) for kind in ("reviewed", "free")),
    *((kind, before, "to-rollback", "ok") for kind in ("reviewed", "free") for before in (PROGRESS, UNDER_REVIEW)),
    *((kind, SIGNED, SIGNED, "ok") for kind in ("reviewed", "free")),
    *((kind, before, SIGNED, 400) for kind in ("reviewed", "free") for before in (PROGRESS, UNDER_REVIEW)),
    *((kind, before, status, 400) for kind in ("reviewed", "free") for before in (SIGNED, PROGRESS, UNDER_REVIEW) for status in ("nonsense", 7)),
]


def authorization(user):
    return "Basic " + base64.b64encode(f"{user}:".encode()).decode()


class Real:
    name = "real"

    def __init__(self, url, key):
        settings = {
            "kinto.userid_hmac_secret": "local",
            "kinto.storage_backend": "kinto.core.storage.postgresql",
            "kinto.storage_url": url,
            "kinto.permission_backend": "kinto.core.permission.postgresql",
            "kinto.permission_url": url,
            "kinto.cache_backend": "kinto.core.cache.memory",
            "multiauth.policies": "basicauth",
            "kinto.includes": "kinto.plugins.history kinto_remote_settings",
            "kinto.history.exclude_resources": EXCLUDED,
            "kinto.signer.resources": RESOURCES,
            "kinto.signer.to_review_enabled": "true",
            f"signer.{FREE}.to_review_enabled": "false",
            "kinto.signer.ecdsa.private_key": key,
        }
        self.app = kinto.main({}, **settings)
        self.app.registry.storage.initialize_schema()
        self.app.registry.permission.initialize_schema()

    def send(self, method, path, user, body=None):
        headers = {"Content-Type": "application/json", "Authorization": authorization(user)}
        request = WebRequest.blank(f"/v1{path}", method=method, headers=headers)
        request.body = json.dumps(body).encode() if body is not None else b""
        response = request.get_response(self.app)
        return response.status_code, json.loads(response.body or b"null")

    def stop(self):
        pass


class Ours:
    name = "ours"

    def __init__(self, key, spoil=None, options=()):
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": "0",
            "AWS_PORT": "0",
            "KINTO_USERID_HMAC_SECRET": "local",
            "MULTIAUTH_POLICIES": "basicauth",
            "KINTO_INCLUDES": "kinto.plugins.history kinto_remote_settings",
            "KINTO_HISTORY_EXCLUDE_RESOURCES": EXCLUDED,
            "KINTO_SIGNER_RESOURCES": RESOURCES,
            "KINTO_SIGNER_TO_REVIEW_ENABLED": "true",
            f"KINTO_SIGNER_{FREE.upper()}_TO_REVIEW_ENABLED": "false",
            "KINTO_SIGNER_ECDSA_PRIVATE_KEY": key,
        }
        self.process = subprocess.Popen([BINARY, *options], env=environment, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("listening on "):
                self.port = int(re.search(r":(\d+)", line.split()[-1])[1])
                break
        else:
            raise SystemExit("the local stack did not start")
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.spoil = spoil

    def send(self, method, path, user, body=None):
        headers = {"Content-Type": "application/json", "Authorization": authorization(user)}
        content = json.dumps(body) if body is not None else None
        self.connection.request(method, f"/v1{path}", body=content, headers=headers)
        response = self.connection.getresponse()
        content = response.read()
        answer = response.status, json.loads(content or b"null")
        return self.spoil(method, path, user, answer) if self.spoil else answer

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Walk:
    """One walk on both servers, in a collection of its own."""

    def __init__(self, servers, key, seed, counts):
        self.servers = servers
        self.key = key
        self.random = random.Random(seed)
        self.cid = f"c{seed}"
        self.bucket = self.random.choice([REVIEW, REVIEW, FREE])
        self.counts = counts
        self.seen = {}
        # The real one publishes metadata that nobody signed with the deletion of a source; ours publishes none.
        self.was_deleted = False
        self.had_other_members = False
        # The real one rolls back under old times, which who polls the preview never hears of; ours under new ones.
        self.has_rolled_back = False

    @property
    def source(self):
        return f"/buckets/{self.bucket}/collections/{self.cid}"

    def both(self, method, path, user, body=None):
        """Sends a request to both; the answers, which must have the same status and errno."""
        answers = [server.send(method, path, user, body) for server in self.servers]
        told = [(status, content.get("errno") if status >= 400 else None) for status, content in answers]
        if told[0] != told[1]:
            raise Difference(f"{method} {path} by {user} {body}: {answers[0]} and {answers[1]}")
        return answers

    def prepare(self):
        self.both("PUT", self.source, "alice", {})
        members = {"editors": ["alice", "bob", "dave"], "reviewers": ["bob", "carol"]}
        for group, users in members.items():
            ids = [self.ids[user] for user in users]
            self.both("PATCH", f"/buckets/{self.bucket}/groups/{self.cid}-{group}", "alice", {"data": {"members": ids}})

    def step(self):
        choice = self.random.choices(
            ["edit", "delete", "clear", "status", "status", "status", "approve", "metadata", "tracking", "batch", "recreate", "target", "groups"],
            [6, 2, 0.5, 6, 6, 3, 6, 2, 1, 2, 0.4, 0.5, 0.5],
        )[0]
        user = self.random.choice(USERS)
        getattr(self, choice)(user)
        return choice

    def record(self):
        return f"{self.source}/records/r{self.random.randrange(5)}"

    def edit(self, user):
        body = {"data": {"n": self.random.randrange(4)}}
        if self.random.random() < 0.1:
            body["data"]["f"] = 1.5
        self.both(self.random.choice(["PUT", "PATCH"]), self.record(), user, body)

    def delete(self, user):
        self.both("DELETE", self.record(), user)

    def clear(self, user):
        self.both("DELETE", f"{self.source}/records", user)

    def status(self, user, status=None):
        status = self.random.choice(STATUSES) if status is None else status
        before = self.stored(self.servers[1]).get("status")
        body = {"data": {"status": status}}
        if self.random.random() < 0.3:
            body["data"]["last_editor_comment"] = "please"
        told = self.both("PATCH", self.source, user, body)[0][0]
        name = "reviewed" if self.bucket == REVIEW else "free"
        self.has_rolled_back |= status == "to-rollback" and told < 400
        self.counts[(name, before, status, "ok" if told < 400 else told)] += 1

    def approve(self, user):
        """What gets on: a request and its approval by others."""
        if self.bucket == REVIEW:
            self.status(self.random.choice(["alice", "dave"]), "to-review")
            self.status(self.random.choice(["bob", "carol"]), "to-sign")
        else:
            self.status(user, "to-sign")

    def metadata(self, user):
        fields = {"sort": ["n", "-n"], "displayFields": [["n"], []], "flags": [["a"]], "other": [1, 2], "last_reviewer_comment": ["hm"]}
        field = self.random.choice(list(fields))
        self.both("PATCH", self.source, user, {"data": {field: self.random.choice(fields[field])}})

    def tracking(self, user):
        field = self.random.choice(["last_edit_by", "last_review_date", "last_signature_by", "last_review_request_by"])
        self.both("PATCH", self.source, user, {"data": {field: self.random.choice(["x", self.ids[user]])}})

    def batch(self, user):
        """Writes, and after them a command that both carry out at the end.

        Ours goes by the order. While a review is under way the real one takes the command for no change, since the status was
        the same when the batch came; and without a preview the writes win over the command.
        """
        requests = []
        for _ in range(self.random.randrange(1, 4)):
            body = {"data": {"n": self.random.randrange(4)}}
            requests.append({"method": "PUT", "path": self.record(), "body": body})
        is_under_review = self.stored(self.servers[1]).get("status") == "to-review"
        if self.random.random() < 0.6 and self.bucket == REVIEW and not is_under_review:
            requests.append({"method": "PATCH", "path": self.source, "body": {"data": {"status": "to-review"}}})
        answers = self.both("POST", "/batch", user, {"requests": requests})
        told = [[response["status"] for response in content.get("responses", [])] for _, content in answers]
        if told[0] != told[1]:
            raise Difference(f"batch by {user}: {told[0]} and {told[1]}")

    def recreate(self, user):
        # In the real one who was in a group of a source that is gone is so again in the new one's; in ours members are who is listed.
        if self.had_other_members:
            return
        if self.both("DELETE", self.source, user)[0][0] == 200:
            self.was_deleted = True
            self.compare()
            self.prepare()

    def target(self, user):
        """Deletions of what is published, which is in use."""
        target = self.random.choice(TARGETS[self.bucket])
        self.both("DELETE", f"/buckets/{target}/collections/{self.cid}", "alice")

    def groups(self, user):
        self.had_other_members = True
        group = self.random.choice(["editors", "reviewers"])
        ids = [self.ids[name] for name in self.random.sample(USERS, self.random.randrange(1, 4))]
        self.both("PATCH", f"/buckets/{self.bucket}/groups/{self.cid}-{group}", "alice", {"data": {"members": ids}})

    def stored(self, server):
        status, content = server.send("GET", self.source, "alice")
        return content["data"] if status == 200 else {}

    def compare(self):
        """Everything that is to be the same on both, but for times."""
        states = [self.state(server) for server in self.servers]
        self.has_rolled_back = False
        if states[0] != states[1]:
            for name in states[0]:
                if states[0][name] != states[1][name]:
                    raise Difference(f"{name}: {states[0][name]} and {states[1][name]}")

    def state(self, server):
        source = self.stored(server)
        state = {"source": {name: (name if name.endswith("_date") else value) for name, value in source.items()}}
        state["source"].pop("last_modified", None)
        for field in JUSTIFIED:
            state["source"].pop(field, None)
        state["records"] = self.records(server, self.source)
        state["history"] = self.history(server)
        for bucket in TARGETS[self.bucket]:
            target = f"/buckets/{bucket}/collections/{self.cid}"
            status, content = server.send("GET", f"{target}/changeset?_expected=0", "alice")
            if status != 200:
                state[bucket] = status
                continue
            metadata = content["metadata"]
            names = [] if self.was_deleted else ["sort", "displayFields", "flags"]
            kept = {name: metadata.get(name) for name in [*names, "other", "status"]}
            records = {record["id"]: self.plain(record) for record in content["changes"]}
            # Whether the list moved, and whether it was signed anew, since this was last looked at.
            before = self.seen.get((server.name, bucket), (None, None))
            after = (content["timestamp"], metadata["signature"]["signature"])
            self.seen[(server.name, bucket)] = after
            moved = [a != b for a, b in zip(before, after)]
            if self.has_rolled_back:
                moved[0] = None
            state[bucket] = (kept, records, moved, self.verifies(content), self.records(server, target) == records)
        return state

    def history(self, server):
        """What people did to records, and whether they made or deleted the source, how often.

        What the stack writes itself differs, since ours writes the source only where status or editor change. Updates of the source are
        left out: where a user's and the stack's are in one commit, ours has both under the user, which is a fault of ours.
        """
        path = f"/buckets/{self.bucket}/history?collection_id={self.cid}&_limit=1000"
        status, content = server.send("GET", path, "alice")
        if status != 200:
            return status
        entries = [
            entry for entry in content["data"]
            if entry["user_id"] != PLUGIN and (entry["resource_name"], entry["action"]) != ("collection", "update")
        ]
        return Counter((entry["uri"], entry["action"], entry["user_id"]) for entry in entries)

    def plain(self, record):
        return {name: value for name, value in record.items() if name not in ("last_modified", "schema")}

    def records(self, server, collection):
        status, content = server.send("GET", f"{collection}/records", "alice")
        return {record["id"]: self.plain(record) for record in content["data"]} if status == 200 else status

    def verifies(self, changeset):
        records = sorted(changeset["changes"], key=lambda record: record["id"])
        text = canonicaljson.dumps({"data": records, "last_modified": str(changeset["timestamp"])})
        raw = base64.urlsafe_b64decode(changeset["metadata"]["signature"]["signature"])
        numbers = utils.encode_dss_signature(int.from_bytes(raw[:48]), int.from_bytes(raw[48:]))
        try:
            self.key.public_key().verify(numbers, b"Content-Signature:\0" + text.encode(), ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return False
        return True


class Difference(Exception):
    """What the two servers do not have in common."""


def spoiled_edit(method, path, user, answer):
    """An edit that leaves the status."""
    status, content = answer
    if method == "GET" and re.fullmatch(r"/buckets/\w+/collections/\w+", path) and status == 200:
        if content["data"].get("status") == "work-in-progress":
            content["data"]["status"] = "signed"
    return status, content


def spoiled_approval(method, path, user, answer):
    """An approval by who requested."""
    if method == "PATCH" and answer[0] == 403 and "requested" in answer[1].get("message", ""):
        return 200, {"data": {}}
    return answer


def spoiled_preview(method, path, user, answer):
    """A record that is missing in the preview."""
    status, content = answer
    if path.startswith("/buckets/preview/") and "changeset" in path and status == 200:
        del content["changes"][:1]
    return status, content


class SpoiledSignature:
    """A signature over old records."""

    def __init__(self):
        self.old = {}

    def __call__(self, method, path, user, answer):
        status, content = answer
        if "changeset" in path and status == 200:
            signature = content["metadata"]["signature"]
            content["metadata"]["signature"] = self.old.get(path, signature)
            self.old[path] = signature
        return status, content


def spoiled_history(method, path, user, answer):
    """A history entry less."""
    status, content = answer
    if "/history" in path and status == 200:
        del content["data"][:1]
    return status, content


def spoiled_rollback(method, path, user, answer):
    """A record that a rollback leaves."""
    status, content = answer
    if method == "GET" and re.fullmatch(r"/buckets/(work|free)/collections/\w+/records", path) and status == 200:
        content["data"].append({"id": "left", "last_modified": 1})
    return status, content


SPOILS = {
    "edit": lambda: spoiled_edit,
    "approval": lambda: spoiled_approval,
    "preview": lambda: spoiled_preview,
    "signature": SpoiledSignature,
    "history": lambda: spoiled_history,
    "rollback": lambda: spoiled_rollback,
}


def run(real, ours, key, walks, seed, steps, counts):
    """Walks; what differs first, with how many walks it took."""
    ids = {}
    for user in USERS:
        told = [server.send("GET", "/", user)[1]["user"]["id"] for server in (real, ours)]
        assert told[0] == told[1], told
        ids[user] = told[0]
    for bucket in (REVIEW, FREE):
        for server in (real, ours):
            server.send("PUT", f"/buckets/{bucket}", "alice", {"permissions": {"write": list(ids.values())}})
    for number in range(walks):
        walk = Walk([real, ours], key, seed + number, counts)
        walk.ids = ids
        done = []
        try:
            walk.prepare()
            walk.compare()
            for _ in range(steps):
                done.append(walk.step())
                walk.compare()
        except Difference as difference:
            return number + 1, f"walk {seed + number} ({walk.bucket}), after {' '.join(done)}: {difference}"
    return walks, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--walks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spoil", choices=[*SPOILS, "all"])
    arguments = parser.parse_args()
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        path = os.path.join(directory, "key.pem")
        Path(path).write_bytes(pem)
        real = Real(postgres.url("kinto"), path)
        spoils = {None: None}
        if arguments.spoil:
            spoils = SPOILS if arguments.spoil == "all" else {arguments.spoil: SPOILS[arguments.spoil]}
        failed = False
        seed = arguments.seed
        for name, spoil in spoils.items():
            counts = Counter()
            ours = Ours(path, spoil and spoil())
            try:
                walks, difference = run(real, ours, key, arguments.walks, seed, arguments.steps, counts)
            finally:
                ours.stop()
            seed += arguments.walks
            if name:
                failed |= difference is None
                print(f"{name}: {'found' if difference else 'NOT found'} in {walks} walks: {difference}")
                continue
            failed |= difference is not None
            print(f"{walks} walks: {difference or 'no difference'}")
            for taken, count in sorted(counts.items(), key=str):
                print(f"{count:6} {' '.join(map(str, taken))}")
            missing = [line for line in LINES if not counts[line]] if arguments.walks >= ENOUGH else []
            failed |= bool(missing)
            for line in missing:
                print(f"never taken: {' '.join(map(str, line))}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
