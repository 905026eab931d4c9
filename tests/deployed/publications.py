"""Publishes by the deployed functions while they are killed: every changeset that a client sees must verify. autograph-utils verifies if
this Python has it (target/venv/bin/python, see trust.py), otherwise examples/verify.py.

    python3 tests/deployed/publications.py [--functions DIR] [--walks 200] [--seed 1] [--isolation partition] [--faults heavy]
    python3 tests/deployed/publications.py --measure 1000,10000 [--bytes 900] [--latency 5] [--partitions 4] [--kill] [--functions DIR]

A walk has one source with preview and destination. One client edits, requests, approves, rolls back and signs again, with lost
answers and killed functions. Others read both targets, whole and with `_since`. Then the faults end, and interrupted work must
finish by itself.

`--measure` publishes that many changed records once, while others read. It prints the time of each command, the CPU time of the api's
process, the requests to the table, and their price. Each request to the table takes at least `--latency` milliseconds. With
`--partitions` the table has that many partitions, and refuses more than 1,000 write units a second for one of them, as DynamoDB does. `--kill`
kills the api while it writes, the api when it has committed, and the aggregator while it settles.
"""

import argparse
import asyncio
import base64
import gzip
import json
import random
import sys
import time

import http1
from codec import loads
from functions import cpu_of
from histories import Faults
from run import FUNCTIONS, LOGS, Stack
from throughput import Throughput
from trust import Trust

JSON = ("Content-Type", "application/json")
WORK, TARGETS = "/v1/buckets/work", ["/v1/buckets/preview", "/v1/buckets/main"]
RESOURCES = "/buckets/work -> /buckets/preview -> /buckets/main"
# Dollars of a million units on demand (us-east-1).
RRU, WRU = 0.125, 0.625


class Bench:
    """A stack that signs, and its users."""

    def __init__(self, options, seed=0, faults=None):
        self.options, self.seed, self.faults = options, seed, faults

    async def start(self):
        self.trust = await Trust().start()
        settings = {
            "KINTO_CHANGES_RESOURCES": "/buckets/main", "KINTO_INCLUDES": "kinto_remote_settings",
            "KINTO_SIGNER_RESOURCES": RESOURCES, "KINTO_SIGNER_TO_REVIEW_ENABLED": "true",
            "KINTO_SIGNER_ECDSA_PRIVATE_KEY": self.trust.pem, "KINTO_SIGNER_X5U": self.trust.x5u,
        }
        options = self.options
        self.stack = Stack(options.functions, settings, options.apis, options.isolation, seed=self.seed, slow=self.faults is not None,
                           listeners=False, faults=self.faults, folder=options.logs, proto="http")
        if self.faults is not None:
            self.faults.table = self.stack.table
        self.stack.faulty = False
        await self.stack.start()
        self.client = http1.Client(self.stack.port)
        self.bob = (await self.send("bob", "GET", "/v1/"))[1]["user"]["id"]
        await self.send("alice", "PUT", WORK, {"permissions": {"write": [self.bob]}})
        return self

    async def send(self, user, method, path, body=None, client=None, timeout=60):
        """Status and answer; no status if there was no answer."""
        headers = [JSON, ("Authorization", "Basic " + base64.b64encode(f"{user}:".encode()).decode()), ("Accept-Encoding", "gzip")]
        data = json.dumps(body).encode() if body is not None else b""
        try:
            # Walks send concurrently, and a connection carries one request at a time.
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
        await self.trust.stop()


class Walk:
    def __init__(self, bench, number, random_, rounds):
        self.bench, self.random, self.rounds = bench, random_, rounds
        self.id = f"c{number}"
        self.source = f"{WORK}/collections/{self.id}"
        self.seen, self.verified, self.problems, self.n, self.over = 0, set(), [], 0, False
        self.told, self.pause = {}, bench.options.pause

    async def check(self, changeset, what):
        """Each changeset once, because many are the same."""
        self.seen += 1
        records = sorted((record["id"], record["n"], record["last_modified"]) for record in changeset["changes"])
        name = (str(changeset["metadata"]["signatures"]), changeset["timestamp"], hash(str(records)))
        if name not in self.verified:
            self.verified.add(name)
            if not await self.bench.trust.verifies(changeset):
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
                await self.check(changeset, f"{target}{since}")
                known = changeset
            await asyncio.sleep(self.pause)
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
        """Repeats a command without an answer. It may have been carried out, and the repetition is then refused."""
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
        """Interrupted work has finished, and readers see what was written."""
        for target in TARGETS:
            pk = f"{target}/collections/{self.id}#record".removeprefix("/v1")
            item = self.bench.stack.table.get((pk, "#timestamp"))
            if item and "layer" in item:
                self.problems.append(f"{self.id}: {target} is not settled: {item}")
            status, changeset = await self.bench.send("carol", "GET", f"{target}/collections/{self.id}/changeset?_expected=1")
            if status != 200:
                self.problems.append(f"{self.id}: {target} answers {status}")
                continue
            await self.check(changeset, f"{target} at rest")
        _, source = await self.bench.send("alice", "GET", self.source)
        if source["data"]["status"] == "signed":
            _, records = await self.bench.send("alice", "GET", self.source + "/records")
            both = [{record["id"]: record["n"] for record in records} for records in (records["data"], changeset["changes"])]
            if both[0] != both[1]:
                self.problems.append(f"{self.id}: signed is {both[1]}, and there is {both[0]}")


async def walks(options):
    seen = verified = 0
    told, problems = {}, []
    for first in range(0, options.walks, options.together):
        seed = options.seed + first
        bench = await Bench(options, seed, Faults(options.faults, seed)).start()
        some = [Walk(bench, seed + n, random.Random(seed + n), options.rounds) for n in range(min(options.together, options.walks - first))]
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
    print(f"all verified by {Trust.verified_by()}")


