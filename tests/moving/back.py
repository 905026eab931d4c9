"""Moves the contents of the local stack into a real Kinto: as tables of PostgreSQL, and by kinto-wizard.

    python tests/moving/back.py KINTO_SERVERLESS KINTO_LOCAL [--sequences 8] [--seed SEED]

The stack is filled as Kinto is in the other tests, partly on top of an imported Kinto. Then every answer of
the stack must be that of a Kinto whose tables were loaded from the export.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML
from sides import HOST, SETTINGS, Served, Stack, ask, check, comparable, compare, fill, fill_accounts, publishing, questions, run, send

from postgres import Postgres
from servers import Kinto

ADMINISTRATOR = "account:root"
# Objects that the answers show only to their creators.
GRANTS = {f"kinto.{kind}_write_principals": ADMINISTRATOR for kind in ("bucket", "group", "collection", "record", "account")}


def load(postgres, directory, database):
    done = subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", postgres.url(database), "--file", "load.sql"], cwd=directory, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def asked_of(server, asked):
    return {question: ask(server, question) for question in asked}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("local")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--seed", default="back")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    begin = time.monotonic()

    def step(text):
        print(f"{time.monotonic() - begin:6.1f} s: {text}", flush=True)

    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        kinto = Kinto(HOST, publishing(postgres.url("kinto")))
        for backend in kinto.backends:
            backend.initialize_schema()
        runs = fill(kinto, arguments.sequences // 2, arguments.seed)
        data, dump = f"{directory}/table.db", f"{directory}/dump"
        run(arguments.program, "import", postgres.url("kinto"), "--data", data, "--leave-out")
        with Stack(arguments.local, data) as server:
            runs += fill(server, arguments.sequences - arguments.sequences // 2, f"{arguments.seed}new")
            fill_accounts(server, 6)
            # Two objects with the same time, which Kinto's tables refuse.
            send(server, "PUT", "/buckets/times", "account0")
            send(server, "PUT", "/buckets/times/collections/c", "account0")
            for name in "ab":
                send(server, "PUT", f"/buckets/times/collections/c/records/{name}", "account0", {"data": {"last_modified": 1000}})
        said = run(arguments.program, "export", "--to-dump", dump, "--data", data)
        step(said.strip())
        # The old tables with their contents.
        load(postgres, dump, "kinto")
        # The difference that `verify` reports below is another.
        asked = [question for question in questions(postgres, runs, 0.05) if "/buckets/times/" not in question[1]]
        with Stack(arguments.local, data) as server:
            # On both sides, the first look gives a list its time.
            asked_of(server, asked)
        run(arguments.program, "export", "--to-dump", dump, "--data", data)
        load(postgres, dump, "kinto")
        verified = run(arguments.program, "verify", postgres.url("kinto"), "--data", data, expected=1)
        differs = re.findall("differs: (.*)", verified)
        assert differs == ["last_modified: 1, the first /buckets/times/collections/c/records/b"], verified
        with Stack(arguments.local, data) as server:
            answers = asked_of(server, asked)
        step(f"{len(answers)} questions, {sum(1 for a in answers.values() if a[0] == 200)} with an answer")
        check(step, "moved back", compare(answers, kinto))
        from_yaml(arguments, step, directory, data)


def from_yaml(arguments, step, directory, data):
    """The file for kinto-wizard has the data and permissions of all live objects."""
    file = f"{directory}/back.yaml"
    said = run(arguments.program, "export", file, "--data", data)
    assert re.search("left out: [1-9][0-9]* accounts, [1-9][0-9]* tombstones", said), said
    kinto = Kinto(HOST, {**SETTINGS, **GRANTS})
    send(kinto, "PUT", f"/accounts/{ADMINISTRATOR.removeprefix('account:')}", None, {"data": {"password": "secret"}})
    with Served(kinto) as served:
        wizard = Path(sys.executable).with_name("kinto-wizard")
        load = [wizard, "load", "--server", served.url, "--auth", "root:secret", "--force", "--full", file]
        done = subprocess.run(load, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    objects = list(walk(file))
    differing = []
    for uri, described in objects:
        shown = send(kinto, "GET", uri, "root")
        before = comparable(described)
        # The user who loads may write.
        before["permissions"]["write"] = sorted({*before["permissions"].get("write", []), ADMINISTRATOR})
        if shown.status != 200 or rounded(comparable(shown.body)) != rounded(before):
            differing.append(f"{uri}\n  {before}\n  {shown.status} {shown.body}")
    check(step, f"{len(objects)} objects by kinto-wizard", differing)


def rounded(body):
    """Numbers as Kinto reads them from a request: the last digit may differ."""
    return json.loads(json.dumps(body), parse_float=lambda digits: f"{float(digits):.15g}")


def walk(file):
    with open(file) as opened:
        tree = YAML(typ="safe").load(opened)
    open_objects = [("/buckets", tree["buckets"] or {})]
    while open_objects:
        url, objects = open_objects.pop()
        for name, described in objects.items():
            yield f"{url}/{name}", {"data": described["data"], "permissions": described["permissions"]}
            open_objects += [(f"{url}/{name}/{kind}", described[kind]) for kind in ("groups", "collections", "records") if kind in described]


if __name__ == "__main__":
    main()
