"""The real signer, in this process, and ours, in another process."""

import base64
import contextlib
import functools
import hashlib
import hmac
import http.client
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

BINARY = Path(os.environ.get("KINTO_LOCAL", Path(__file__).parents[3] / "target/debug/kinto-local"))
USERS = ["alice", "bob", "carol", "dave"]
PLUGIN = "plugin:remote-settings"
SECRET = "local"
REVIEW, FREE = "work", "free"
TARGETS = {REVIEW: ["preview", "main"], FREE: ["open"]}
RESOURCES = f"/buckets/{REVIEW} -> /buckets/preview -> /buckets/main\n/buckets/{FREE} -> /buckets/open"
# Usual set-ups of the original exclude publications from the history.
EXCLUDED = "/buckets/preview /buckets/main /buckets/open"
INCLUDES = "kinto.plugins.flush kinto.plugins.history kinto_remote_settings"


@functools.cache
def authorization(user):
    return "Basic " + base64.b64encode(f"{user}:".encode()).decode()


@functools.cache
def user_id(user):
    return "basicauth:" + hmac.new(SECRET.encode(), f"{user}:".encode(), hashlib.sha256).hexdigest()


NAMES = {user_id(user): user for user in USERS}


def named(value):
    """The name of a user for its id, anything else unchanged."""
    return NAMES.get(value, value) if isinstance(value, str) else value


def with_ids(body):
    """The body with the ids of users in place of `@NAME`."""
    return re.sub(r"@(\w+)", lambda name: user_id(name[1]), json.dumps(body))


class Real:
    def __init__(self, url, key):
        # Silences the server's log and warnings.
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        sys.path.extend(os.environ["KINTO_REMOTE_SETTINGS"].split(os.pathsep))
        import kinto
        from webob import Request

        settings = {
            "kinto.userid_hmac_secret": SECRET,
            "kinto.storage_backend": "kinto.core.storage.postgresql",
            "kinto.storage_url": url,
            "kinto.permission_backend": "kinto.core.permission.postgresql",
            "kinto.permission_url": url,
            "kinto.cache_backend": "kinto.core.cache.memory",
            "multiauth.policies": "basicauth",
            "kinto.includes": INCLUDES,
            "kinto.history.exclude_resources": EXCLUDED,
            "kinto.signer.resources": RESOURCES,
            "kinto.signer.to_review_enabled": "true",
            f"signer.{FREE}.to_review_enabled": "false",
            "kinto.signer.ecdsa.private_key": key,
        }
        self.request = Request
        self.app = kinto.main({}, **settings)
        self.app.registry.storage.initialize_schema()
        self.app.registry.permission.initialize_schema()

    def send(self, method, path, user, body=None):
        headers = {"Content-Type": "application/json", "Authorization": authorization(user)}
        request = self.request.blank(f"/v1{path}", method=method, headers=headers)
        request.body = with_ids(body).encode() if body is not None else b""
        response = request.get_response(self.app)
        return response.status_code, json.loads(response.body or b"null")

    def read(self, paths):
        """The answers to these reads, in one batch, which is much faster."""
        requests = [{"path": path} for path in paths]
        _, content = self.send("POST", "/batch", "alice", {"defaults": {"method": "GET"}, "requests": requests})
        return [(response["status"], response["body"]) for response in content["responses"]]


class Ours:
    def __init__(self, url, spoil=None):
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.spoil = spoil
        # How many there were.
        self.answers = 0

    def send(self, method, path, user, body=None):
        headers = {"Content-Type": "application/json", "Authorization": authorization(user)}
        content = with_ids(body) if body is not None else None
        self.connection.request(method, f"/v1{path}", body=content, headers=headers)
        response = self.connection.getresponse()
        self.answers += 1
        answer = response.status, json.loads(response.read() or b"null")
        return self.spoil(method, path, answer) if self.spoil else answer

    def read(self, paths):
        return [self.send("GET", path, "alice") for path in paths]


@contextlib.contextmanager
def local_stack(key, options=()):
    """Runs a local stack that signs with the key in that file, and gives its URL. `tests/it/signer/walks.rs` has the same settings."""
    environment = {
        "PATH": os.environ["PATH"],
        "PORT": "0",
        "AWS_PORT": "0",
        "KINTO_USERID_HMAC_SECRET": SECRET,
        "MULTIAUTH_POLICIES": "basicauth",
        "KINTO_INCLUDES": INCLUDES,
        "KINTO_HISTORY_EXCLUDE_RESOURCES": EXCLUDED,
        "KINTO_SIGNER_RESOURCES": RESOURCES,
        "KINTO_SIGNER_TO_REVIEW_ENABLED": "true",
        f"KINTO_SIGNER_{FREE.upper()}_TO_REVIEW_ENABLED": "false",
        "KINTO_SIGNER_ECDSA_PRIVATE_KEY": key,
    }
    process = subprocess.Popen([BINARY, *options], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said = (line for line in process.stdout if line.startswith("listening on "))
        line = next(said, None)
        if line is None:
            raise SystemExit("the local stack did not start")
        port = re.search(r":(\d+)", line)[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
