"""Shared by the tests of moving: filling a Kinto, the questions for both sides, and the comparison of the answers."""

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent.parent / "differential"))

import transaction
import waitress
from comparison import Comparison
from generator import Generator
from request import Context, Sent, authorization
from servers import Server

SETTINGS = {
    "kinto.includes": "kinto.plugins.default_bucket kinto.plugins.accounts kinto.plugins.history",
    "kinto.default_bucket_hmac_secret": "local",
    "kinto.account_create_principals": "system.Everyone",
    "multiauth.policies": "account basicauth",
    "multiauth.policy.account.use": "kinto.plugins.accounts.authentication.AccountsAuthenticationPolicy",
    "multiauth.policy.basicauth.use": "kinto.core.authentication.BasicAuthAuthenticationPolicy",
    "kinto.cache_backend": "kinto.core.cache.memory",
}
VARIABLES = {
    "KINTO_INCLUDES": SETTINGS["kinto.includes"],
    "KINTO_DEFAULT_BUCKET_HMAC_SECRET": "local",
    "KINTO_ACCOUNT_CREATE_PRINCIPALS": "system.Everyone",
    "KINTO_MULTIAUTH_POLICIES": "account basicauth",
    "KINTO_MULTIAUTH_POLICY_ACCOUNT_USE": "kinto.plugins.accounts.AccountsPolicy",
    "KINTO_EXPERIMENTAL_COLLECTION_SCHEMA_VALIDATION": "true",
    "KINTO_ACCOUNT_HASH_COST": "10",
    "PORT": "0",
}
if importlib.util.find_spec("kinto_changes"):
    CHANGESETS = {"kinto.includes": f"{SETTINGS['kinto.includes']} kinto_changes", "kinto.changes.resources": "/buckets/none"}
else:
    CHANGESETS = {}
HOST = "127.0.0.1:8888"
HEADERS = ["ETag", "Last-Modified", "Total-Records", "Total-Objects"]


def storage(url):
    """The settings of a Kinto on PostgreSQL."""
    return {
        "kinto.storage_backend": "kinto.core.storage.postgresql",
        "kinto.storage_url": url,
        "kinto.permission_backend": "kinto.core.permission.postgresql",
        "kinto.permission_url": url,
    }


def publishing(url):
    """The settings of a Kinto on PostgreSQL. It publishes the changesets that `questions` ask for, if kinto-changes is installed."""
    return {**SETTINGS, **CHANGESETS, **storage(url)}


def fill(kinto, sequences, seed):
    """Sends the sequences. Returns the names of the runs."""
    runs = []
    for number in range(sequences):
        run = f"{seed}{number}"
        comparison = Comparison({})
        context = Context(0, run, int(time.time() * 1000), comparison.times, comparison.made)
        generator = Generator(random.Random(run), writes=number % 3 == 1, history=number % 3 == 2)
        for request in generator.sequence():
            sent = context.send(request)
            if sent is None:
                continue
            time.sleep(0.002)
            answer = kinto.send(sent)
            path = context.resolve(request.path) if not request.follows else sent.url.split("/", 3)[3]
            list(comparison.compare("/" + path.lstrip("/"), answer, answer))
            context.next_page = answer.headers.get("next-page", context.next_page)
        runs.append(run)
    return runs


def fill_accounts(kinto, count):
    for number in range(count):
        name = f"account{number}"
        body = {"data": {"password": "secret", "n": number}}
        send(kinto, "PUT", f"/accounts/{name}", None, body)
        send(kinto, "PUT", f"/buckets/of-{name}", name, {"permissions": {"read": ["system.Authenticated"]}})
        send(kinto, "PUT", "/buckets/default/collections/c", name)
        send(kinto, "PUT", f"/buckets/default/collections/c/records/r", name, {"data": {"x": 0.1 + number / 7}})
        members = [f"account:account{other}" for other in range(number)]
        for group in ("g", "h"):
            send(kinto, "PUT", f"/buckets/of-{name}/groups/{group}", name, {"data": {"members": members}})
        shared = {"permissions": {"read": [f"/buckets/of-{name}/groups/g"], "record:create": ["system.Authenticated"]}}
        send(kinto, "PUT", f"/buckets/of-{name}/collections/c", name, shared)
        for record in range(12):
            permissions = {"read": [f"account:account{record}"], "write": ["/buckets/of-account1/groups/h"]}
            url = f"/buckets/of-{name}/collections/c/records/r{record}"
            send(kinto, "PUT", url, name, {"data": {"n": record * 1e15 / 7}, "permissions": permissions})
        send(kinto, "DELETE", f"/buckets/of-{name}/collections/c/records/r3", name)
        send(kinto, "DELETE", f"/buckets/of-{name}/groups/h", name if number % 2 else None)
        if number % 3 == 2:
            send(kinto, "DELETE", f"/accounts/{name}", name)
    send(kinto, "DELETE", "/buckets/of-account4", "account4")


