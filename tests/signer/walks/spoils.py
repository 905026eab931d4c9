"""Changes our answers in transit. A comparison must notice each change."""

import re


def edit(method, path, answer):
    """An edit does not change the status."""
    status, content = answer
    if method == "GET" and re.fullmatch(r"/buckets/\w+/collections/\w+", path) and status == 200:
        if content["data"].get("status") == "work-in-progress":
            content["data"]["status"] = "signed"
    return status, content


def approval(method, path, answer):
    """The requester of a review may approve it."""
    if method == "PATCH" and answer[0] == 403 and "requested" in answer[1].get("message", ""):
        return 200, {"data": {}}
    return answer


def preview(method, path, answer):
    """A record is missing in the preview."""
    status, content = answer
    if path.startswith("/buckets/preview/") and "changeset" in path and status == 200:
        del content["changes"][:1]
    return status, content


class Signature:
    """A signature covers old records."""

    def __init__(self):
        self.old = {}

    def __call__(self, method, path, answer):
        status, content = answer
        if "changeset" in path and status == 200:
            signature = content["metadata"]["signature"]
            # Signatures of another walk cover other records too.
            content["metadata"]["signature"] = self.old.get(path, signature)
            self.old[path] = signature
        return status, content


def history(method, path, answer):
    """An entry is missing in the history."""
    status, content = answer
    if "/history" in path and status == 200:
        del content["data"][:1]
    return status, content


def rollback(method, path, answer):
    """A rollback leaves a record."""
    status, content = answer
    if method == "GET" and re.fullmatch(r"/buckets/(work|free)/collections/\w+/records", path) and status == 200:
        content["data"].append({"id": "left", "last_modified": 1})
    return status, content


def writer(method, path, answer):
    """Updates by the stack have the name of the user who wrote in the same commit."""
    status, content = answer
    if "/history" in path and status == 200:
        users = [entry["user_id"] for entry in content["data"] if not entry["user_id"].startswith("plugin:")]
        for entry in content["data"]:
            if entry["user_id"].startswith("plugin:") and users:
                entry["user_id"] = users[0]
    return status, content


# The constructors by name.
SPOILS = {
    "edit": lambda: edit,
    "approval": lambda: approval,
    "preview": lambda: preview,
    "signature": Signature,
    "history": lambda: history,
    "rollback": lambda: rollback,
    "writer": lambda: writer,
}
