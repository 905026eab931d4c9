"""The same kinto.ini for real Kinto and for the local stack: what a client sees of its settings, side by side.

    target/venv/bin/python tests/settings [NAME…]

Each file in tests/settings/*.ini is one that both read. Its first line says what is to become of it: `# compared`, or
`# refused: WORDS`, where the local stack must not start and say these words (Kinto may). A line `# differs: PROBE: WHY`
takes a probe out, with its reason. `%(provider)s` in a file stands for an OpenID provider that the test serves.

Besides, the file that `kinto init` of this installation writes is compared: `generated`.
"""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from webob import Request as WebRequest

HERE = Path(__file__).parent
WORKSPACE = HERE.parent.parent
BINARY = Path(os.environ.get("KINTO_LOCAL", WORKSPACE / "target/debug/kinto-local"))
ADMIN = {"Authorization": "Basic YWRtaW46cGFzc3dvcmQ="}
JSON = {"Content-Type": "application/json"}

# What is asked, in this order: name, method, path, headers, body.
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
    ("flush", "POST", "/v1/__flush__", ADMIN, None),
    ("monitor", "GET", "/v1/buckets/monitor/collections/changes/records", {}, None),
    ("changeset", "GET", "/v1/buckets/blog/collections/article/changeset?_expected=0", {}, None),
    ("broadcasts", "GET", "/v1/__broadcasts__", {}, None),
]
HEADERS = ["location", "cache-control", "backoff", "retry-after", "alert", "access-control-allow-origin",
           "access-control-max-age", "total-records", "total-objects"]
# Of the hello view: what depends on settings.
HELLO = ["project_name", "project_docs", "settings", "eos", "user", "capabilities"]


def seen(probe, from_elsewhere, host, status, headers, body):
    """What of an answer depends on settings."""
    headers = {name.lower(): value.replace(f"http://{host}", "") for name, value in headers}
    kept = {name: headers[name] for name in HEADERS if name in headers}
    # Kinto says nothing of keeping where here nothing may be kept (tests/differential/justified.py).
    if "no-store" in kept.get("cache-control", ""):
        del kept["cache-control"]
    # Every answer has it here where anybody may ask: one answer serves all origins.
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
    elif isinstance(value.get("data"), list):
        result["objects"] = len(value["data"])
    return result


class Kinto:
    def __init__(self, ini):
        from pyramid.paster import get_app

        logging.disable(logging.CRITICAL)
        self.host = "localhost"
        self.app = get_app(str(ini))

    def ask(self, probe, method, path, headers, body):
        request = WebRequest.blank(path, environ={"REMOTE_ADDR": "127.0.0.1"}, base_url=f"http://{self.host}",
                                   method=method, headers=headers)
        request.body = json.dumps(body).encode() if body is not None else b""
        answer = request.get_response(self.app)
        return seen(probe, "Origin" in headers, self.host, answer.status_code, answer.headerlist, answer.body)


class Local:
    def __init__(self, ini):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KINTO_", "MULTIAUTH_"))}
        environment |= {"PORT": "0", "AWS_PORT": "0"}
        self.log = tempfile.TemporaryFile("w+")
        # Where it finds Kinto Admin.
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

    def ask(self, probe, method, path, headers, body):
        connection = HTTPConnection(self.host, timeout=30)
        connection.request(method, path, body=json.dumps(body) if body is not None else None, headers=headers)
        answer = connection.getresponse()
        return seen(probe, "Origin" in headers, self.host, answer.status, answer.getheaders(), answer.read())

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Provider(BaseHTTPRequestHandler):
    """An OpenID provider: what it says of itself."""

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


def served(ini, directory):
    """The file, with the URL of a provider in its place where it names one."""
    text = ini.read_text()
    if "%(provider)s" not in text:
        return ini
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ini = Path(directory) / ini.name
    ini.write_text(text.replace("%(provider)s", f"http://127.0.0.1:{server.server_port}"))
    return ini


def generated(directory):
    """The file that `kinto init` writes."""
    ini = Path(directory) / "kinto.ini"
    command = [Path(sys.executable).with_name("kinto"), "init", "--ini", ini, "--backend", "memory", "--cache-backend", "memory"]
    subprocess.run(command, check=True, capture_output=True)
    return ini


def compare(ini):
    """The differences that both servers show with the file."""
    text = ini.read_text()
    local = Local(ini)
    try:
        if refusal := re.match(r"# refused: (.*)", text):
            said = local.said()
            if local.host is not None:
                return ["started, and was to refuse"]
            return [] if refusal[1] in said else [f"said {said!r}"]
        if local.host is None:
            return [f"did not start: {local.said()}"]
        differs = dict(re.findall(r"^# differs: ([^:]+): (.*)$", text, re.MULTILINE))
        kinto = Kinto(ini)
        found = []
        for probe in PROBES:
            theirs, ours = kinto.ask(*probe), local.ask(*probe)
            if theirs != ours and probe[0] not in differs:
                found.append(f"{probe[0]}:\n    Kinto: {json.dumps(theirs)}\n    here:  {json.dumps(ours)}")
            if theirs == ours and probe[0] in differs:
                found.append(f"{probe[0]} does not differ")
        return found
    finally:
        if local.host is not None:
            local.stop()


def main():
    names = sys.argv[1:] or ["generated", *sorted(file.stem for file in HERE.glob("*.ini"))]
    if len(names) > 1:
        # Each in a process of its own: Kinto keeps settings in its modules (those of CORS).
        failed = sum(subprocess.run([sys.executable, "-W", "ignore", HERE, name]).returncode != 0 for name in names)
        print(f"{len(names) - failed} passed, {failed} failed")
        sys.exit(bool(failed))
    with tempfile.TemporaryDirectory() as directory:
        is_there = names[0] != "generated"
        ini = served(HERE / f"{names[0]}.ini", directory) if is_there else generated(directory)
        found = compare(ini)
    print(f"{names[0]}: {'differs' if found else 'the same'}")
    for difference in found:
        print(f"  {difference}")
    sys.exit(bool(found))


main()
