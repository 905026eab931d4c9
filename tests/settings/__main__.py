"""Gives real Kinto and the local stack the same kinto.ini, and compares what clients see of its settings.

    target/venv/bin/python tests/settings [NAME…]

Both servers read each file in tests/settings/*.ini. Its first line states the expected result: `# compared`, or
`# refused: WORDS`. Then the local stack must not start and must say these words; Kinto may start. A line `# differs: PROBE: WHY`
excludes a probe, or several (`monitor*`), and gives the reason. `%(provider)s` in a file stands for an OpenID provider of the test, and
`%(megaphone)s` for a Megaphone. At the end, for each `# told: PATH KEY`, the Megaphone must have been told the time of the latest change,
and nothing else. This is not compared: kinto-changes 4 no longer makes the events, so the real kinto-megaphone starts with the same
file but tells nothing.

The file that `kinto init` of this installation writes is also compared, under the name `generated`.
"""

import functools
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from fnmatch import fnmatchcase
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import kinto.core.initialization  # noqa: F401
import kinto.core.storage.memory  # noqa: F401
from pyramid.paster import get_app
from webob import Request as WebRequest

# What a password's hash costs is in no answer.
bcrypt.gensalt = functools.partial(bcrypt.gensalt, 4)

HERE = Path(__file__).parent
WORKSPACE = HERE.parent.parent
BINARY = Path(os.environ.get("KINTO_LOCAL", WORKSPACE / "target/debug/kinto-local"))
ADMIN = {"Authorization": "Basic YWRtaW46cGFzc3dvcmQ="}
JSON = {"Content-Type": "application/json"}

MONITOR = "/v1/buckets/monitor/collections/changes"

# The requests, in this order: name, method, path, headers, body.
PROBES = [
    ("hello", "GET", "/v1/", {}, None),
    ("version redirect", "GET", "/buckets", {}, None),
    ("slash redirect", "GET", "/v1/buckets/", {}, None),
    ("account", "PUT", "/v1/accounts/admin", JSON, {"data": {"password": "password"}}),
    ("account of another", "PUT", "/v1/accounts/other", JSON, {"data": {"password": "password"}}),
    ("accounts of all", "GET", "/v1/accounts", ADMIN, None),
    ("hello of a user", "GET", "/v1/", ADMIN, None),
    ("anonymous bucket", "PUT", "/v1/buckets/open", JSON, {}),
    ("bucket", "PUT", "/v1/buckets/blog", JSON | ADMIN, {"permissions": {"read": ["system.Everyone"]}}),
    ("collection", "PUT", "/v1/buckets/blog/collections/article", JSON | ADMIN, {}),
    ("other collection", "PUT", "/v1/buckets/blog/collections/other", JSON | ADMIN, {}),
    *[(f"record {n}", "PUT", f"/v1/buckets/blog/collections/article/records/r{n}", JSON | ADMIN, {}) for n in range(4)],
    ("page", "GET", "/v1/buckets/blog/collections/article/records", ADMIN, None),
    ("anonymous page", "GET", "/v1/buckets/blog/collections/article/records", {}, None),
    ("anonymous page elsewhere", "GET", "/v1/buckets/blog/collections/other/records", {}, None),
    ("anonymous record", "GET", "/v1/buckets/blog/collections/article/records/r0", {}, None),
    ("anonymous bucket read", "GET", "/v1/buckets/blog", {}, None),
    ("anonymous collection", "GET", "/v1/buckets/blog/collections/article", {}, None),
    ("preflight", "OPTIONS", "/v1/buckets", {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}, None),
    ("cors", "GET", "/v1/", {"Origin": "https://app.example"}, None),
    ("cors elsewhere", "GET", "/v1/", {"Origin": "https://evil.example"}, None),
    ("batch of 3", "POST", "/v1/batch", JSON | ADMIN, {"requests": [{"path": "/buckets/blog"}] * 3}),
    ("batch of 26", "POST", "/v1/batch", JSON | ADMIN, {"requests": [{"path": "/buckets/blog"}] * 26}),
    ("post on buckets", "POST", "/v1/buckets", JSON | ADMIN, {"data": {"id": "posted"}}),
    ("delete of a record", "DELETE", "/v1/buckets/blog/collections/article/records/r1", ADMIN, None),
    ("history", "GET", "/v1/buckets/blog/history", ADMIN, None),
    ("history of all", "GET", "/v1/buckets/blog/history", {}, None),
    ("snapshot", "GET", "/v1/buckets/blog/snapshot/collections/article@5", ADMIN, None),
    ("buckets of all", "GET", "/v1/buckets", ADMIN, None),
    ("permissions", "GET", "/v1/permissions?_fields=uri", ADMIN, None),
    ("default bucket", "GET", "/v1/buckets/default", ADMIN, None),
    ("record elsewhere", "PUT", "/v1/buckets/blog/collections/other/records/r", JSON | ADMIN, {}),
    ("monitor", "GET", f"{MONITOR}/records", {}, None),
    ("monitor of one", "GET", f"{MONITOR}/records?bucket=blog&collection=article", {}, None),
    ("monitor of a state", "GET", f"{MONITOR}/records?_expected={{record elsewhere}}", {}, None),
    ("monitor since long ago", "GET", f"{MONITOR}/records?_since=%2242%22", {}, None),
    ("monitor changeset", "GET", f"{MONITOR}/changeset?_expected=0", {}, None),
    ("monitor changeset of a state", "GET", f"{MONITOR}/changeset?_expected={{record elsewhere}}", {}, None),
    ("monitor changeset since long ago", "GET", f"{MONITOR}/changeset?_expected=5&_since=%2242%22", {}, None),
    ("page again", "GET", "/v1/buckets/blog/collections/article/records", {}, None),
    ("changeset", "GET", "/v1/buckets/blog/collections/article/changeset?_expected=0", {}, None),
    ("changeset of a state", "GET", "/v1/buckets/blog/collections/article/changeset?_expected={page again}", {}, None),
    ("changeset of a user", "GET", "/v1/buckets/blog/collections/article/changeset?_expected={page again}", ADMIN, None),
    ("changeset elsewhere", "GET", "/v1/buckets/blog/collections/other/changeset?_expected=0", {}, None),
    ("broadcasts", "GET", "/v1/__broadcasts__", {}, None),
    ("flush", "POST", "/v1/__flush__", ADMIN, None),
]
# The stream updates these a moment after the write, and Megaphone is told after that.
EVENTUAL, PATIENCE = ("monitor", "broadcasts"), 10
HEADERS = ["location", "cache-control", "backoff", "retry-after", "alert", "access-control-allow-origin",
           "access-control-max-age", "total-records", "total-objects"]
