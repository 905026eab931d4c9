"""Compares two servers by their URLs: a copy is equal, and each change of it is found.

    python tests/moving/servers_by_url.py KINTO_SERVERLESS KINTO_LOCAL
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from sides import HOST, SETTINGS, Served, Stack, fill_accounts, run, send, storage

from postgres import Postgres
from servers import Kinto

COLLECTION = "/buckets/of-account1/collections/c"
# Each change is made by the object's creator. The text is what `verify` must report.
CHANGES = [
    ("PATCH", f"{COLLECTION}/records/r1", {"data": {"n": 5}}, ["data", "last_modified", "timestamp of a list", "changes of a changeset", "entry of a history that the source lacks"]),
    ("PATCH", f"{COLLECTION}/records/r1", {"permissions": {"read": ["mallory"]}}, ["permissions", "last_modified"]),
    ("DELETE", f"{COLLECTION}/records/r1", None, ["object that is deleted", "timestamp of a changeset"]),
    ("PUT", f"{COLLECTION}/records/new", {"data": {}}, ["object that the source lacks", "entry of the monitor"]),
    ("PATCH", COLLECTION, {"data": {"signature": {"signature": "x"}}}, ["data", "signature of a changeset"]),
    ("PATCH", COLLECTION, {"data": {"title": "x"}}, ["data", "metadata of a changeset"]),
    ("DELETE", COLLECTION, None, ["object that is deleted"]),
    ("PATCH", "/buckets/of-account1/groups/g", {"data": {"members": ["mallory"]}}, ["data"]),
    ("PUT", "/buckets/more", None, ["object that the source lacks"]),
    ("DELETE", "/buckets/of-account1/history?resource_name=group", None, ["entry of a history"]),
]


def verify(program, source, target, *more):
    done = subprocess.run([program, "verify", source, target, *more], capture_output=True, text=True)
    assert done.returncode in (0, 1), done
    found = re.findall("differs: ([^:(]*)", done.stdout)
    assert bool(found) == bool(done.returncode), done
    return found


def main():
    program, local = sys.argv[1:3]
    begin = time.monotonic()
    # The buckets whose collections the monitor shows.
    os.environ["KINTO_CHANGES_RESOURCES"] = " ".join(f"/buckets/of-account{n}" for n in range(6))

    def step(text):
        print(f"{time.monotonic() - begin:6.1f} s: {text}", flush=True)

    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        kinto = Kinto(HOST, {**SETTINGS, **storage(postgres.url("kinto"))})
        for backend in kinto.backends:
            backend.initialize_schema()
        fill_accounts(kinto, 6)
        # After the first look, a user sees the same timestamp of a list on both sides.
        data = f"{directory}/table.db"
        with Served(kinto) as served:
            url = served.url.replace("://", "://account1:secret@")
            run(program, "verify", url, url)
            run(program, "import", postgres.url("kinto"), "--data", data)
            with Stack(local, data) as server:
                target = f"http://account1:secret@{server.host}/v1"
                found = verify(program, url, target)
                # In Kinto each account has its own list.
                assert set(found) <= {"timestamp of a list"}, found
        step("a Kinto and its copy")

        missed = []
        with Stack(local, data) as one:
            source = f"http://account1:secret@{one.host}/v1"
            for number, (method, path, body, expected) in enumerate(CHANGES):
                copy = f"{directory}/copy{number}.db"
                shutil.copy(data, copy)
                with Stack(local, copy) as other:
                    target = f"http://account1:secret@{other.host}/v1"
                    if number == 0:
                        assert verify(program, source, target) == [], "a copy differs"
                    answer = send(other, method, path, "account1", body)
                    assert answer.status < 300, answer
                    found = verify(program, source, target)
                    if not set(expected) <= set(found):
                        missed.append(f"{method} {path}: {found}, not {expected}")
            os.environ["KINTO_USERID_HMAC_SECRET"] = "another"
            with Stack(local, copy) as other:
                found = verify(program, f"http://bob:secret@{one.host}/v1", f"http://bob:secret@{other.host}/v1")
                assert "user of these credentials" in found, found
        step(f"{len(CHANGES)} changes, {len(missed)} missed")
        if missed:
            print("\n".join(missed))
            sys.exit(1)


if __name__ == "__main__":
    main()
