"""The two servers: real Kinto in this process, and the one at a URL over one connection."""

import functools
import http.client
import logging
from urllib.parse import urlsplit

import bcrypt
import kinto
from comparison import Answer
from request import USERID_HMAC_SECRET
from webob import Request as WebRequest

# Kinto logs its own failures; here only the answers matter.
logging.disable(logging.CRITICAL)
# What a password's hash costs is in no answer.
bcrypt.gensalt = functools.partial(bcrypt.gensalt, 4)

SETTINGS = {
    "kinto.userid_hmac_secret": USERID_HMAC_SECRET,
    "kinto.storage_backend": "kinto.core.storage.memory",
    "kinto.cache_backend": "kinto.core.cache.memory",
    "kinto.permission_backend": "kinto.core.permission.memory",
    "multiauth.policies": "basicauth",
    "kinto.experimental_permissions_endpoint": "true",
    "kinto.experimental_collection_schema_validation": "true",
}


class Kinto:
    """Kinto with its memory backends. They are emptied between runs, because they never forget a parent."""

    def __init__(self, host, settings=None, heard=None):
        self.host = host
        self.heard = heard
        self.app = kinto.main({}, **SETTINGS | (settings or {}))
        self.backends = [self.app.registry.storage, self.app.registry.permission, self.app.registry.cache]

    def send(self, sent):
        environment = {"REMOTE_ADDR": "127.0.0.1"}
        request = WebRequest.blank(
            sent.url, environ=environment, base_url=f"http://{self.host}", method=sent.method, headers=sent.headers
        )
        request.body = sent.body
        response = request.get_response(self.app)
        content = b"" if sent.method == "HEAD" else response.body
        return Answer.read(response.status_code, response.headerlist, content, self.heard)

    def flush(self):
        for backend in self.backends:
            backend.flush()


class Server:
    """The server at `http://host:port/`."""

    def __init__(self, url, heard=None):
        self.heard = heard
        self.host = urlsplit(url).netloc
        self.connection = http.client.HTTPConnection(self.host, timeout=60)

    def send(self, sent):
        url = sent.url.removeprefix(f"http://{self.host}")
        self.connection.request(sent.method, url, body=sent.body or None, headers=sent.headers)
        response = self.connection.getresponse()
        return Answer.read(response.status, response.getheaders(), response.read(), self.heard)

    def flush(self):
        """Runs do not interact: each has its own buckets and users."""
