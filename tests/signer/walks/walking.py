"""A walk on the real signer: random requests, its answers, and its state after each step.

The result is plain JSON, so that it can be recorded, and repeated on ours without the real signer:

    {"seed": 1, "bucket": "work", "steps": [
        {"name": "edit",
         "requests": [{"method": "PUT", "path": …, "user": "bob", "body": …, "told": [201]}],
         "left_out": ["times after a rollback"],
         "seen": {"source": {…}}}, …]}

`seen` is the whole state after some of the steps, and only the source after the others. `line` of a request is the line that it takes
in the table of transitions.
"""

import random

from looking import COLLECTION, Looking, kind, told
from signers import FREE, REVIEW, TARGETS, USERS

STATUSES = ["work-in-progress", "to-review", "to-sign", "to-resign", "to-rollback", "signed", "nonsense", None, 7]
SIGNED, PROGRESS, UNDER_REVIEW = "signed", "work-in-progress", "to-review"
# The lines of the table of transitions: with review or without, from, to, result.
LINES = [
    *((kind, before, PROGRESS, "ok") for kind in ("reviewed", "free") for before in (SIGNED, PROGRESS, UNDER_REVIEW)),
    *((kind, before, UNDER_REVIEW, "ok") for kind in ("reviewed", "free") for before in (SIGNED, PROGRESS, UNDER_REVIEW)),
    *(("reviewed", before, UNDER_REVIEW, 403) for before in (SIGNED, PROGRESS)),
    *((kind, SIGNED, "to-sign", 400) for kind in ("reviewed", "free")),
    *(("reviewed", PROGRESS, "to-sign", outcome) for outcome in (400, 403)),
    *(("reviewed", UNDER_REVIEW, "to-sign", outcome) for outcome in ("ok", 403)),
    *(("free", before, "to-sign", "ok") for before in (PROGRESS, UNDER_REVIEW)),
    *((kind, before, "to-resign", "ok") for kind in ("reviewed", "free") for before in (SIGNED, PROGRESS, UNDER_REVIEW)),
    *((kind, SIGNED, "to-rollback", 400) for kind in ("reviewed", "free")),
    *((kind, before, "to-rollback", "ok") for kind in ("reviewed", "free") for before in (PROGRESS, UNDER_REVIEW)),
    *((kind, SIGNED, SIGNED, "ok") for kind in ("reviewed", "free")),
    *((kind, before, SIGNED, 400) for kind in ("reviewed", "free") for before in (PROGRESS, UNDER_REVIEW)),
    *(
        (kind, before, status, 400)
        for kind in ("reviewed", "free")
        for before in (SIGNED, PROGRESS, UNDER_REVIEW)
        for status in ("nonsense", 7, None)
    ),
]
# The kinds of steps, with their frequencies.
STEPS = {
    "edit": 6,
    "delete": 2,
    "clear": 0.5,
    "change_status": 15,
    "approve": 6,
    "metadata": 2,
    "tracking": 1,
    "batch": 2,
    "recreate": 0.4,
    "target": 0.5,
    "groups": 0.5,
}
# How often the whole state is read after a step, and not only the source. Reading takes longer than the step.
LOOKS = 0.4


