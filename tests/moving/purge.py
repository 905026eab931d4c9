"""Compares `kinto-serverless purge-deleted` with Kinto's own command. Both remove the same tombstones. The answers are the same except for the ETags
of Kinto's lists, which go back when their latest tombstone is removed.

    python tests/moving/purge.py KINTO_SERVERLESS KINTO_LOCAL
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sides import HOST, SETTINGS, Stack, check, compare, run, send, storage, told

from postgres import Postgres
from servers import Kinto

USER = "account1"
LISTS = [
    "/buckets",
    *(f"/buckets/b{b}/{kind}" for b in range(2) for kind in ("groups", "collections")),
    *(f"/buckets/b{b}/collections/c{c}/records" for b in range(2) for c in range(2)),
]
# One after the other, on the same data.
PURGES = [["record", "5"], ["record", "group", "2"], ["collection", "1"], ["record", "bucket", "group", "collection", "0"]]


def put_and_delete(kinto, url):
    for method in ("PUT", "DELETE"):
        answer = send(kinto, method, url, USER)
        assert answer.status < 300, (url, answer)
        # No two tombstones of a list have the same time: it is not specified which of them is kept.
        time.sleep(0.002)


def fill(kinto):
    """Tombstones of each kind. No id occurs twice."""
    send(kinto, "PUT", "/accounts/account1", None, {"data": {"password": "secret"}})
    for b in range(2):
        bucket = f"/buckets/b{b}"
        send(kinto, "PUT", bucket, USER)
        put_and_delete(kinto, f"/buckets/gone{b}")
        for n in range(4):
            put_and_delete(kinto, f"{bucket}/groups/g{b}{n}")
            put_and_delete(kinto, f"{bucket}/collections/gone{b}{n}")
        for c in range(2):
            collection = f"{bucket}/collections/c{c}"
            send(kinto, "PUT", collection, USER)
            for n in range(8):
                put_and_delete(kinto, f"{collection}/records/r{b}{c}{n}")
            send(kinto, "PUT", f"{collection}/records/live{b}{c}", USER)


def main():
    program, local = sys.argv[1:3]
    begin = time.monotonic()

    def step(text):
        print(f"{time.monotonic() - begin:6.1f} s: {text}", flush=True)

    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        settings = {**SETTINGS, **storage(postgres.url("kinto"))}
        ini = Path(directory) / "kinto.ini"
        lines = [f"{key} = {value}" for key, value in settings.items()]
        ini.write_text("\n".join(["[app:main]", "use = egg:kinto", *lines]))
        kinto = Kinto(HOST, settings)
        for backend in kinto.backends:
            backend.initialize_schema()
        fill(kinto)
        questions = [(USER, f"{url}{query}") for url in LISTS for query in ("", "?_since=0")]
        for user, url in questions:
            send(kinto, "GET", url, user)
        data, headers = f"{directory}/table.db", {}
        run(program, "import", postgres.url("kinto"), "--data", data)
        step("filled, and moved")

        def purge_theirs(arguments):
            command = [Path(sys.executable).with_name("kinto"), "purge-deleted", "--ini", ini, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
            assert done.returncode == 0, done.stderr
            return int(re.search(r"(\d+) tombstone\(s\) deleted", done.stderr)[1])

        def purge_ours(arguments, *more):
            said = run(program, "purge-deleted", *arguments, "--data", data, *more)
            return sum(int(count) for count in re.findall(r": (\d+) tombstones", said))

        def compared(what):
            answers = {question: told(send(kinto, "GET", question[1], question[0])) for question in questions}
            for question, answer in answers.items():
                # Kinto's list goes back in time with its latest tombstone; ours never does.
                answer[1] = headers.setdefault(question, answer[1])
            with Stack(local, data) as server:
                check(step, what, compare(answers, server))

        compared("before")
        for arguments in PURGES:
            dry = purge_ours(arguments, "--dry-run")
            theirs, ours = purge_theirs(arguments), purge_ours(arguments)
            assert dry == theirs == ours > 0, (arguments, dry, theirs, ours)
            assert purge_ours(arguments) == 0
            compared(f"{' '.join(arguments)}, {ours} removed")

        # On PostgreSQL Kinto removes rows by their ids alone: a live record with the id of a purged tombstone is removed too.
        twin, there = "/buckets/b0/collections/c0/records/twin", "/buckets/b1/collections/c0/records/twin"
        put_and_delete(kinto, twin)
        send(kinto, "PUT", there, USER)
        data = f"{directory}/twins.db"
        run(program, "import", postgres.url("kinto"), "--data", data)
        purge_theirs(["record", "0"])
        assert send(kinto, "GET", there, USER).status == 404, "Kinto has mended it: say so in decision 28"
        assert purge_ours(["record", "0"]) == 1
        with Stack(local, data) as server:
            assert send(server, "GET", there, USER).status == 200
        step("what lives stays")


if __name__ == "__main__":
    main()
