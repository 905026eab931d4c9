"""Moves a real Kinto on PostgreSQL into the local stack, and compares every answer before with that after.

    python tests/moving KINTO_SERVERLESS KINTO_LOCAL [--sequences 40] [--seed SEED] [--kills 10]

Kinto is filled by the random sequences of tests/differential. Then each user who sent requests, and nobody, gets every
object and list that there is or was, from Kinto first and from the stack after the import. The verifier has to find
each of the damages of `damages.py`, and an import that is killed and begun again has to come to the same.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "differential"))

from comparison import Comparison
from damages import DAMAGES
from generator import Generator
from postgres import Postgres
from request import Context, Request, Sent, authorization
from servers import Kinto, Server

SETTINGS = {
    "kinto.includes": "kinto.plugins.default_bucket kinto.plugins.accounts",
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
    "PORT": "0",
}
HOST = "127.0.0.1:8888"
HEADERS = ["ETag", "Last-Modified", "Total-Records", "Total-Objects"]


def fill(kinto, sequences, seed):
    """Sends the sequences; the names of the runs."""
    runs = []
    for number in range(sequences):
        run = f"{seed}{number}"
        comparison = Comparison({})
        context = Context(0, run, int(time.time() * 1000), comparison.times, comparison.made)
        generator = Generator(random.Random(run), writes=number % 2 == 1)
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


def send(server, method, url, user, body=None):
    headers = {"Content-Type": "application/json"} if body else {}
    if user:
        headers["Authorization"] = authorization(user)
    return server.send(Sent(method, f"/v1{url}", headers, json.dumps(body).encode() if body else b""))


def questions(postgres, runs, chance):
    """Who asks for what."""
    rows = postgres.rows("SELECT resource_name, parent_id, id, (extract(epoch FROM last_modified) * 1000)::bigint FROM objects")
    # The lists that Kinto never looked at have no time there.
    parents, objects, times = {"/buckets", "/accounts"}, set(), {}
    for kind, parent, name, time_of in rows:
        if kind == "account":
            objects.add(f"/accounts/{name}")
            continue
        uri = f"{parent}/{kind}s/{name}"
        if "a" * 256 in uri:
            # Longer than our ids may be: left out, and said so.
            continue
        objects.add(uri)
        times.setdefault(f"{parent}/{kind}s", set()).add(int(time_of))
        parents.add(f"{parent}/{kind}s")
        if kind == "bucket":
            parents |= {f"{uri}/groups", f"{uri}/collections"}
        if kind == "collection":
            parents.add(f"{uri}/records")
    accounts = [f"account{number}" for number in range(6)]
    users = [None, *accounts, *(f"{name}-{run}" for run in runs for name in ("alice", "bob"))]
    for user in users:
        for url in sorted(objects | parents):
            # Of others' objects a sample.
            is_own = user is not None and (user.rsplit("-", 1)[-1] in url or user in url)
            if is_own or random.random() < chance:
                yield user, url
                if url in parents:
                    some = sorted(times.get(url, {1}))
                    at = random.choice(some)
                    yield user, f"{url}?_since={at}"
                    yield user, f"{url}?_before={at}&_limit=2"


def told(answer):
    """What of an answer has to be the same."""
    if answer.status >= 400:
        # Under what is not there a user may be told so, or that they may not.
        return [answer.status]
    headers = {name.lower(): value for name, value in answer.headers.items()}
    shown = {name: headers.get(name.lower()) for name in HEADERS}
    return [answer.status, shown, json.dumps(comparable(answer.body), sort_keys=True)]


def comparable(body):
    """The body with numbers in one form, principals in one order, and without the hash that Kinto shows of a password."""
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
    """Whether a difference is one that tests/differential justifies too."""
    # Kinto gives each account its own list with a time of its own; ours is one.
    return url.startswith("/accounts") and before[0] == after[0] and ("?" in url or url == "/accounts")


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
    findings = []
    for (user, url), before in answers.items():
        after = told(send(server, "GET", url, user))
        if before != after and not is_meant(url, before, after):
            findings.append(f"{user} GET {url}\n  Kinto: {before}\n  ours:  {after}")
    return findings


def records(server, query=""):
    answer = send(server, "GET", f"/buckets/b/collections/c/records{query}", "alice")
    assert answer.status == 200, answer.body
    times = {record["id"]: record.pop("last_modified") for record in answer.body["data"]}
    return {record["id"]: record for record in answer.body["data"]}, times, int(answer.headers["etag"].strip('"'))


def restore(program, local, directory):
    """A table that was written to is only restored when told so, and clients hear of it where times are raised."""
    data, overwritten, export = f"{directory}/used.db", f"{directory}/overwritten.db", f"{directory}/used.ndjson"
    with Stack(local, data) as server:
        send(server, "PUT", "/buckets/b", "alice")
        send(server, "PUT", "/buckets/b/collections/c", "alice")
        for number in range(60):
            send(server, "PUT", f"/buckets/b/collections/c/records/r{number}", "alice", {"data": {"text": "x" * 3000}})
        send(server, "DELETE", "/buckets/b/collections/c/records/r9", "alice")
        saved = records(server)
    run(program, "export", export, "--data", data)
    with Stack(local, data) as server:
        send(server, "PUT", "/buckets/b/collections/c/records/r0", "alice", {"data": {"text": "changed"}})
        send(server, "DELETE", "/buckets/b/collections/c/records/r1", "alice")
        send(server, "PUT", "/buckets/b/collections/c/records/new", "alice", {"data": {}})
        used = records(server)

    refused = subprocess.run([program, "import", export, "--data", data], capture_output=True, text=True)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr, refused
    with Stack(local, data) as server:
        assert records(server) == used, "a refused import wrote"

    shutil.copy(data, overwritten)
    run(program, "import", export, "--data", overwritten, "--overwrite")
    # A list's timestamp never goes back, and verify says that it is later.
    differs = re.findall("differs: (.*)", run(program, "verify", export, "--data", overwritten, expected=1))
    assert differs == ["timestamp of a list: 1, the first /buckets/b/collections/c/records"], differs
    with Stack(local, overwritten) as server:
        assert records(server)[:2] == saved[:2], "not what was saved"

    run(program, "import", export, "--data", data, "--raise-timestamps")
    with Stack(local, data) as server:
        assert records(server)[0] == saved[0], "not what was saved"
        heard, times, reached = records(server, f"?_since={used[2]}")
        gone = {name for name, record in heard.items() if record.get("deleted")}
        assert {"new"} <= gone <= {"new", "r9"}, gone
        assert heard.keys() - gone == saved[0].keys(), "a client misses something"
        assert len(set(times.values())) == len(times) and used[2] < min(times.values()), times
        assert reached >= max(times.values())

    units = int(re.search(r"with (\d+) write capacity units", run(program, "import", export, "--data", f"{directory}/fast.db"))[1])
    start = time.monotonic()
    run(program, "import", export, "--data", f"{directory}/slow.db", "--write-capacity", str(units // 2))
    # The last of the writes are not waited for.
    assert time.monotonic() - start > 1.5, "faster than the capacity"
    run(program, "verify", export, "--data", f"{directory}/slow.db")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("local")
    parser.add_argument("--sequences", type=int, default=30)
    parser.add_argument("--seed", default="build")
    parser.add_argument("--kills", type=int, default=10)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    begin = time.monotonic()

    def step(text):
        print(f"{time.monotonic() - begin:6.1f} s: {text}", flush=True)

    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        url = postgres.url("kinto")
        storage = {
            "kinto.storage_backend": "kinto.core.storage.postgresql",
            "kinto.storage_url": url,
            "kinto.permission_backend": "kinto.core.permission.postgresql",
            "kinto.permission_url": url,
        }
        kinto = Kinto(HOST, {**SETTINGS, **storage})
        for backend in kinto.backends:
            backend.initialize_schema()
        runs = fill(kinto, arguments.sequences, arguments.seed)
        fill_accounts(kinto, 6)
        asked = list(questions(postgres, runs, 0.05))
        # The first look at a list gives it a time.
        for question in asked:
            send(kinto, "GET", question[1], question[0])
        answers = {question: told(send(kinto, "GET", question[1], question[0])) for question in asked}
        count = sum(1 for answer in answers.values() if answer[0] == 200)
        step(f"Kinto is filled; {len(answers)} questions, {count} with an answer")

        data = f"{directory}/table.db"
        step(run(arguments.program, "import", url, "--data", data, "--dry-run").strip())
        step(run(arguments.program, "import", url, "--data", data, "--leave-out").strip())
        again = run(arguments.program, "import", url, "--data", data, "--leave-out")
        assert " 0 items written" in again, again
        run(arguments.program, "verify", url, "--data", data)
        with Stack(arguments.local, data) as server:
            findings = compare(answers, server)
        for finding in findings[:10]:
            print(finding)
        step(f"{len(findings)} differences")
        if findings:
            sys.exit(1)

        missed = []
        for name, statement in DAMAGES:
            postgres.copy("kinto", "damaged")
            if not postgres.execute(statement, "damaged"):
                missed.append(f"{name}: nothing to damage")
                continue
            done = subprocess.run(
                [arguments.program, "verify", postgres.url("damaged"), "--data", data], capture_output=True, text=True
            )
            if done.returncode != 1:
                missed.append(f"{name}: {done.returncode}\n{done.stdout}{done.stderr}")
        step(f"{len(DAMAGES)} damages, {len(missed)} missed")
        if missed:
            print("\n".join(missed))
            sys.exit(1)

        killed = f"{directory}/killed.db"
        start = time.monotonic()
        run(arguments.program, "import", url, "--data", f"{directory}/time.db", "--leave-out")
        length = time.monotonic() - start
        for _ in range(arguments.kills):
            process = subprocess.Popen(
                [arguments.program, "import", url, "--data", killed, "--leave-out"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(random.random() * length)
            process.kill()
            process.wait()
        run(arguments.program, "import", url, "--data", killed, "--leave-out")
        run(arguments.program, "verify", url, "--data", killed)
        step(f"killed {arguments.kills} times")

        export, again = f"{directory}/export.ndjson", f"{directory}/again.db"
        run(arguments.program, "export", export, "--data", data)
        run(arguments.program, "import", export, "--data", again)
        run(arguments.program, "verify", url, "--data", again)
        step("exported and imported")
        restore(arguments.program, arguments.local, directory)
        step("restored")

        fill(kinto, 4, f"{arguments.seed}later")
        postgres.execute("DELETE FROM objects WHERE deleted AND resource_name = 'record'", "kinto")
        for question in asked:
            send(kinto, "GET", question[1], question[0])
        answers = {question: told(send(kinto, "GET", question[1], question[0])) for question in asked}
        step(run(arguments.program, "import", url, "--data", killed, "--leave-out").strip())
        with Stack(arguments.local, killed) as server:
            findings = [finding for finding in compare(answers, server) if "/records" not in finding]
        for finding in findings[:10]:
            print(finding)
        step(f"caught up, {len(findings)} differences")
        if findings:
            sys.exit(1)


if __name__ == "__main__":
    main()
