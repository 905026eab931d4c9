"""Moves a real Kinto on PostgreSQL into the local stack, and compares the answers before and after.

    python tests/moving KINTO_SERVERLESS KINTO_LOCAL [--sequences 40] [--seed SEED] [--kills 10] [--all]

The random sequences of tests/differential fill Kinto. Then each user who sent requests, and a client without credentials, gets every
present or former object, list and history: first from Kinto, then from the stack after the import. They get a sample, or everything with
`--all`, by several processes at once. The verifier must find each of the damages of `damages.py`, and with `--all` the answers must show
them too. An import that is killed and started again must have the same result.
"""

import argparse
import fcntl
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from contextlib import ExitStack, suppress

from sides import (
    HOST, Stack, ask, compare, differences, fill, fill_accounts, look, publishing, questions, questions_of_history, run, send, with_heads
)

from crowd import Crowd
from damages import DAMAGES
from postgres import Postgres
from servers import Kinto

def records(server, query=""):
    answer = send(server, "GET", f"/buckets/b/collections/c/records{query}", "alice")
    assert answer.status == 200, answer.body
    times = {record["id"]: record.pop("last_modified") for record in answer.body["data"]}
    return {record["id"]: record for record in answer.body["data"]}, times, int(answer.headers["etag"].strip('"'))


def restore(program, local, directory):
    """A table that was written to is restored only with `--overwrite`, and clients hear of it if times are raised."""
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
    warned = run(program, "import", export, "--data", overwritten, "--overwrite")
    assert re.search("WARNING: [1-9] lists.* the first /buckets", warned), warned
    assert "WARNING" not in run(program, "import", export, "--data", overwritten), "warned of nothing"
    # A list's timestamp never goes back, and `verify` says that it is later.
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
    shown = on_terminal(program, "import", export, "--data", f"{directory}/slow.db", "--write-capacity", str(units // 2))
    # Does not wait for the last writes.
    assert time.monotonic() - start > 1.5, "faster than the capacity"
    assert re.search(r"[1-9]\d*/\d+ objects, [\d.]+/s, \d+s left; [1-9]\d* items written with [1-9]\d* write capacity units", shown), shown
    run(program, "verify", export, "--data", f"{directory}/slow.db")


def on_terminal(*command):
    """The output of a command on a terminal."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=its)
    os.close(its)
    shown = b""
    # On Linux it ends with an error.
    with suppress(OSError):
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("local")
    parser.add_argument("--sequences", type=int, default=30)
    parser.add_argument("--seed", default="build")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--all", action="store_true", help="every user asks for everything, not a sample")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    begin = time.monotonic()

    def step(text):
        print(f"{time.monotonic() - begin:6.1f} s: {text}", flush=True)

    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        postgres = stack.enter_context(Postgres(directory))
        url = postgres.url("kinto")
        kinto = Kinto(HOST, publishing(url))
        for backend in kinto.backends:
            backend.initialize_schema()
        runs = fill(kinto, arguments.sequences, arguments.seed)
        fill_accounts(kinto, 6)
        chances = (1, 1, 1) if arguments.all else (0.05, 0.1, 0.1)
        asked = [*questions(postgres, runs, chances[0]), *questions_of_history(postgres, runs, chances[1])]
        asked = list(dict.fromkeys(with_heads(asked, chances[2])))
        look(kinto, postgres)
        crowd = stack.enter_context(Crowd()) if arguments.all else None

        def answers_of_kinto():
            return crowd.answers(url, asked) if crowd else {question: ask(kinto, question) for question in asked}

        def compare_with(server):
            return list(crowd.differences(f"http://{server.host}", answers)) if crowd else compare(answers, server)

        step(f"Kinto is filled; {len(asked)} questions")
        answers = answers_of_kinto()
        count = sum(1 for answer in answers.values() if answer[0] == 200)
        of_history = [question for question in answers if "/history" in question[1] or "/snapshot" in question[1]]
        told_of_history = sum(1 for question in of_history if answers[question][0] == 200)
        step(f"{count} with an answer; {len(of_history)} and {told_of_history} of histories")
        assert told_of_history > 50

        data = f"{directory}/table.db"
        step(run(arguments.program, "import", url, "--data", data, "--dry-run").strip())
        step(run(arguments.program, "import", url, "--data", data, "--leave-out").strip())
        again = run(arguments.program, "import", url, "--data", data, "--leave-out")
        assert " 0 items written" in again, again
        run(arguments.program, "verify", url, "--data", data)
        with Stack(arguments.local, data) as server:
            findings = compare_with(server)
        for finding in findings[:10]:
            print(finding)
        step(f"{len(findings)} differences")
        if findings:
            sys.exit(1)

        # Tests the comparisons themselves: a copy is equal, and a damaged copy is not.
        def answers_differ(near):
            copy = Kinto(HOST, publishing(postgres.url("damaged")))
            # Asks about the damaged objects first, to find a difference soon.
            ordered = sorted(answers.items(), key=lambda answer: -len(os.path.commonprefix([answer[0][1], near])))
            return next(differences(dict(ordered), copy), None)

        postgres.dump("kinto", "damaged")
        run(arguments.program, "verify", postgres.url("damaged"), "--data", data)
        if arguments.all:
            found = next(crowd.differences(postgres.url("damaged"), answers), None)
            assert found is None, f"a copy differs: {found}"
            step("a copy is equal")
        missed = []
        for name, statement in DAMAGES:
            postgres.copy("kinto", "damaged")
            near = postgres.damage(statement, "damaged")
            if near is None:
                missed.append(f"{name}: nothing to damage")
                continue
            done = subprocess.run(
                [arguments.program, "verify", postgres.url("damaged"), "--data", data], capture_output=True, text=True
            )
            if done.returncode != 1:
                missed.append(f"{name}: {done.returncode}\n{done.stdout}{done.stderr}")
            if arguments.all and answers_differ(near) is None:
                missed.append(f"{name}: no answer differs")
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
        look(kinto, postgres)
        answers = answers_of_kinto()
        step(run(arguments.program, "import", url, "--data", killed, "--leave-out").strip())
        with Stack(arguments.local, killed) as server:
            findings = [finding for finding in compare_with(server) if "/records" not in finding and "/snapshot" not in finding]
        for finding in findings[:10]:
            print(finding)
        step(f"caught up, {len(findings)} differences")
        if findings:
            sys.exit(1)


if __name__ == "__main__":
    main()
