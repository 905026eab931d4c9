"""Plays one sequence of requests to a real Kinto with kinto-changes and to kinto-local, and compares the answers.

    python3 -m venv /tmp/kinto && /tmp/kinto/bin/pip install -r tests/differential/requirements.txt
    cargo build --workspace
    /tmp/kinto/bin/python tests/differential/changes.py target/debug/kinto-local

It compares status, errno, the headers in HEADERS and the JSON body. Each server has its own clock, so a time is
compared by its place among the times given so far, not by its value. DIFFERENCES are the intended ones. A listed difference that
does not occur is an error, like an unlisted one that does. Exit code 1 if there is any error.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

HOST = "kinto.example"
SETTINGS = {
    "changes.resources": "/buckets/main /buckets/other/collections/c",
    "http_host": HOST,
    "http_scheme": "https",
    "monitor.changes.record_cache_expires_seconds": "60",
    "monitor.changes.record_cache_maximum_expires_seconds": "3600",
    "main.one.record_cache_expires_seconds": "30",
    "bucket_create_principals": "system.Authenticated",
}
HEADERS = ["Allow", "Cache-Control", "Content-Type", "ETag", "Last-Modified", "Location", "Next-Page", "Total-Objects", "Total-Records"]

ALICE = {"Authorization": "Basic YWxpY2U6"}
BOB = {"Authorization": "Basic Ym9iOg=="}
RECORDS = "/buckets/monitor/collections/changes/records"
MONITOR = "/buckets/monitor/collections/changes/changeset"
ONE = "/buckets/main/collections/one"

# (what differs, where, why). `where` is the name of a step, or a part of it; `what` the path of the difference.
DIFFERENCES = [
    ("ETag|Last-Modified", "empty monitor", "kinto-changes gives now, another time to each; ours is 0 until there is a change"),
    ("body.timestamp", "empty monitor", "the same"),
    ("body.data|body.changes", "empty monitor", "kinto-changes lists a watched collection that does not exist"),
    ("ETag", "changeset", "ours has one, so that who knows it can be answered 304"),
    ("Last-Modified", "changeset", "ours has one, as the successor of kinto-changes"),
    ("body.metadata.bucket", "changeset of", "ours names the bucket, as the successor of kinto-changes"),
    ("status|body|errno|Cache-Control|ETag|Last-Modified|Content-Type", "bare _since", "ours takes it, as the successor of kinto-changes"),
    ("status|body|errno|ETag|Last-Modified|Cache-Control|Content-Type", "_limit of -1", "ours refuses it, as the successor of kinto-changes"),
    ("Cache-Control", "_expected of 0", "the short time, as the successor of kinto-changes"),
    ("ETag|Last-Modified|body.timestamp", "after deletion", "kinto-changes goes back to the highest of what is left; ours never goes back"),
    ("status|errno|body|ETag|Last-Modified", "reserved", "ours lets nobody create a bucket that would hide the changes"),
    ("body.message|body.error|body.details.0.description|body.details.0.name|body.details.0.location|body.details", "refused", "other words"),
    ("body.changes", "monitor changeset &_limit", "ours gives the latest, kinto-changes any"),
    ("Total-Objects|Total-Records", "head of monitor records", "ours counts them, as every list"),
    ("Content-Type", "old since", "a redirect has no body here"),
]


def steps():
    """The sequence. A step is a name, method, path, headers and body; `{name}` is the time of that step's answer."""
    get = lambda name, path, **headers: (name, "GET", path, headers or {}, None)
    put = lambda name, path, body=None: (name, "PUT", path, ALICE, body or {})
    public = {"permissions": {"read": ["system.Everyone"]}}
    yield get("empty monitor records", RECORDS)
    yield get("empty monitor changeset", MONITOR + "?_expected=1")
    yield put("main", "/buckets/main", public)
    yield put("one", ONE, {"data": {"displayed": True}})
    yield put("two", "/buckets/main/collections/two")
    yield put("other", "/buckets/other")
    yield put("other c", "/buckets/other/collections/c")
    yield put("other d", "/buckets/other/collections/d")
    yield put("a", ONE + "/records/a", {"data": {"n": 1, "text": "\"é\" \\ \n"}})
    yield put("b", ONE + "/records/b", {"data": {}})
    yield put("past", ONE + "/records/past", {"data": {"last_modified": 5}})
    yield put("in two", "/buckets/main/collections/two/records/x")
    yield put("in other c", "/buckets/other/collections/c/records/x")
    yield put("in other d", "/buckets/other/collections/d/records/x")
    yield put("metadata of one", ONE, {"data": {"displayed": False}})
    yield put("a again", ONE + "/records/a", {"data": {"n": 2}})
    yield ("b goes", "DELETE", ONE + "/records/b", ALICE, None)
    yield get("monitor records", RECORDS)
    yield ("head of monitor records", "HEAD", RECORDS, {}, None)
    for query in [
        '_since="{in two}"', "_since={in two}", '_before="{in other c}"', "bucket=main", "collection=two&bucket=main", "in_collection=one,c",
        "_sort=collection", "_sort=-collection", "_sort=collection&_limit=1", "_limit=1", "_fields=collection", "last_modified={in two}",
        "gt_last_modified={in two}", "like_host=*nto*", "_expected=5", '_expected="5"', "not_bucket=main", "has_host=true", "_since=9999999999999",
    ]:
        yield get("monitor records " + query, RECORDS + "?" + query.replace('"', "%22"))
    for query in ["colour=red", "_since=abc", "_limit=x", "_sort=colour", "_fields=colour", "_token=x"]:
        yield get("refused monitor records " + query, RECORDS + "?" + query)
    for name, value in [("If-None-Match", "*"), ("If-Match", '"1"'), ("If-None-Match", "x")]:
        yield ("refused monitor records " + name + value, "GET", RECORDS, {name: value}, None)
    yield ("304 monitor records", "GET", RECORDS, {"If-None-Match": '"{monitor}"'}, None)
    yield ("monitor records If-Match", "GET", RECORDS, {"If-Match": '"{monitor}"'}, None)
    for method in ["POST", "PUT", "PATCH", "DELETE"]:
        for path in [RECORDS, MONITOR + "?_expected=1", ONE + "/changeset?_expected=1"]:
            yield ("refused write to " + path + " " + method, method, path, ALICE, {})
    yield ("refused one of the monitor", "GET", RECORDS + "/x", {}, None)
    yield ("refused one of the monitor to alice", "GET", RECORDS + "/x", ALICE, None)
    for query in ["", '&_since="{in two}"', '&_since="{monitor}"', "&bucket=main", "&collection=c&bucket=other", "&collection=c&bucket=main", "&_limit=2"]:
        yield get("monitor changeset " + query, MONITOR + "?_expected=1" + query.replace('"', "%22"))
    yield get("monitor changeset bare _since", MONITOR + "?_expected=1&_since={in two}")
    yield get("monitor changeset _expected of 0", MONITOR + "?_expected=0")
    yield get("monitor changeset quoted", MONITOR + "?_expected=%225%22")
    for path in [RECORDS + "?", MONITOR + "?_expected=1&", MONITOR + "?bucket=main&_expected=1&"]:
        yield get("old since " + path, path + "_since=%2242%22")
    yield ("refused: reserved bucket", "PUT", "/buckets/monitor", BOB, {})
    for query in ["", '&_since="{b}"', '&_since="{b goes}"', "&_limit=2", '&_limit=1&_since="{a}"', "&bucket=x"]:
        yield ("changeset of one " + query, "GET", ONE + "/changeset?_expected=1" + query.replace('"', "%22"), ALICE, None)
    yield get("changeset of one, anonymous", ONE + "/changeset?_expected=1")
    yield ("head of changeset of one", "HEAD", ONE + "/changeset?_expected=1", {}, None)
    yield ("changeset of one bare _since", "GET", ONE + "/changeset?_expected=1&_since={b}", ALICE, None)
    yield ("changeset of one _limit of -1", "GET", ONE + "/changeset?_expected=1&_limit=-1", ALICE, None)
    for query in ["", "?_expected=", "?_expected=1&_since=abc", "?_expected=1&_limit=x", "?_expected=1&_since=%2212"]:
        yield ("refused changeset of one " + query, "GET", ONE + "/changeset" + query, ALICE, None)
        yield get("refused monitor changeset " + query, MONITOR + query)
    for who, headers in [("nobody", {}), ("bob", BOB), ("alice", ALICE)]:
        for path in ["/buckets/other/collections/c", "/buckets/other/collections/none", "/buckets/none/collections/c", "/buckets/main/collections/none"]:
            name = "changeset of other to " if path == "/buckets/other/collections/c" and who == "alice" else "refused changeset to "
            yield (name + who + " " + path, "GET", path + "/changeset?_expected=1", headers, None)
    yield get("records of one, anonymous", ONE + "/records")
    yield get("record of one, anonymous", ONE + "/records/a")
    yield ("records of one, alice", "GET", ONE + "/records", ALICE, None)
    yield ("two goes", "DELETE", "/buckets/main/collections/two", ALICE, None)
    yield ("c goes", "DELETE", "/buckets/other/collections/c", ALICE, None)
    yield get("monitor records bucket=main after deletion", RECORDS + "?bucket=main")
    yield put("c", "/buckets/other/collections/c")
    yield put("in new c", "/buckets/other/collections/c/records/y")
    yield get("monitor records in the end", RECORDS)
    yield ("changeset of other", "GET", "/buckets/other/collections/c/changeset?_expected=1", ALICE, None)


