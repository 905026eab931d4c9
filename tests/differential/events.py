"""The events that a listener gets for each request: Kinto's in this process, ours by a webhook before the commit."""

import base64
import copy
import hashlib
import hmac
import json
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from kinto.core.listeners import ListenerBase
from request import USERID_HMAC_SECRET, list_of

# The secret that signs our events; `tests/it/clients.rs` sets it too.
SECRET = "the differential test's own secret"
# Seconds by which the clock of a server on this machine may differ from this process's.
FAR = 60

SETTINGS = {
    # The listener is this module.
    "kinto.event_listeners": "events",
    "kinto.includes": "kinto.plugins.default_bucket kinto.plugins.accounts",
    "kinto.default_bucket_hmac_secret": USERID_HMAC_SECRET,
    "kinto.account_create_principals": "system.Everyone",
    "multiauth.policies": "account basicauth",
    "multiauth.policy.account.use": "kinto.plugins.accounts.AccountsPolicy",
}


class Heard:
    """The events since the last call."""

    def __init__(self):
        self.events = []

    def take(self):
        taken, self.events = self.events, []
        return taken


KINTO = Heard()


def load_from_config(config, prefix):
    return Listener()


class Listener(ListenerBase):
    def __call__(self, event):
        # A copy: Kinto changes some of it later.
        payload, impacted = copy.deepcopy((event.payload, event.impacted_objects))
        uris = [f"{list_of(payload['uri'])}/{objects['new'].get('id')}" for objects in impacted]
        KINTO.events.append({"payload": payload, "impacted": impacted, "uris": uris})


class Webhook(Heard):
    """Gets our events in the form of Kinto's. If it refuses a wrong event, the request is refused."""

    def __init__(self, port):
        super().__init__()
        self.ids = set()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                problem = webhook.hear(self.headers, body)
                self.send_response(400 if problem else 204)
                self.end_headers()
                if problem:
                    print(f"webhook: {problem}: {body.decode()}", flush=True)

            def log_message(self, *_):
                pass

        Thread(target=ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever, daemon=True).start()

    def hear(self, headers, body):
        id, seconds = headers["webhook-id"], headers["webhook-timestamp"]
        signature = hmac.digest(SECRET.encode(), f"{id}.{seconds}.".encode() + body, hashlib.sha256)
        if headers["webhook-signature"] != "v1," + base64.b64encode(signature).decode():
            return "wrong signature"
        payload = json.loads(body)
        if payload.pop("id") != id or id in self.ids:
            return "wrong id"
        self.ids.add(id)
        date = datetime.fromisoformat(payload.pop("date"))
        if abs((datetime.now(UTC) - date).total_seconds()) > FAR:
            return "wrong date"
        impacted, uris = payload.pop("impacted_records"), payload.pop("impacted_uris")
        self.events.append({"payload": payload, "impacted": impacted, "uris": uris})
        return None
