"""Publications of the deployed functions while these are killed: every changeset that anybody sees verifies, by examples/verify.py.

    python3 tests/deployed/publications.py [--functions DIR] [--walks 200] [--seed 1] [--isolation partition] [--faults heavy]
    python3 tests/deployed/publications.py --measure 1000,10000 [--bytes 900] [--functions DIR]

A walk: one source with preview and destination; somebody edits, requests, approves, rolls back and signs again, with answers
that get lost and functions that are killed; others read both targets, whole and with `_since`. Then the faults end, and what
was cut short has to end by itself. `--measure` publishes that many changed records once and says how long each command took,
how much of that the api's process computed, and what it asked of the table and costs.
"""

import argparse
import asyncio
import base64
import gzip
import json
import os
import random
import subprocess
import sys
import time

import http1
from histories import Faults
from run import FUNCTIONS, LOGS, Stack, cpu_of, loads

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples"))
import verify  # noqa: E402

JSON = ("Content-Type", "application/json")
WORK, TARGETS = "/v1/buckets/work", ["/v1/buckets/preview", "/v1/buckets/main"]
RESOURCES = "/buckets/work -> /buckets/preview -> /buckets/main"
# Walks that share a stack.
PER_STACK = 10
# Dollars of a million units on demand (us-east-1).
RRU, WRU = 0.125, 0.625


def key_pair():
    """A private key as PEM, and its point."""
    pem = subprocess.run(["openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout"], check=True, capture_output=True).stdout
    public = subprocess.run(["openssl", "ec", "-pubout", "-outform", "DER"], input=pem, check=True, capture_output=True).stdout
    point = public[-96:]
    return pem.decode(), (int.from_bytes(point[:48], "big"), int.from_bytes(point[48:], "big"))


class Bench:
    """A stack that signs, and its users."""

    def __init__(self, options, seed=0, faults=None):
        pem, self.key = key_pair()
        settings = {
            "KINTO_CHANGES_RESOURCES": "/buckets/main", "KINTO_INCLUDES": "kinto_remote_settings",
            "KINTO_SIGNER_RESOURCES": RESOURCES, "KINTO_SIGNER_TO_REVIEW_ENABLED": "true", "KINTO_SIGNER_ECDSA_PRIVATE_KEY": pem,
        }
        self.stack = Stack(options.functions, settings, options.apis, options.isolation, seed=seed, slow=faults is not None,
                           listeners=False, faults=faults, folder=options.logs, proto="http")
        if faults is not None:
            faults.table = self.stack.table
        self.stack.faulty = False

    async def start(self):
        await self.stack.start()
        self.client = http1.Client(self.stack.port)
        self.bob = (await self.send("bob", "GET", "/v1/"))[1]["user"]["id"]
        await self.send("alice", "PUT", WORK, {"permissions": {"write": [self.bob]}})
        return self

    async def send(self, user, method, path, body=None, client=None, timeout=60):
        """Status and answer; no status where there was no answer."""
        headers = [JSON, ("Authorization", "Basic " + base64.b64encode(f"{user}:".encode()).decode()), ("Accept-Encoding", "gzip")]
        data = json.dumps(body).encode() if body is not None else b""
        try:
            # Walks send at the same time, and a connection has one request.
            used = client or http1.Client(self.stack.port)
            try:
                status, out, answer = await used.request(method, path, headers, data, timeout)
            finally:
                if client is None:
                    used.close()
            answer = gzip.decompress(answer) if out.get("content-encoding") == "gzip" else answer
            return status, loads(answer) if answer else None
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            return None, None

    async def make(self, source):
        status, answer = await self.send("alice", "PUT", source, {})
        assert status in (200, 201), answer
        group = f"{WORK}/groups/{source.rsplit('/', 1)[1]}-reviewers"
        status, answer = await self.send("alice", "PATCH", group, {"data": {"members": [self.bob]}})
        assert status == 200, answer

    async def rest(self, seconds=120):
        quiet, until = 0, time.monotonic() + seconds
        while quiet < 8 and time.monotonic() < until:
            busy = any(not s.idle or s.position < len(s.shard.records) for s in self.stack.stream_sources)
            busy = busy or self.stack.in_flight or self.stack.table.locked
            quiet = 0 if busy else quiet + 1
            await asyncio.sleep(0.05)
        return quiet >= 8

    async def stop(self):
        self.client.close()
        await self.stack.stop()