# The parts of the hello view that depend on settings.
HELLO = ["project_name", "project_docs", "settings", "eos", "user", "capabilities"]


def seen(probe, from_elsewhere, host, status, headers, body):
    """The parts of an answer that depend on settings."""
    # Here a redirect names a host only if it leads to another host (docs/decisions/019-caches.md).
    hosts = f"^(http://{re.escape(host)}|https://kinto.example)(?=/)"
    headers = {name.lower(): re.sub(hosts, "", value) for name, value in headers}
    kept = {name: headers[name] for name in HEADERS if name in headers}
    # Where nothing may be kept here, Kinto says nothing (tests/differential/justified.py).
    if "no-store" in kept.get("cache-control", ""):
        del kept["cache-control"]
    # Here every answer has it if all origins are allowed: one answer serves all origins.
    if not from_elsewhere:
        kept.pop("access-control-allow-origin", None)
    kept["next-page"] = "next-page" in headers
    result = {"status": status, "headers": kept}
    try:
        value = json.loads(body)
    except ValueError:
        return result
    if not isinstance(value, dict):
        return result
    if status >= 400:
        result["errno"] = value.get("errno")
    elif probe.startswith("hello"):
        result["hello"] = {name: value[name] for name in HELLO if name in value}
        if value["project_name"] == "kinto-serverless":
            result["hello"]["project_name"] = "kinto"
        capabilities = value["capabilities"]
        result["hello"]["capabilities"] = sorted(capabilities)
        result["hello"]["providers"] = capabilities.get("openid", {}).get("providers")
        result["hello"].get("user", {}).pop("principals", None)
    objects = value.get("data", value.get("changes"))
    if isinstance(objects, list):
        result["objects"] = len(objects)
        if probe.startswith("monitor"):
            result["changed"] = sorted(f"{one['host']}/{one['bucket']}/{one['collection']}" for one in objects)
    if isinstance(value.get("broadcasts"), dict):
        result["broadcasts"] = sorted(value["broadcasts"])
    return result


class Server:
    """One of the two servers."""

    # Its host, and the entity tag of its answer for each probe.
    host, tags = "localhost", {}

    def ask(self, probe, method, path, headers, body):
        path = re.sub(r"\{(.+?)\}", lambda name: self.tags.get(name[1], "1"), path)
        status, sent, answer = self.send(method, path, headers, body)
        tag = {name.lower(): value for name, value in sent}.get("etag", '"1"')
        self.tags = self.tags | {probe: tag.strip('"')}
        return seen(probe, "Origin" in headers, self.host, status, sent, answer)


class Kinto(Server):
    def __init__(self, ini):
        logging.disable(logging.CRITICAL)
        self.app = get_app(str(ini))

    def send(self, method, path, headers, body):
        request = WebRequest.blank(path, environ={"REMOTE_ADDR": "127.0.0.1"}, base_url=f"http://{self.host}",
                                   method=method, headers=headers)
        request.body = json.dumps(body).encode() if body is not None else b""
        answer = request.get_response(self.app)
        return answer.status_code, answer.headerlist, answer.body


