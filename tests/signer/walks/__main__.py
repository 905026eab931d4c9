"""Random walks over statuses, edits, batches and users: the real signer and ours give the same answers and publications.

    KINTO_REMOTE_SETTINGS=DIR target/venv/bin/python tests/signer/walks [--walks N] [--seed S] [--record FILE [--keep N]]
    target/venv/bin/python tests/signer/walks --recorded [FILE] [--at URL KEY]

Both take `--processes P` and `--spoil NAME`, and need `cargo build --bin kinto-local`. With `--at` the second does not: it uses a running
local stack, and the public key (SubjectPublicKeyInfo in Base64) that verifies its signatures.

The first compares with the real signer. DIR holds the package `kinto_remote_settings` (in mozilla/remote-settings: kinto-remote-settings/src)
and its imports that the environment lacks. It needs PostgreSQL, because the real signer undoes a refused request by its database.
`--record FILE` asks only the real signer and keeps its answers. `--keep N` keeps that many walks, which together take each line of the table
of transitions often.

The second compares with such a record, and does not need the real signer. `recorded.json.xz` beside this script has the answers of the package
of v42.15.1 with Kinto 26.5.0 on PostgreSQL 15 (`--walks 500 --keep 30`): requests and observations, no code, no times, no keys (`walking.py`). The
same seeds make the same record.

`--spoil NAME` makes ours answer wrongly in one way (`spoils.py`), which the walks must find; `--spoil all` tries each way. `justified.py` has the
exceptions from the comparison.
"""

import argparse
import itertools
import json
import lzma
import sys
import time
from collections import Counter
from pathlib import Path

from comparing import at_one, found_with, new_key, of_record, on_both, public_key
from signers import local_stack
from spoils import SPOILS
from walking import LINES

RECORDED = Path(__file__).parent / "recorded.json.xz"
# This many walks take each line of the table of transitions. So do the recorded ones.
ENOUGH = 200


def lines_of(walked):
    requests = itertools.chain.from_iterable(step["requests"] for step in walked["steps"])
    return (tuple(request["line"]) for request in requests if "line" in request)


def keep(walks, count):
    """That many of the walks, chosen so that they take each line of the table, and the rare lines several times."""
    kept, others, lines = [], list(walks), Counter()
    while others and len(kept) < count:
        best = max(others, key=lambda walked: sum(1 / (1 + lines[line]) ** 2 for line in set(lines_of(walked))))
        others.remove(best)
        kept.append(best)
        lines.update(lines_of(best))
    return kept


def report(results, takes_all):
    """Prints the results of walks. Returns them by their seeds, and whether anything is wrong, such as a line that was not taken although all must be."""
    walks, answers, differences, lines, left_out = [], 0, 0, Counter(), Counter()
    started = time.monotonic()
    for walked, count, difference in results:
        walks.append(walked)
        answers += count
        lines.update(lines_of(walked))
        left_out.update(name for step in walked["steps"] for name in step.get("left_out", ()))
        if difference:
            differences += 1
            print(difference, flush=True)
    took = time.monotonic() - started
    print(f"{len(walks)} walks, {answers} answers, {differences} differences, {took:.0f} s")
    for name, count in left_out.items():
        print(f"{count:6} steps after which was left out: {name}")
    for line, count in sorted(lines.items(), key=str):
        print(f"{count:6} {' '.join(map(str, line))}")
    missing = [line for line in LINES if not lines[line]]
    for line in missing:
        print(f"never taken: {' '.join(map(str, line))}")
    other = [line for line in lines if line not in LINES]
    for line in other:
        print(f"not in the table: {' '.join(map(str, line))}")
    walks.sort(key=lambda walked: walked["seed"])
    return walks, bool(differences or other or (missing and takes_all))


def try_spoils(url, public, walks, names):
    """Returns True if the walks miss a spoiled answer."""
    failed = False
    for name in names:
        found = found_with(SPOILS[name](), url, public, walks)
        failed |= found is None
        told = f"found in {found[0]} walks: {found[1]}" if found else f"NOT found in {len(walks)} walks"
        print(f"{name}: {told}", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--walks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=int)
    parser.add_argument("--recorded", type=Path, metavar="FILE", nargs="?", const=RECORDED)
    parser.add_argument("--spoil", choices=[*SPOILS, "all"])
    parser.add_argument("--at", nargs=2, metavar=("URL", "KEY"))
    arguments = parser.parse_args()
    if arguments.recorded:
        walks = json.loads(lzma.decompress(arguments.recorded.read_bytes()))
        if arguments.at:
            url, key = arguments.at
            results = at_one(url, public_key(key), walks)
        else:
            results = of_record(walks, arguments.processes)
    else:
        walks = range(arguments.seed, arguments.seed + arguments.walks)
        results = on_both(walks, arguments.steps, arguments.processes, records_only=arguments.record is not None)
    walks, failed = report(results, arguments.recorded == RECORDED or len(walks) >= ENOUGH)
    if arguments.record:
        kept = sorted(keep(walks, arguments.keep or len(walks)), key=lambda walked: walked["seed"])
        arguments.record.write_bytes(lzma.compress(json.dumps(kept, separators=(",", ":")).encode(), preset=9))
    if arguments.spoil:
        names = SPOILS if arguments.spoil == "all" else [arguments.spoil]
        if arguments.at:
            failed |= try_spoils(url, public_key(key), walks, names)
        else:
            with new_key() as (path, public), local_stack(path) as url:
                failed |= try_spoils(url, public, walks, names)
    sys.exit(failed)


if __name__ == "__main__":
    main()