class Walk:
    def __init__(self, bench, number, random_, rounds):
        self.bench, self.random, self.rounds = bench, random_, rounds
        self.id = f"c{number}"
        self.source = f"{WORK}/collections/{self.id}"
        self.seen, self.verified, self.problems, self.n, self.over = 0, set(), [], 0, False
        self.told = {}

    def check(self, changeset, what):
        """Each changeset once: many are the same."""
        self.seen += 1
        signature = changeset["metadata"]["signature"]["signature"]
        records = sorted((record["id"], record["n"], record["last_modified"]) for record in changeset["changes"])
        name = (signature, changeset["timestamp"], str(records))
        if name not in self.verified:
            self.verified.add(name)
            if not verify.verifies(changeset, self.bench.key):
                self.problems.append(f"{self.id}: {what} does not verify: {changeset}")

    async def reader(self, target, follows):
        client, known = http1.Client(self.bench.stack.port), None
        path = f"{target}/collections/{self.id}/changeset?_expected=0"
        while not self.over:
            since = f"&_since={known['timestamp']}" if known and follows else ""
            status, changeset = await self.bench.send("carol", "GET", path + since, client=client)
            if status == 200:
                if since:
                    merged = {record["id"]: record for record in known["changes"]}
                    merged.update((record["id"], record) for record in changeset["changes"])
                    changeset["changes"] = [record for record in merged.values() if not record.get("deleted")]
                self.check(changeset, f"{target}{since}")
                known = changeset
            await asyncio.sleep(0.01)
        client.close()

    async def edit(self, most):
        requests = []
        for record in self.random.sample(range(40), self.random.randrange(1, most)):
            path = f"{self.source}/records/r{record}".removeprefix("/v1")
            self.n += 1
            delete = self.random.random() < 0.2
            requests.append({"method": "DELETE", "path": path} if delete else {"method": "PUT", "path": path, "body": {"data": {"n": self.n}}})
        await self.ask("alice", "POST", "/v1/batch", {"requests": requests}, "edit")

    async def ask(self, user, method, path, body, what):
        status, answer = await self.bench.send(user, method, path, body)
        self.told[(what, status)] = self.told.get((what, status), 0) + 1
        return status, answer

    async def command(self, user, status):
        """Again where the answer tells of nothing: then it may have been carried out, and is refused."""
        for _ in range(4):
            told, answer = await self.ask(user, "PATCH", self.source, {"data": {"status": status}}, status)
            if told is not None and told < 500:
                return
            await asyncio.sleep(0.1)

    async def publish(self):
        for _ in range(self.rounds):
            await self.edit(12)
            await self.command("alice", "to-review")
            await self.command("bob", "to-sign")
            what = self.random.random()
            if what < 0.3:
                await self.edit(25)
                await self.command("alice", "to-rollback")
            elif what < 0.5:
                await self.command("alice", "to-resign")

    async def at_rest(self):
        """What was cut short has ended, and what is shown is what was written."""
        for target in TARGETS:
            pk = f"{target}/collections/{self.id}#record".removeprefix("/v1")
            item = self.bench.stack.table.get((pk, "#timestamp"))
            if item and "layer" in item:
                self.problems.append(f"{self.id}: {target} is not settled: {item}")
            status, changeset = await self.bench.send("carol", "GET", f"{target}/collections/{self.id}/changeset?_expected=1")
            if status != 200:
                self.problems.append(f"{self.id}: {target} answers {status}")
                continue
            self.check(changeset, f"{target} at rest")
        _, source = await self.bench.send("alice", "GET", self.source)
        if source["data"]["status"] == "signed":
            _, records = await self.bench.send("alice", "GET", self.source + "/records")
            both = [{record["id"]: record["n"] for record in records} for records in (records["data"], changeset["changes"])]
            if both[0] != both[1]:
                self.problems.append(f"{self.id}: signed is {both[1]}, and there is {both[0]}")