class Local(Server):
    def __init__(self, ini):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KINTO_", "MULTIAUTH_"))}
        environment |= {"PORT": "0", "AWS_PORT": "0", "KINTO_ACCOUNT_HASH_COST": "10"}
        self.log = tempfile.TemporaryFile("w+")
        # The folder of Kinto Admin.
        self.process = subprocess.Popen([BINARY, "--ini", ini], cwd=WORKSPACE, env=environment, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)
        self.host = None
        for line in self.process.stdout:
            if line.startswith("listening on "):
                self.host = urlsplit(line.split()[-1]).netloc
                return
        self.process.wait()

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def send(self, method, path, headers, body):
        connection = HTTPConnection(self.host, timeout=30)
        connection.request(method, path, body=json.dumps(body) if body is not None else None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def stop(self):
        self.process.terminate()
        self.process.wait()


class FarSide(BaseHTTPRequestHandler):
    """An OpenID provider that describes itself, and a Megaphone for each server that remembers the last broadcast."""

    url = None
    told: dict = {}

    def do_PUT(self):
        side, path = re.fullmatch(r"/(\w+)(/.*)", self.path).groups()
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.told.setdefault(side, {})[path] = (self.headers["Authorization"], body)
        self.send_response(201)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_GET(self):
        url = f"http://{self.headers['Host']}"
        names = ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"]
        body = json.dumps({"issuer": url, **{name: f"{url}/{name}" for name in names}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def served(ini, directory, side):
    """The file for a server, with the URLs of the services that it names."""
    text = ini.read_text()
    if not re.search(r"%\((provider|megaphone)\)s", text):
        return ini
    if not FarSide.url:
        server = ThreadingHTTPServer(("127.0.0.1", 0), FarSide)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        FarSide.url = f"http://127.0.0.1:{server.server_port}"
    ini = Path(directory) / f"{side}-{ini.name}"
    ini.write_text(text.replace("%(provider)s", FarSide.url).replace("%(megaphone)s", f"{FarSide.url}/{side}"))
    return ini


def generated(directory):
    """The file that `kinto init` writes."""
    ini = Path(directory) / "kinto.ini"
    command = [Path(sys.executable).with_name("kinto"), "init", "--ini", ini, "--backend", "memory", "--cache-backend", "memory"]
    subprocess.run(command, check=True, capture_output=True)
    return ini


def compare(ini, directory):
    """The differences between the two servers with this file."""
    text = ini.read_text()
    local = Local(served(ini, directory, "Local"))
    try:
        if refusal := re.match(r"# refused: (.*)", text):
            said = local.said()
            if local.host is not None:
                return ["started, and was to refuse"]
            return [] if refusal[1] in said else [f"said {said!r}"]
        if local.host is None:
            return [f"did not start: {local.said()}"]
        differs = dict(re.findall(r"^# differs: ([^:]+): (.*)$", text, re.MULTILINE))
        kinto = Kinto(served(ini, directory, "Kinto"))
        found = []

        meant = set()
        for probe in PROBES:
            name = probe[0]
            expected = [pattern for pattern in differs if fnmatchcase(name, pattern)]
            theirs, ours = kinto.ask(*probe), local.ask(*probe)
            deadline = time.monotonic() + PATIENCE
            while theirs != ours and not expected and name.startswith(EVENTUAL) and time.monotonic() < deadline:
                time.sleep(0.05)
                ours = local.ask(*probe)
            if theirs != ours:
                meant.update(expected)
                if not expected:
                    found.append(f"{name}:\n    Kinto: {json.dumps(theirs)}\n    here:  {json.dumps(ours)}")
            if name == "broadcasts":
                tell = [path_and_key.split() for path_and_key in re.findall(r"^# told: (.*)$", text, re.MULTILINE)]
                latest = f'"{local.tags["record elsewhere"]}"'
                expected = {path: (f"Bearer {key}", latest) for path, key in tell}
                deadline = time.monotonic() + PATIENCE
                while FarSide.told.get("Local", {}) != expected and time.monotonic() < deadline:
                    time.sleep(0.05)
                if (heard := FarSide.told.get("Local", {})) != expected:
                    found.append(f"Megaphone was told {heard}, and not {expected}")
        return found + [f"{pattern} does not differ" for pattern in sorted(differs.keys() - meant)]
    finally:
        if local.host is not None:
            local.stop()


def main():
    names = sys.argv[1:] or ["generated", *sorted(file.stem for file in HERE.glob("*.ini"))]
    failed = sum(not compared_apart(name) for name in names)
    print(f"{len(names) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


def compared_apart(name):
    """Compares both servers in a separate process, because Kinto keeps settings of CORS in its modules. Returns True if they agree."""
    # A fork has Kinto's modules already. To import them again would take longer than the comparison.
    child = os.fork()
    if child == 0:
        is_same = False
        try:
            is_same = compared(name)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(not is_same)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def compared(name):
    """Compares both servers with one file and prints the differences. Returns True if there are none."""
    with tempfile.TemporaryDirectory() as directory:
        ini = generated(directory) if name == "generated" else HERE / f"{name}.ini"
        found = compare(ini, directory)
    print(f"{name}: {'differs' if found else 'the same'}")
    for difference in found:
        print(f"  {difference}")
    return not found


main()
