"""Moves a real Kinto into the local stack only by its API, and by kinto-wizard's YAML.

    python tests/moving/api.py KINTO_SERVERLESS KINTO_LOCAL [--sequences 8] [--seed SEED]

A user who may write everything reads everything. After the move, every answer to the other users must be the same, except for
tombstones of lists that are shared in part, which the API does not show. The API does not show the readers of a history's entry
either, but the import must derive the readers that PostgreSQL has. A second read takes only changes; a killed read continues.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sides import HOST, Served, Stack, ask, check, compare, fill, fill_accounts, look, publishing, questions, questions_of_history, run, send

from postgres import Postgres
from servers import Kinto

ADMIN = "account:account0"
# Lets the administrator write every object, as if its creator had granted that. No entry of a history has this, so it is undone while Kinto writes.
GRANT = f"""
CREATE TABLE IF NOT EXISTS granted AS SELECT * FROM access_control_entries WHERE false;
WITH new AS (
    INSERT INTO access_control_entries (object_id, permission, principal)
        SELECT CASE resource_name WHEN 'account' THEN '/accounts/' || id ELSE parent_id || '/' || resource_name || 's/' || id END,
            'write', '{ADMIN}' FROM objects WHERE NOT deleted ON CONFLICT DO NOTHING RETURNING *)
    INSERT INTO granted SELECT * FROM new"""
TAKE_BACK = """
DELETE FROM access_control_entries USING granted WHERE ROW(access_control_entries.*) = ROW(granted.*);
DELETE FROM granted"""
GRANTS = {f"kinto.{kind}_write_principals": ADMIN for kind in ("bucket", "group", "collection", "record", "account")}


def answers_of(kinto, postgres, runs):
    # Nobody sees objects of deleted parents, and settings decide what the administrator sees.
    asked = [*questions(postgres, runs, 0.03), *questions_of_history(postgres, runs, 0.05)]
    look(kinto, postgres)
    return {question: ask(kinto, question) for question in asked if question[0] != "account0"}


def check_readers(program, postgres, data):
    """Every entry of a history has the readers that PostgreSQL has."""
    verified = subprocess.run([program, "verify", postgres.url("kinto"), "--data", data], capture_output=True, text=True)
    assert verified.returncode in (0, 1), verified
    differing = re.findall("differs: .*entr(?:y|ies) of .*", verified.stdout)
    assert not differing, verified.stdout
    assert re.search("[1-9][0-9]* entries of histories", verified.stdout), verified.stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("local")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--seed", default="api")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    begin = time.monotonic()

    def step(text):
        print(f"{time.monotonic() - begin:6.1f} s: {text}", flush=True)

    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        settings = {**publishing(postgres.url("kinto")), **GRANTS}
        kinto = Kinto(HOST, settings)
        for backend in kinto.backends:
            backend.initialize_schema()
        runs = fill(kinto, arguments.sequences, arguments.seed)
        fill_accounts(kinto, 6)
        postgres.execute(GRANT, "kinto")
        answers = answers_of(kinto, postgres, runs)
        step(f"Kinto is filled; {len(answers)} questions, {sum(1 for a in answers.values() if a[0] == 200)} with an answer")

        with Served(kinto) as served:
            source = served.url.replace("://", "://account0:secret@")
            data, work = f"{directory}/table.db", f"{directory}/work"
            import_ = [arguments.program, "import", source, "--data", data, "--work", work]
            run(*import_, "--dry-run", "--leave-out")
            for _ in range(4):
                process = subprocess.Popen([*import_, "--leave-out"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(random.random() * 2)
                process.kill()
                process.wait()
            said = run(*import_, "--leave-out")
            step(said.strip())
            assert "API does not show everything" in said
            assert "not shown" not in said, said
            assert " 0 items written" in run(*import_, "--leave-out")
            run(arguments.program, "verify", source, "--data", data)
            check_readers(arguments.program, postgres, data)
            with Stack(arguments.local, data) as server:
                check(step, "moved", compare(answers, server))

            postgres.execute(TAKE_BACK, "kinto")
            more = fill(kinto, 4, f"{arguments.seed}later")
            send(kinto, "DELETE", "/buckets/of-account1/collections/c", "account1")
            send(kinto, "PUT", "/buckets/of-account1/collections/c", "account1")
            send(kinto, "PUT", "/buckets/of-account1/collections/c/records/again", "account1")
            send(kinto, "PATCH", "/buckets/of-account2/collections/c/records/r1", "account2", {"permissions": {"read": ["mallory"]}})
            send(kinto, "DELETE", "/buckets/of-account2/collections/c/records/r2", "account2")
            # Deleted entries, and a history that begins again.
            send(kinto, "DELETE", "/buckets/of-account1/history?resource_name=group", "account1")
            send(kinto, "DELETE", "/buckets/of-account3", "account3")
            send(kinto, "PUT", "/buckets/of-account3", "account3", {"permissions": {"read": ["system.Everyone"]}})
            postgres.execute(GRANT, "kinto")
            differing = run(arguments.program, "verify", source, "--data", data, expected=1)
            for kind in ("entry of a history that is missing", "entry of a history that the source lacks"):
                assert f"differs: {kind}: " in differing, differing
            answers = answers_of(kinto, postgres, runs + more)
            step(run(*import_, "--leave-out").strip())
            check_readers(arguments.program, postgres, data)
            with Stack(arguments.local, data) as server:
                check(step, "caught up", compare(answers, server))

            empty = f"{directory}/anonymous.db"
            other = subprocess.run([arguments.program, "import", served.url, "--data", empty], capture_output=True, text=True)
            assert "may not be read" in other.stderr if other.returncode else "not readable" in other.stdout, other
            refused = subprocess.run([arguments.program, "import", served.url, "--data", data, "--work", work], capture_output=True, text=True)
            assert refused.returncode == 2 and "other" in refused.stderr, refused
            wrong = subprocess.run([arguments.program, "import", served.url[:-3] + "/v0", "--data", data], capture_output=True, text=True)
            assert wrong.returncode == 2, wrong

            # kinto-wizard expects `members`, which a JSON Patch can remove.
            members = """UPDATE objects SET data = data || '{"members": []}' WHERE resource_name = 'group' AND NOT data ? 'members' AND NOT deleted"""
            postgres.execute(members, "kinto")
            from_yaml(arguments, step, served, kinto, directory)


def from_yaml(arguments, step, served, kinto, directory):
    """The import reads a dump as kinto-wizard loads it."""
    file, data = f"{directory}/dump.yaml", f"{directory}/yaml.db"
    odd = {"texts": ["yes", "null", "1_000", "0o17", "1e3", "2026-11-26", "12:30:45", " x ", "a: b #c", "é\u2028\U0001f600", "\t\n\nx\n", "-", "~", "<<", "=", "x" * 300],
           "numbers": [0, -1, 1.5, 1e16, 1e-7, 123456789012345678], "others": [None, True, False, [], {}, [[{}]]], "yes": 1, "": 2}
    send(kinto, "PUT", "/buckets/of-account1/collections/c/records/odd", "account1", {"data": odd})
    wizard = Path(sys.executable).with_name("kinto-wizard")
    # The same as `--full`, without the download of attachments, which needs Python 3.12.
    full = [f"--{part}" for part in ("data", "permissions", "buckets", "collections", "groups", "records")]
    command = [wizard, "dump", "--server", served.url, "--auth", "account0:secret", *full]
    with open(file, "w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    said = run(arguments.program, "import", file, "--data", data, "--leave-out")
    step(said.strip())
    assert "does not have everything" in said and re.search("no permissions in the file: record: [1-9]", said), said
    assert " 0 items written" in run(arguments.program, "import", file, "--data", data, "--leave-out")
    differing = []
    with Stack(arguments.local, data) as server:
        send(server, "PUT", "/accounts/account0", None, {"data": {"password": "secret"}})
        lists, count = ["/buckets"], 0
        while lists:
            url = lists.pop()
            # A setting lets Kinto's administrator see more buckets.
            before, after = ({o["id"]: o for o in send(side, "GET", url, "account0").body["data"]} for side in (kinto, server))
            count += len(before)
            # Ids that this server does not allow.
            long = {name for name in before if len(name) > 255}
            for name in (before.keys() | after.keys()) - long:
                if json.dumps(before.get(name), sort_keys=True) != json.dumps(after.get(name), sort_keys=True):
                    differing.append(f"{url}/{name}\n  {before.get(name)}\n  {after.get(name)}")
                if url == "/buckets":
                    lists += [f"{url}/{name}/groups", f"{url}/{name}/collections"]
                elif url.endswith("/collections"):
                    lists.append(f"{url}/{name}/records")
    check(step, f"{count} objects by YAML", differing)


if __name__ == "__main__":
    main()