class Kills:
    """Kills functions at certain requests to the table, instead of random faults."""

    def __init__(self, changes):
        batches = max(1, changes // 25)
        self.at = {
            ("api", "BatchWriteItem"): {batches // 2: "kill_during", batches: "kill_after"},
            ("api", "TransactWriteItems"): {1: "kill_before", 2: "kill_after"},
            ("changes-aggregator", "PutItem"): {changes // 4: "kill_during", changes // 2: "kill_before"},
            ("changes-aggregator", "UpdateItem"): {1: "kill_before", 2: "kill_after"},
        }
        self.counts = {}

    def aws(self, caller, operation):
        what = (caller.rsplit("-", 1)[0], operation)
        self.counts[what] = self.counts.get(what, 0) + 1
        return self.at.get(what, {}).get(self.counts[what])

    def megaphone(self):
        return None


class Readers:
    """Read a target again and again, whole and with `_since`, while it is published."""

    def __init__(self, bench, source, changes):
        self.walk = Walk(bench, "", None, 0)
        # Reading and verifying also take time of this process, which is the table's stand-in.
        self.walk.pause = max(self.walk.pause, changes / 5000)
        self.walk.id = source.rsplit("/", 1)[1]
        readers = [(target, follows) for target in TARGETS for follows in (0, 1)]
        self.tasks = [asyncio.ensure_future(self.walk.reader(*reader)) for reader in readers]

    async def end(self):
        self.walk.over = True
        await asyncio.gather(*self.tasks)
        print(f"{self.walk.seen} changesets seen, {len(self.walk.verified)} of them distinct")
        self.walk.problems and sys.exit(str(self.walk.problems[0])[:2000])
        self.walk.verified or sys.exit("nothing was seen")


async def measure(options, changes):
    """Measures an approval of that many new records: seconds, and units by operation."""
    bench = await Bench(options, faults=Kills(changes) if options.kill else None).start()
    bench.stack.table.slow = False
    source = f"{WORK}/collections/large"
    await bench.make(source)
    text = "x" * options.bytes
    for start in range(0, changes, 25):
        requests = [{"method": "PUT", "path": f"{source}/records/r{n}".removeprefix("/v1"), "body": {"data": {"n": n, "t": text}}}
                    for n in range(start, min(start + 25, changes))]
        status, answer = await bench.send("alice", "POST", "/v1/batch", {"requests": requests})
        assert status == 200, answer
    await bench.rest()
    table = bench.stack.table
    table.latency, table.throughput = options.latency / 1000, Throughput(options.partitions) if options.partitions else None
    readers = Readers(bench, source, changes) if options.kill else None
    phases = [("alice", "to-review"), ("bob", "to-sign")]
    for user, command in phases:
        if options.kill:
            bench.stack.faults, bench.stack.faulty = Kills(changes), True
        await carry_out(bench, source, user, command, f"{changes} records of {options.bytes} bytes, {command}")
        if options.kill:
            bench.stack.faulty = False
            print(f"killed: {bench.stack.injected}")
            missed = [(what, at) for what, faults in bench.stack.faults.at.items() for at in faults if bench.stack.faults.counts.get(what, 0) < at]
            missed and sys.exit(f"never came so far: {missed}")
            bench.stack.injected = {}
    if readers:
        await readers.end()
    _, changeset = await bench.send("carol", "GET", f"{TARGETS[1]}/collections/large/changeset?_expected=0")
    if len(changeset["changes"]) != changes or not await bench.trust.verifies(changeset):
        sys.exit("what is published is not all, or does not verify")
    await bench.stop()


async def carry_out(bench, source, user, command, what):
    table, api = bench.stack.table, bench.stack.api.instances
    table.consumed.clear()
    cpu = sum(cpu_of(instance.process) for instance in api if instance.process)
    begin = time.monotonic()
    told = []
    for _ in range(10):
        status, answer = await bench.send(user, "PATCH", source, {"data": {"status": command}})
        told.append(f"{status} after {time.monotonic() - begin:.1f} s")
        if not bench.stack.faulty or status is not None and status < 500:
            break
    cpu = sum(cpu_of(instance.process) for instance in api if instance.process) - cpu
    await bench.rest(600) or sys.exit("the stack does not come to rest")
    settled = time.monotonic() - begin
    print(f"\n{what}: {', '.join(told)}, {cpu:.1f} s of them computed by the api; at rest after {settled:.1f} s")
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
    print(f"{reads:g} RRU and {writes:g} WRU: {(reads * RRU + writes * WRU) / 1e6:.4f} $", flush=True)
    # A command that was killed after its commit is refused when it is sent again.
    status in ((200, 400) if bench.stack.faulty else (200,)) or sys.exit(f"{status}: {answer}")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", default=FUNCTIONS)
    parser.add_argument("--logs", default=LOGS)
    parser.add_argument("--walks", type=int, default=20)
    parser.add_argument("--together", type=int, default=10, help="walks that share a stack")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two reads of one reader, of which a walk has four")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--apis", type=int, default=4)
    parser.add_argument("--isolation", default="partition")
    parser.add_argument("--faults", default="heavy")
    parser.add_argument("--measure")
    parser.add_argument("--bytes", type=int, default=900)
    parser.add_argument("--latency", type=float, default=0)
    parser.add_argument("--partitions", type=int)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    if options.measure:
        for changes in options.measure.split(","):
            await measure(options, int(changes))
    else:
        await walks(options)


asyncio.run(main())