class Server:
    """One side: sends requests, and remembers the times in the answers."""

    def __init__(self, port):
        self.port = port
        self.times = {}  # name of a step -> time
        self.names = {}  # time -> name of the step that first showed it

    def send(self, method, path, headers, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fill = lambda text: re.sub(r"\{([^}]*)\}", lambda m: str(self.times[m[1]]), text)
        headers = {name: fill(value) for name, value in headers.items()} | {"Host": HOST}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, "/v1" + fill(path), None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        is_json = "json" in answer.headers.get("Content-Type", "")
        return answer.status, answer.headers, json.loads(text) if is_json and text else None

    def play(self, name, method, path, headers, body):
        status, sent, answer = self.send(method, path, headers, body)
        if method in ("PUT", "DELETE") and status < 300:
            time.sleep(0.03)  # no two writes in one millisecond, and time for the stream
            self.times[name] = answer["data"]["last_modified"]
            self.names.setdefault(self.times[name], name)
        if name.startswith("monitor changeset") and "_limit" not in name:
            # kinto-changes has no order here; ours is the order of the records.
            (answer or {}).get("changes", []).sort(key=lambda change: -change["last_modified"])
        if name == "monitor records":
            self.times["monitor"] = int(sent["ETag"].strip('"'))
        seen = {"status": status, "errno": (answer or {}).get("errno"), "body": self.named(answer)}
        for header in HEADERS:
            seen[header] = self.normal(header, sent.get(header))
        return seen

    def normal(self, header, value):
        if value is None:
            return None
        if header == "Last-Modified":
            return "a date"  # from the ETag; otherwise it would not be compared, because seconds are too coarse
        if header in ("Allow", "Cache-Control"):
            return ", ".join(sorted(word.strip() for word in value.split(",")))
        if header == "Content-Type":
            return value.split(";")[0]
        if header == "Next-Page":
            return urllib.parse.unquote(re.sub(r"_token=.*", "_token=…", value))
        return re.sub(r"\d{13}", lambda m: str(self.named(int(m[0]))), value)

    def named(self, value):
        """The value with its times replaced by the names of the steps that made them."""
        if isinstance(value, dict):
            return {key: self.named(v) for key, v in value.items()}
        if isinstance(value, list):
            return [self.named(v) for v in value]
        if isinstance(value, int) and value in self.names:
            return "time of " + self.names[value]
        if isinstance(value, int) and 1_600_000_000_000 < value < 4_000_000_000_000:
            return "another time"
        return value


def differences(a, b, path=""):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for n, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f"{path}.{n}")
    elif a != b:
        yield path, a, b