class Walk:
    def __init__(self, server, public_key, seed):
        self.server = server
        self.random = random.Random(seed)
        self.bucket = self.random.choice([REVIEW, REVIEW, FREE])
        self.looking = Looking(server, public_key, self.bucket)
        self.source = self.looking.source
        self.left_out = []
        self.had_other_members = False
        self.steps = []
        # The stored status, if it is known.
        self.status = None

    def run(self, steps):
        for number in range(steps):
            name = "prepare" if number == 0 else self.random.choices(list(STEPS), list(STEPS.values()))[0]
            self.begin(name)
            getattr(self, name)()
            self.look(number == steps - 1 or self.random.random() < LOOKS)
        return self.steps

    def begin(self, name):
        self.steps.append({"name": name, "requests": []})

    def look(self, at_all=True):
        """Ends a step."""
        step = self.steps[-1]
        if self.left_out:
            step["left_out"] = list(self.left_out)
        seen = step["seen"] = self.looking.at_all(self.left_out) if at_all else self.looking.at_source()
        if at_all and "times after a rollback" in self.left_out:
            self.left_out.remove("times after a rollback")
        self.status = seen["source"].get("status") if isinstance(seen["source"], dict) else None

    def send(self, method, path, user, body=None):
        answer = told(self.server.send(method, path, user, body))
        request = {"method": method, "path": path, "user": user, "told": answer}
        if body is not None:
            request["body"] = body
        self.steps[-1]["requests"].append(request)
        return request

    def user(self):
        return self.random.choice(USERS)

    def record(self):
        return f"{self.source}/records/r{self.random.randrange(5)}"

    def prepare(self):
        self.send("PUT", f"/buckets/{self.bucket}", "alice", {"permissions": {"write": [f"@{user}" for user in USERS]}})
        self.create()

    def create(self):
        self.send("PUT", self.source, "alice", {})
        for group, users in {"editors": ["alice", "bob", "dave"], "reviewers": ["bob", "carol"]}.items():
            self.set_members(group, users)

    def set_members(self, group, users):
        members = {"data": {"members": [f"@{user}" for user in users]}}
        self.send("PATCH", f"/buckets/{self.bucket}/groups/{COLLECTION}-{group}", "alice", members)

    def edit(self):
        data = {"n": self.random.randrange(4)}
        if self.random.random() < 0.1:
            data["f"] = 1.5
        self.send(self.random.choice(["PUT", "PATCH"]), self.record(), self.user(), {"data": data})

    def delete(self):
        self.send("DELETE", self.record(), self.user())

    def clear(self):
        self.send("DELETE", f"{self.source}/records", self.user())

    def change_status(self):
        self.set_status(self.user(), self.random.choice(STATUSES))

    def set_status(self, user, status):
        before = self.status
        body = {"data": {"status": status}}
        if self.random.random() < 0.3:
            body["data"]["last_editor_comment"] = "please"
        request = self.send("PATCH", self.source, user, body)
        code = request["told"][0]
        request["line"] = [kind(self.bucket), before, status, "ok" if code < 400 else code]
        if status == "to-rollback" and code < 400 and "times after a rollback" not in self.left_out:
            self.left_out.append("times after a rollback")

    def approve(self):
        """Progress: a request for review, and its approval by another user."""
        if self.bucket == FREE:
            return self.set_status(self.user(), "to-sign")
        self.set_status(self.random.choice(["alice", "dave"]), "to-review")
        self.look(at_all=False)
        self.begin("approve")
        self.set_status(self.random.choice(["bob", "carol"]), "to-sign")

    def metadata(self):
        fields = {"sort": ["n", "-n"], "displayFields": [["n"], []], "flags": [["a"]], "other": [1, 2], "last_reviewer_comment": ["hm"]}
        field = self.random.choice(list(fields))
        self.send("PATCH", self.source, self.user(), {"data": {field: self.random.choice(fields[field])}})

    def tracking(self):
        field = self.random.choice(["last_edit_by", "last_review_date", "last_signature_by", "last_review_request_by"])
        user = self.user()
        self.send("PATCH", self.source, user, {"data": {field: self.random.choice(["x", f"@{user}"])}})

    def batch(self):
        """Writes, followed by a command, which both servers carry out at the end."""
        requests = []
        for _ in range(self.random.randrange(1, 4)):
            requests.append({"method": "PUT", "path": self.record(), "body": {"data": {"n": self.random.randrange(4)}}})
        if self.random.random() < 0.3:
            requests.append({"method": "PATCH", "path": self.source, "body": {"data": {"other": self.random.randrange(3)}}})
        # "a command in a batch during a review, or without a preview"
        if self.random.random() < 0.6 and self.bucket == REVIEW and self.status != UNDER_REVIEW:
            requests.append({"method": "PATCH", "path": self.source, "body": {"data": {"status": "to-review"}}})
        self.send("POST", "/batch", self.user(), {"requests": requests})

    def recreate(self):
        # "a source made again after its groups were changed"
        if self.had_other_members:
            return
        if self.send("DELETE", self.source, self.user())["told"] == [200]:
            if "metadata of a deleted source" not in self.left_out:
                self.left_out.append("metadata of a deleted source")
            self.look()
            self.begin("recreate")
            self.create()

    def target(self):
        """A deletion of a target that is in use."""
        target = self.random.choice(TARGETS[self.bucket])
        self.send("DELETE", f"/buckets/{target}/collections/{COLLECTION}", "alice")

    def groups(self):
        self.had_other_members = True
        group = self.random.choice(["editors", "reviewers"])
        self.set_members(group, self.random.sample(USERS, self.random.randrange(1, 4)))


def walk(server, public_key, seed, steps):
    """One walk, on an empty server."""
    server.send("POST", "/__flush__", "alice")
    of = Walk(server, public_key, seed)
    return {"seed": seed, "bucket": of.bucket, "steps": of.run(steps)}
