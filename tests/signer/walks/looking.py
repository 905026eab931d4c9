"""The state after a step, without random differences. It is the same on both servers."""

import base64
from collections import Counter

import canonicaljson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from signers import FREE, PLUGIN, REVIEW, TARGETS, named

COLLECTION = "news"


class Looking:
    """Looks at one collection of one server, during one walk."""

    def __init__(self, server, public_key, bucket):
        self.server = server
        self.public_key = public_key
        self.bucket = bucket
        self.source = f"/buckets/{bucket}/collections/{COLLECTION}"
        self.targets = [f"/buckets/{target}/collections/{COLLECTION}" for target in TARGETS[bucket]]
        # For each target, its timestamp and its signature at the last look.
        self.seen = {}

    def at_source(self):
        """The data of the source."""
        return {"source": plain_source(*self.server.send("GET", self.source, "alice"))}

    def at_all(self, left_out=()):
        """The source, its records, its history and its publications, without the names in `left_out`."""
        history = f"/buckets/{self.bucket}/history?collection_id={COLLECTION}&_limit=1000"
        paths = [self.source, f"{self.source}/records", history]
        for target in self.targets:
            paths += [f"{target}/changeset?_expected=0", f"{target}/records"]
        source, records, history, *published = self.server.read(paths)
        state = {"source": plain_source(*source), "records": plain_records(*records), "history": self.entries(*history)}
        for n, target in enumerate(self.targets):
            state[target] = self.published(target, *published[2 * n : 2 * n + 2], left_out)
        return state

    def entries(self, status, content):
        """Counts the actions by user, action and object. Of the stack's own writes, only those to the source."""
        if status != 200:
            return status
        counts = Counter()
        for entry in content["data"]:
            who = entry["user_id"]
            if who == PLUGIN and entry["resource_name"] == "record":
                # "records that a rollback takes back"
                continue
            what = f"{named(who)} {entry['action']} {entry['uri'].removeprefix(self.source) or 'source'}"
            counts[what] = 1 if who == PLUGIN else counts[what] + 1
        return dict(sorted(counts.items()))

    def published(self, target, changeset, records, left_out):
        status, content = changeset
        if status != 200:
            return status
        metadata = content["metadata"]
        names = [] if "metadata of a deleted source" in left_out else ["sort", "displayFields", "flags"]
        changes = {record["id"]: plain(record) for record in content["changes"]}
        before = self.seen.get(target, (None, None))
        after = (content["timestamp"], metadata["signature"]["signature"])
        self.seen[target] = after
        state = {
            "metadata": {name: metadata.get(name) for name in [*names, "other", "status"]},
            "records": changes,
            # The target's list of records must be the same.
            "as a list": plain_records(*records) == changes,
            "verifies": verifies(self.public_key, content),
            "signed anew": before[1] != after[1],
        }
        if "times after a rollback" not in left_out:
            state["timestamp moved"] = before[0] != after[0]
        return state


def verifies(public_key, changeset):
    """Returns True if the signature of a whole changeset covers its records."""
    records = sorted(changeset["changes"], key=lambda record: record["id"])
    text = canonicaljson.dumps({"data": records, "last_modified": str(changeset["timestamp"])})
    raw = base64.urlsafe_b64decode(changeset["metadata"]["signature"]["signature"])
    numbers = utils.encode_dss_signature(int.from_bytes(raw[:48]), int.from_bytes(raw[48:]))
    try:
        public_key.verify(numbers, b"Content-Signature:\0" + text.encode(), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def plain(record):
    return {name: value for name, value in record.items() if name not in ("last_modified", "schema")}


def plain_source(status, content):
    """The fields of a source, with users by their names, and dates only as present."""
    if status != 200:
        return status
    fields = {name: named(value) for name, value in content["data"].items() if name != "last_modified"}
    return {name: "a date" if name.endswith("_date") else value for name, value in sorted(fields.items())}


def plain_records(status, content):
    return {record["id"]: plain(record) for record in content["data"]} if status == 200 else status


def told(answer):
    """The compared part of an answer to a write: status and errno, also for each request of a batch."""
    status, content = answer
    if status >= 400:
        return [status, content.get("errno")]
    if isinstance(content, dict) and "responses" in content:
        return [status, *(response["status"] for response in content["responses"])]
    return [status]


def kind(bucket):
    return {REVIEW: "reviewed", FREE: "free"}[bucket]
