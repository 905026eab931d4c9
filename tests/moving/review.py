"""Moves a server that has the signer of Remote Settings: statuses, and signatures that stay valid.

    KINTO_REMOTE_SETTINGS=DIRS python tests/moving/review.py KINTO_SERVERLESS KINTO_LOCAL [--collections 16] [--steps 12] [--seed S]

DIRS as for tests/signer/walks. Collections are edited, reviewed, rolled back and published at random on the real server. After the
move each object and changeset of the stack is the old server's, and each signature still verifies. Then the stack continues: it approves
collections under review, reviews edited ones, and signs new publications.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "signer/walks"))
os.environ["KINTO_LOCAL"] = sys.argv[2]

from comparing import new_key  # noqa: E402
from looking import verifies  # noqa: E402
from signers import FREE, REVIEW, TARGETS, USERS, Ours, Real, local_stack  # noqa: E402
from sides import comparable, run  # noqa: E402

from postgres import Postgres  # noqa: E402


def collections_of(arguments):
    for number in range(arguments.collections):
        yield random.choice([REVIEW, REVIEW, FREE]), f"c{number}"


def prepare(server, bucket, cid):
    source = f"/buckets/{bucket}/collections/{cid}"
    assert server.send("PUT", source, "alice", {})[0] in (200, 201)
    for group, users in {"editors": USERS, "reviewers": USERS}.items():
        members = {"data": {"members": [f"@{user}" for user in users]}}
        assert server.send("PATCH", f"/buckets/{bucket}/groups/{cid}-{group}", "alice", members)[0] == 200


def step(server, source):
    """Sends one random step to a collection. It may be refused."""
    user, record = random.choice(USERS), f"{source}/records/r{random.randrange(6)}"
    what = random.choices(["edit", "delete", "clear", "approve", "status"], [8, 2, 0.5, 5, 3])[0]
    if what == "edit":
        server.send("PUT", record, user, {"data": {"n": random.randrange(100), "t": "é\u2028"}})
    elif what == "delete":
        server.send("DELETE", record, user)
    elif what == "clear":
        server.send("DELETE", f"{source}/records", user)
    elif what == "approve":
        approve(server, source)
    else:
        status = random.choice(["to-review", "to-review", "to-resign", "to-rollback", "work-in-progress"])
        server.send("PATCH", source, user, {"data": {"status": status}})


def approve(server, source):
    for user, status in [("alice", "to-review"), ("bob", "to-sign"), ("alice", "to-sign")]:
        answer = server.send("PATCH", source, user, {"data": {"status": status}})
    return answer


def questions_of(bucket, cid):
    for of in (bucket, *TARGETS[bucket]):
        collection = f"/buckets/{of}/collections/{cid}"
        yield from (collection, f"{collection}/records", f"{collection}/changeset?_expected=0")


def told(answer):
    status, body = answer
    return [status, json.dumps(comparable(body), sort_keys=True) if status < 400 else None]


def check_signatures(public_key, server, targets):
    """The number of published changesets that verify. All must."""
    count = 0
    for target in targets:
        status, changeset = server.send("GET", f"{target}/changeset?_expected=0", "alice")
        if status == 200:
            assert verifies(public_key, changeset), f"{target} of {type(server).__name__}: {changeset}"
            count += 1
    return count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("local")
    parser.add_argument("--collections", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", default="review")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres, new_key() as (path, public_key):
        data, url = f"{directory}/table.db", postgres.url("kinto")
        real = Real(url, path)
        for bucket in (REVIEW, FREE):
            real.send("PUT", f"/buckets/{bucket}", "alice", {"permissions": {"write": [f"@{user}" for user in USERS]}})
        collections = list(collections_of(arguments))
        for bucket, cid in collections:
            prepare(real, bucket, cid)
            for _ in range(random.randrange(arguments.steps)):
                step(real, f"/buckets/{bucket}/collections/{cid}")
        asked = [question for of in collections for question in questions_of(*of)]
        for _ in range(2):
            answers = {question: told(real.send("GET", question, "alice")) for question in asked}
        targets = [f"/buckets/{of}/collections/{cid}" for bucket, cid in collections for of in TARGETS[bucket]]
        print(f"{check_signatures(public_key, real, targets)} signatures of the old server hold")

        print(run(arguments.program, "import", url, "--data", data).strip())
        run(arguments.program, "verify", url, "--data", data)
        with local_stack(path, ["--data", data]) as at:
            ours = Ours(at)
            differing = [
                f"{question}\n  {before}\n  {after}"
                for question, before in answers.items()
                if (after := told(ours.send("GET", question, "alice"))) != before
            ]
            print("\n".join(differing[:10]))
            assert not differing, f"{len(differing)} differ"
            print(f"{check_signatures(public_key, ours, targets)} of them hold after the move")

            statuses = {}
            for bucket, cid in collections:
                source = f"/buckets/{bucket}/collections/{cid}"
                status = ours.send("GET", source, "alice")[1]["data"].get("status")
                statuses[status] = statuses.get(status, 0) + 1
                if status == "to-review":
                    told_by = [ours.send("PATCH", source, user, {"data": {"status": "to-sign"}})[0] for user in USERS]
                    assert 200 in told_by, (source, told_by)
                elif status == "signed":
                    assert ours.send("PATCH", source, "alice", {"data": {"status": "to-resign"}})[0] == 200, source
                check_signatures(public_key, ours, [f"/buckets/{of}/collections/{cid}" for of in TARGETS[bucket]])
                before = ours.send("GET", f"{source}/records", "alice")[1]["data"]
                assert ours.send("PUT", f"{source}/records/new", "alice", {"data": {"n": 1}})[0] == 201
                approve(ours, source)
                shown = ours.send("GET", source, "alice")[1]["data"]
                assert shown["status"] == "signed", shown
                for of in TARGETS[bucket]:
                    target = f"/buckets/{of}/collections/{cid}"
                    changeset = ours.send("GET", f"{target}/changeset?_expected=0", "alice")[1]
                    assert {r["id"] for r in changeset["changes"]} == {"new", *(r["id"] for r in before)}, changeset
                    assert check_signatures(public_key, ours, [target]) == 1
            print(f"went on from {statuses}")
            assert {"work-in-progress", "to-review", "signed"} <= statuses.keys(), "give another seed or more collections"


if __name__ == "__main__":
    main()