def expected(name, path):
    for index, (what, where, _) in enumerate(DIFFERENCES):
        if where in name and any(path == word or path.startswith(word + ".") for word in what.split("|")):
            return index
    return None


def kinto(port):
    """A real Kinto in a thread of this process, in memory."""
    import kinto as package
    import waitress

    backends = {f"kinto.{n}_backend": f"kinto.core.{n}.memory" for n in ("storage", "cache", "permission")}
    settings = {f"kinto.{name}": value for name, value in SETTINGS.items()}
    settings |= backends | {
        "kinto.includes": "kinto_changes",
        "kinto.userid_hmac_secret": "s3cret",
        "multiauth.policies": "basicauth",
    }
    app = package.main({}, **settings)
    threading.Thread(target=waitress.serve, args=(app,), kwargs={"host": "127.0.0.1", "port": port, "_quiet": True}, daemon=True).start()


def ours(program, port):
    variables = {"KINTO_" + re.sub(r"[.-]", "_", name).upper(): value for name, value in SETTINGS.items()}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KINTO_")} | variables
    environment |= {"PORT": str(port), "AWS_PORT": "0", "KINTO_USERID_HMAC_SECRET": "s3cret"}
    process = subprocess.Popen([program], env=environment, stdout=subprocess.PIPE, text=True)
    while not process.stdout.readline().startswith("listening on "):
        if process.poll() is not None:
            sys.exit("kinto-local did not start")
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return process


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on {port}")


def main():
    theirs_port, ours_port = free_port(), free_port()
    kinto(theirs_port)
    process = ours(sys.argv[1], ours_port)
    try:
        for port in (theirs_port, ours_port):
            wait_for(port)
        a, b = Server(theirs_port), Server(ours_port)
        occurred, unexpected, count = set(), 0, 0
        for step in steps():
            count += 1
            for path, x, y in differences(a.play(*step), b.play(*step)):
                known = expected(step[0], path)
                if known is None:
                    unexpected += 1
                    print(f"{step[0]}: {path}\n  kinto-changes: {json.dumps(x)}\n  ours:          {json.dumps(y)}")
                occurred.add(known)
        unused = [entry for n, entry in enumerate(DIFFERENCES) if n not in occurred]
        for what, where, why in unused:
            print(f"did not occur: {what} in {where} ({why})")
        print(f"{count} requests, {unexpected} unexpected differences, {len(DIFFERENCES) - len(unused)} kinds of meant ones")
        sys.exit(bool(unexpected or unused))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