async def walks(options):
    seen = verified = 0
    told, problems = {}, []
    for first in range(0, options.walks, PER_STACK):
        seed = options.seed + first
        bench = await Bench(options, seed, Faults(options.faults, seed)).start()
        some = [Walk(bench, seed + n, random.Random(seed + n), options.rounds) for n in range(min(PER_STACK, options.walks - first))]
        for walk in some:
            await bench.make(walk.source)
        bench.stack.faulty = True
        readers = [asyncio.ensure_future(walk.reader(target, follows)) for walk in some for target, follows in zip(TARGETS * 2, (0, 1, 1, 0))]
        await asyncio.gather(*(walk.publish() for walk in some))
        for walk in some:
            walk.over = True
        await asyncio.gather(*readers)
        bench.stack.faulty = False
        if not await bench.rest():
            problems.append(f"from {seed} on: the stack does not come to rest")
        for walk in some:
            await walk.at_rest()
            seen, verified = seen + walk.seen, verified + len(walk.verified)
            problems += walk.problems
            for what, count in walk.told.items():
                told[what] = told.get(what, 0) + count
        problems += [f"refused: {what}" for what in bench.stack.denied]
        kills = sum(count for what, count in bench.stack.injected.items() if "kill" in str(what))
        print(f"walks {seed} to {seed + len(some) - 1}: {kills} kills, {seen} changesets seen so far, {verified} of them distinct", flush=True)
        await bench.stop()
    for (what, status), count in sorted(told.items(), key=str):
        print(f"{count:6} {what} {status}")
    if problems:
        sys.exit("\n".join(problems[:20]))
    if not verified:
        sys.exit("nothing was seen")


async def measure(options, changes):
    """An approval of that many new records: seconds, and units by operation."""
    bench = await Bench(options).start()
    source = f"{WORK}/collections/large"
    await bench.make(source)
    text = "x" * options.bytes
    for start in range(0, changes, 25):
        requests = [{"method": "PUT", "path": f"{source}/records/r{n}".removeprefix("/v1"), "body": {"data": {"t": text}}}
                    for n in range(start, min(start + 25, changes))]
        status, answer = await bench.send("alice", "POST", "/v1/batch", {"requests": requests})
        assert status == 200, answer
    await bench.rest()
    phases = [("alice", "to-review"), ("bob", "to-sign")]
    for user, command in phases:
        table = bench.stack.table
        table.consumed.clear()
        cpu = sum(cpu_of(instance.process) for instance in bench.stack.api.instances if instance.process)
        begin = time.monotonic()
        status, answer = await bench.send(user, "PATCH", source, {"data": {"status": command}})
        took = time.monotonic() - begin
        cpu = sum(cpu_of(instance.process) for instance in bench.stack.api.instances if instance.process) - cpu
        await bench.rest(600)
        settled = time.monotonic() - begin
        print(f"\n{changes} records of {options.bytes} bytes, {command}: {status} after {took:.1f} s, {cpu:.1f} s of them computed by the api; "
              f"at rest after {settled:.1f} s")
        print("| by | operation | requests | RRU | WRU |\n| --- | --- | --- | --- | --- |")
        units, reads, writes = {}, 0, 0
        for who, operation, items, read, write, index in table.consumed:
            row = units.setdefault((who, operation), [0, 0, 0])
            row[0] += bool(items)
            row[1] += read
            row[2] += write + index
        for (who, operation), (count, read, write) in sorted(units.items()):
            print(f"| {who} | {operation} | {count} | {read:g} | {write:g} |")
            reads, writes = reads + read, writes + write
        print(f"{reads:g} RRU and {writes:g} WRU: {(reads * RRU + writes * WRU) / 1e6:.4f} $")
        status == 200 or sys.exit(f"{status}: {answer}")
    _, changeset = await bench.send("carol", "GET", f"{TARGETS[1]}/collections/large/changeset?_expected=0")
    if len(changeset["changes"]) != changes or not verify.verifies(changeset, bench.key):
        sys.exit("what is published is not all, or does not verify")
    await bench.stop()


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", default=FUNCTIONS)
    parser.add_argument("--logs", default=LOGS)
    parser.add_argument("--walks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--apis", type=int, default=4)
    parser.add_argument("--isolation", default="partition")
    parser.add_argument("--faults", default="heavy")
    parser.add_argument("--measure")
    parser.add_argument("--bytes", type=int, default=900)
    options = parser.parse_args()
    if options.measure:
        for changes in options.measure.split(","):
            await measure(options, int(changes))
    else:
        await walks(options)


asyncio.run(main())