def look(kinto, postgres):
    """Looks at every list. In Kinto the first look gives a list its time."""
    lists = {("", "bucket")}
    for kind, parent, name in postgres.rows("SELECT resource_name, parent_id, id FROM objects WHERE resource_name IN ('bucket', 'collection')"):
        uri = f"{parent}/{kind}s/{name}"
        lists |= {(uri, "record")} if kind == "collection" else {(uri, "group"), (uri, "collection"), (uri, "history")}
    with transaction.manager:
        for parent, kind in sorted(lists):
            kinto.app.registry.storage.resource_timestamp(kind, parent)


def send(server, method, url, user, body=None):
    headers = {"Content-Type": "application/json"} if body else {}
    if user:
        headers["Authorization"] = authorization(user)
    return server.send(Sent(method, f"/v1{url}", headers, json.dumps(body).encode() if body else b""))


def questions(postgres, runs, chance):
    """Which users ask for which objects and lists."""
    rows = postgres.rows("SELECT resource_name, parent_id, id, (extract(epoch FROM last_modified) * 1000)::bigint FROM objects")
    # In Kinto, lists that nobody looked at have no time.
    parents, objects, times = {"/buckets", "/accounts"}, set(), {}
    for kind, parent, name, time_of in rows:
        if kind == "account":
            objects.add(f"/accounts/{name}")
            continue
        uri = f"{parent}/{kind}s/{name}"
        if "a" * 256 in uri:
            # Longer than this server's ids may be: left out and reported.
            continue
        objects.add(uri)
        times.setdefault(f"{parent}/{kind}s", set()).add(int(time_of))
        parents.add(f"{parent}/{kind}s")
        if kind == "bucket":
            parents |= {f"{uri}/groups", f"{uri}/collections"}
        if kind == "collection":
            parents.add(f"{uri}/records")
    for user in users_of(runs):
        for url in sorted(objects | parents):
            # A sample of the objects of others.
            if is_own(user, url) or random.random() < chance:
                yield user, url
                if url in parents:
                    some = sorted(times.get(url, {1}))
                    at = random.choice(some)
                    yield user, f"{url}?_since={at}"
                    yield user, f"{url}?_before={at}&_limit=2"
                    if url.endswith("/records") and CHANGESETS:
                        changeset = url.replace("/records", "/changeset?_expected=0")
                        yield user, changeset
                        yield user, f"{changeset}&_since=%22{at}%22"


def users_of(runs):
    accounts = [f"account{number}" for number in range(6)]
    return [None, *accounts, *(f"{name}-{run}" for run in runs for name in ("alice", "bob"))]


def is_own(user, url):
    return user is not None and (user.rsplit("-", 1)[-1] in url or user in url)


def questions_of_history(postgres, runs, chance):
    """Which users ask for which histories, and for which snapshots of collections."""
    rows = postgres.rows(
        """SELECT parent_id, (extract(epoch FROM last_modified) * 1000)::bigint, data->>'uri', data->>'action', data->>'collection_id',
            data->'target'->'data'->>'last_modified', data->>'user_id' FROM objects WHERE resource_name = 'history' ORDER BY 1, 2"""
    )
    buckets = {}
    for bucket, *entry in rows:
        buckets.setdefault(bucket, []).append(entry)
    for user in users_of(runs):
        for bucket, entries in buckets.items():
            if "a" * 256 in bucket or not (is_own(user, bucket) or random.random() < chance):
                continue
            url = f"{bucket}/history"
            one, other = random.choice(entries), random.choice(entries)
            yield user, url
            for query in (
                f"_since={one[0]}", f"_before={one[0]}&_limit=3", f"_since={min(one[0], other[0])}&_before={max(one[0], other[0])}",
                f"_sort=last_modified&_limit=5", f"uri={quote(one[1] or '')}", f"action={one[2]}&user_id={quote(one[5] or '')}",
                f"target.data.last_modified={one[4]}", "resource_name=record&_fields=uri,action", f"gt_target.data.last_modified={other[4]}",
            ):
                yield user, f"{url}?{query}"
            collections = sorted({entry[3] for entry in entries if entry[3]})
            for collection in random.sample(collections, min(4, len(collections))):
                times = [int(entry[4]) for entry in entries if entry[3] == collection and entry[4]]
                for at in random.sample(times, min(4, len(times))):
                    yield user, f"{bucket}/snapshot/collections/{collection}@{at + random.choice([-1, 0, 0, 1])}"


def with_heads(asked, chance):
    """The questions, and `HEAD` for some of them, fewer of those with a query."""
    for question in asked:
        yield question
        if random.random() < (min(chance, 0.1) if "?" in question[1] else chance):
            yield *question, "HEAD"


def ask(server, question):
    user, url, *method = question
    answer = send(server, *(method or ["GET"]), url, user)
    if "/changeset?" in url and answer.status == 200:
        # tests/differential/changes.py justifies these: ours has these headers, and names the bucket.
        answer.headers.clear()
        if isinstance(answer.body, dict):
            answer.body["metadata"].pop("bucket", None)
    return told(answer)


def told(answer):
    """The part of an answer that must be the same."""
    if answer.status >= 400:
        # Below a missing object a user may be answered either 404 or 403.
        return [answer.status]
    headers = {name.lower(): value for name, value in answer.headers.items()}
    shown = {name: headers.get(name.lower()) for name in HEADERS}
    return [answer.status, shown, json.dumps(comparable(answer.body), sort_keys=True)]


def comparable(body):
    """The body with numbers in one form, principals in one order, and without the password hash that Kinto shows."""
    match body:
        case bool() | None | str():
            return body
        case int() | float():
            return float(body)
        case list():
            return [comparable(item) for item in body]
        case dict():
            shown = {name: comparable(item) for name, item in body.items() if name != "password"}
            if isinstance(shown.get("permissions"), dict):
                granted = shown["permissions"].items()
                shown["permissions"] = {name: sorted(principals) for name, principals in granted}
            return shown
    return str(body)


def is_meant(url, before, after):
    """Returns True if tests/differential also justifies the difference."""
    if re.search("/history($|[?])", url):
        if before[0] == after[0] == 200:
            # Our history has only the times of its entries, and not of the last 40 seconds (docs/decisions/024-history.md).
            shown = [{name: headers[name] for name in headers if not re.match("ETag|Last-Modified", name)} for headers in (before[1], after[1])]
            return before[2] == after[2] and shown[0] == shown[1] and int(before[1]["ETag"].strip('"')) >= int(after[1]["ETag"].strip('"'))
        # As there: a user who could once read an entry is not refused a request with times. A HEAD has no body.
        return before[0] in (401, 403) and after[0] == 200 and json.loads(after[2]) in ({"data": []}, None) and re.search("_since|_before", url)
    if "/changeset?" in url and before[0] == after[0] == 200:
        # kinto-changes takes the time of the latest present record or tombstone, and so goes back when tombstones are purged. Ours
        # stays, like the list's ETag on both sides.
        shown = [json.loads(answer[2]) for answer in (before, after)]
        times = [changeset.pop("timestamp") for changeset in shown]
        return shown[0] == shown[1] and times[0] < times[1]
    # Kinto gives each account its own list with its own time; here all accounts are one list.
    return url.startswith("/accounts") and before[0] == after[0] and ("?" in url or url == "/accounts")


class Served:
    """A Kinto behind a port of loopback."""

    def __init__(self, kinto):
        self.server = waitress.create_server(kinto.app, host="127.0.0.1", port=0, threads=4)
        threading.Thread(target=self.server.run, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.effective_port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.close()


class Stack:
    def __init__(self, program, data):
        environment = {**os.environ, **VARIABLES}
        self.process = subprocess.Popen([program, "--data", data], env=environment, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            found = re.match(r"listening on (http://\S+)/v1/", line)
            if found:
                self.url = found[1]
                return
        raise SystemExit("the local stack did not start")

    def __enter__(self):
        return Server(self.url)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def run(*command, expected=0):
    done = subprocess.run(command, capture_output=True, text=True)
    if expected is not None and done.returncode != expected:
        raise SystemExit(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def compare(answers, server):
    return list(differences(answers, server))


def differences(answers, server):
    for question, before in answers.items():
        after = ask(server, question)
        if before != after and not is_meant(question[1], before, after):
            yield f"{question}\n  Kinto: {before}\n  ours:  {after}"


def check(step, what, findings):
    for finding in findings[:10]:
        print(finding)
    step(f"{what}: {len(findings)} differences")
    if findings:
        sys.exit(1)
