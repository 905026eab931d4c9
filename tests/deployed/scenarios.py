"""Single cases with the real functions. Each is the shortest that shows a finding of a random history, or disproves it.

    python3 tests/deployed/scenarios.py [--functions DIR] [NAME ...]

    list, changeset     a transaction whose list item is committed 0.4 s before its record (isolation "item"): a client reads within
                        that time and continues by _since
    events              the same for an entry of the outbox and the rest of its transaction (isolation "partition")
    monitor             an entry of monitor/changes that is raised after a later one of another collection
    stalled             a transaction that is committed 5 s after it was sent, like one that recovers after its coordinator died
    limits              records and batches near the limits of an item (400 KB) and of a transaction (4 MB), with listeners
    throttled           each way in which DynamoDB refuses a request several times: the client must not be refused at once

Exit status 1 if a case is violated.
"""

import argparse
import asyncio
import base64
import json
import sys
import time
import urllib.parse

import http1
from codec import loads
from dynamo import Table
from run import FUNCTIONS, LOGS, NoFaults, Stack

AUTH = ("Authorization", "Basic " + base64.b64encode(b"me:secret").decode())
JSON = ("Content-Type", "application/json")
MAIN = "/v1/buckets/main/collections/"
MONITOR = "/v1/buckets/monitor/collections/changes"
PATIENCE = 5  # seconds for which no request is refused because of a passing fault


class Slow(Table):
    """Commits the next transaction item by item, with a pause before those that are `late`."""

    pause, late = 0, None

    async def apply(self, changes, keys, mine):
        pause, self.pause = self.pause, 0
        if not pause:
            return await super().apply(changes, keys, mine)
        try:
            for late in (False, True):
                if late:
                    await asyncio.sleep(pause)
                for key, item in changes:
                    if self.late(key) == late:
                        self.put(key, item)
                        self.unlock(key, mine)
        finally:
            for key in keys:
                self.unlock(key, mine)


class Faults(NoFaults):
    """`once`: by operation, the faults of the next requests."""

    def __init__(self):
        self.once = {}

    def aws(self, caller, operation):
        left = self.once.get((caller.rsplit("-", 1)[0], operation))
        return left.pop(0) if left else None


class Case:
    def __init__(self, options, listeners=False):
        self.options, self.listeners = options, listeners

    async def __aenter__(self):
        self.faults = Faults()
        self.stack = Stack(self.options.functions, {"KINTO_CHANGES_RESOURCES": "/buckets/main"}, 3, listeners=self.listeners, proto="http",
                           template=self.options.template, folder=self.options.logs, faults=self.faults)
        self.stack.table.__class__ = Slow
        await self.stack.start()
        await self.ask("PUT", "/v1/buckets/main")
        for name in "ab":
            await self.ask("PUT", MAIN + name)
            await self.ask("PUT", MAIN + name + "/records/r1", {"data": {"v": 1}})
        await self.rest()
        return self

    async def __aexit__(self, *_):
        await self.stack.stop()

    async def ask(self, method, path, body=None, **query):
        client = http1.Client(self.stack.port)
        if query:
            path += "?" + urllib.parse.urlencode(query)
        status, out, answer = await client.request(method, path, [AUTH, JSON], json.dumps(body).encode() if body is not None else b"")
        client.close()
        return status, out, loads(answer) if answer else None

    async def rest(self):
        for _ in range(200):
            await asyncio.sleep(.05)
            if all(s.idle and s.position == len(s.shard.records) for s in self.stack.stream_sources):
                return


async def list_(options, way="list"):
    async with Case(options) as case:
        async def read(since=None):
            query = {"_since": f'"{since}"'} if since else {}
            if way == "changeset":
                _, _, answer = await case.ask("GET", MAIN + "a/changeset", _expected="0", **query)
                return answer["timestamp"], sorted(change["id"] for change in answer["changes"])
            _, out, answer = await case.ask("GET", MAIN + "a/records", **query)
            return int(out["etag"].strip('"')), sorted(record["id"] for record in answer["data"])
        await read()
        case.stack.table.pause, case.stack.table.late = .4, lambda key: key[1] != "#timestamp"
        write = asyncio.ensure_future(case.ask("PUT", MAIN + "a/records/r2", {"data": {"v": 2}}))
        await asyncio.sleep(.2)
        etag, ids = await read()
        status, _, answer = await write
        time_of = answer["data"]["last_modified"]
        again, more = await read(etag)
        print(f"  while r2 of {time_of} is being committed: ETag {etag}, {ids}\n  r2 is acknowledged with {status}; by _since={etag}: "
              f"ETag {again}, {more}")
        wrong = etag >= time_of and "r2" not in ids + more
        print("  VIOLATED: the client never hears of r2" if wrong else "  holds")
        return wrong


async def changeset(options):
    return await list_(options, "changeset")


async def events(options):
    async with Case(options, True) as case:
        await asyncio.sleep(1)
        heard = len(case.stack.events)
        case.stack.table.pause, case.stack.table.late = .4, lambda key: key[0].startswith("#outbox#")
        first = asyncio.ensure_future(case.ask("PUT", MAIN + "a/records/r2", {"data": {"v": "first"}}))
        await asyncio.sleep(.2)
        seen = await case.ask("GET", MAIN + "a/records/r2")
        second = await case.ask("DELETE", MAIN + "a/records/r2")
        first = await first
        await asyncio.sleep(1)
        told = [(event["action"], event["impacted_records"][0]["new"]["last_modified"]) for _, _, event in case.stack.events[heard:]]
        print(f"  PUT {first[0]} at {first[2]['data']['last_modified']}; another client sees it ({seen[0]}) and deletes it: {second[0]} at "
              f"{second[2]['data']['last_modified']}\n  the listener hears {told}")
        wrong = [action for action, _ in told] != ["create", "delete"]
        print("  VIOLATED: not in the order of the commits" if wrong else "  holds")
        return wrong


async def monitor(options):
    async with Case(options) as case:
        async def poll(since=None):
            query = {"_since": f'"{since}"'} if since else {}
            _, out, answer = await case.ask("GET", MONITOR + "/records", **query)
            return int(out["etag"].strip('"')), {entry["collection"]: entry["last_modified"] for entry in answer["data"]}
        since, _ = await poll()
        # One stream batch has both. The entry of a is throttled for longer than the SDK retries, so the batch comes again.
        case.faults.once[("changes-aggregator", "UpdateItem")] = ["delay"]
        first = await case.ask("PUT", MAIN + "a/records/r2", {"data": {}})
        case.faults.once[("changes-aggregator", "PutItem")] = []
        # The process that raises a fails; b is raised.
        old, left = case.stack.aws, [3]

        async def aws(request):
            if left[0] and request.header("x-amz-target", "").endswith("PutItem") and b"collections/a" in request.body:
                left[0] -= 1
                case.faults.once[("changes-aggregator", "PutItem")] = ["throttle"]
            return await old(request)
        # The servers hold the method, so it is replaced where they look it up.
        case.stack.hook = aws
        second = await case.ask("PUT", MAIN + "b/records/r2", {"data": {}})
        times = [answer["data"]["last_modified"] for _, _, answer in (first, second)]
        until = time.time() + 3
        seen = None
        while time.time() < until:
            etag, entries = await poll(since)
            if entries.get("b") == times[1] and entries.get("a") != times[0]:
                seen = etag
                break
            if entries.get("a") == times[0]:
                break
            await asyncio.sleep(.002)
        await case.rest()
        _, everything = await poll()
        print(f"  a written at {times[0]}, b at {times[1]}")
        if seen is None:
            print("  holds (both appeared together)")
            return False
        again, more = await poll(seen)
        print(f"  poll by _since={since}: ETag {seen}, {entries}\n  at rest all entries are {everything}; by _since={seen}: ETag {again}, {more}")
        wrong = everything["a"] == times[0] and "a" not in more
        print("  VIOLATED: who polls by _since never hears of a" if wrong else "  holds")
        return wrong


async def stalled(options):
    async with Case(options) as case:
        table, wrong = case.stack.table, False
        _, _, answer = await case.ask("PUT", MAIN + "a/records/list", {"data": {"l": []}})
        etag = answer["data"]["last_modified"]
        patch = [{"op": "add", "path": "/data/l/-", "value": 1}]
        cases = [
            ("PUT with If-None-Match: *", "PUT", "n1", {"data": {"v": 1}}, [("If-None-Match", "*")], (201,)),
            ("PUT with If-Match", "PUT", "list", {"data": {"l": [0]}}, [("If-Match", f'"{etag}"')], (200,)),
            ("PUT of a new record", "PUT", "n2", {"data": {"v": 1}}, [], (201,)),
            ("POST", "POST", "", {"data": {"v": "posted"}}, [], (201,)),
            ("JSON patch that appends", "PATCH", "list", patch, [], (200,)),
            ("DELETE", "DELETE", "r1", None, [], (200,)),
            ("batch of two PUT with If-None-Match: *", "BATCH", "", ["n3", "n4"], [], (200,)),
        ]
        for what, method, name, body, headers, right in cases:
            if method == "BATCH":
                path, method = "/v1/batch", "POST"
                body = {"requests": [{"method": "PUT", "path": MAIN + "a/records/" + name, "headers": {"If-None-Match": "*"},
                                      "body": {"data": {}}} for name in body]}
            else:
                path = MAIN + "a/records" + ("/" + name if name else "")
            table.stall, table.history = 5, []
            client = http1.Client(case.stack.port)
            kind = ("Content-Type", "application/json-patch+json") if method == "PATCH" else JSON
            begin = time.perf_counter()
            status, _, answer = await client.request(method, path, [AUTH, kind, *headers],
                                                     json.dumps(body).encode() if body is not None else b"")
            client.close()
            took = time.perf_counter() - begin
            table.stall = 0
            await asyncio.sleep(5.5 - min(5.5, took))
            written = [(key[1][:8], json.loads(item["data"]["S"]) if "data" in item else "deleted") for _, key, item, _ in table.history
                       if key[0].endswith("#record") and key[1] != "#timestamp"]
            answer = loads(answer) if answer else {}
            if path == "/v1/batch":
                status = [part["status"] for part in answer["responses"]] if status == 200 else status
                bad = status != [201, 201]
            else:
                bad = status not in right or len(written) > 1
            wrong = wrong or bad
            print(f"  {what}: {status} after {took:.1f} s; the table then got {written}" + ("   <-- WRONG" if bad else ""))
        return wrong


async def limits(options):
    wrong = False
    async with Case(options, True) as case:
        def note(what, status):
            counts[(what, status)] = counts.get((what, status), 0) + 1
        counts, seen, chars = {}, 0, ["x", "é", "\u20ac", "\U0001f600", '"', "\\", "\n", "\x01"]

        async def check(what, method, path, body):
            nonlocal wrong, seen
            status, _, answer = await case.ask(method, path, body)
            note(what, status)
            if status >= 500 or len(case.stack.notes) > seen:
                print(f"  WRONG: {what}: {status} {json.dumps(answer)[:200]} {list(case.stack.notes)[seen:]}")
                wrong, seen = True, len(case.stack.notes)
            return status
        for n, char in enumerate(chars):
            wide = len(json.dumps(char, ensure_ascii=False).encode()) - 2
            for size in (396000, 398 * 1024 - 80, 398 * 1024 - 20, 398 * 1024, 398 * 1024 + 20, 399 * 1024, 400 * 1024 - 300, 400 * 1024, 410000):
                data = {"data": {"t": char * (size // wide)}}
                await check("one record", "PUT", f"{MAIN}a/records/l{n}", data)
            # An existing record is replaced: its event has both states.
            await check("one replaced", "PUT", f"{MAIN}a/records/l{n}", {"data": {"t": char * (390000 // wide)}})
            await check("one deleted", "DELETE", f"{MAIN}a/records/l{n}", None)
        for count, size in ((9, 390000), (10, 390000), (10, 395000), (25, 140000), (25, 150000), (25, 155000), (25, 160000), (25, 170000),
                            (20, 190000), (12, 330000), (4, 398000), (5, 398000), (6, 398000)):
            for again in range(2):
                body = {"requests": [{"method": "PUT", "path": f"{MAIN}b/records/m{m}", "body": {"data": {"t": "y" * size, "n": again}}}
                                     for m in range(count)]}
                await check(f"batch of {count} x {size}" + (", replaced" if again else ""), "POST", "/v1/batch", body)
        members = [f"basicauth:{n:064x}" for n in range(250)]
        for many in (90, 97, 98, 99, 100, 250):
            await check(f"group of {many}", "PUT", "/v1/buckets/main/groups/g", {"data": {"members": members[:many]}})
            await check("group emptied", "PUT", "/v1/buckets/main/groups/g", {"data": {"members": []}})
        long = "z" * 255
        await check("long ids", "PUT", f"/v1/buckets/{long}", None)
        await check("long ids", "PUT", f"/v1/buckets/{long}/collections/{long}", None)
        await check("long ids", "PUT", f"/v1/buckets/{long}/collections/{long}/records/{long}", {"data": {}})
        await check("long ids", "PUT", f"/v1/buckets/{long}/groups/{long}", {"data": {"members": ["p" * 1024]}})
        await check("DELETE of a list", "DELETE", MAIN + "b/records", None)
        await check("DELETE of a bucket", "DELETE", f"/v1/buckets/{long}", None)
        await asyncio.sleep(2)
        if len(case.stack.notes) > seen or case.stack.denied:
            print("  WRONG:", list(case.stack.notes)[seen:], case.stack.denied)
            wrong = True
        print("  " + ", ".join(f"{what} -> {status} x{count}" for (what, status), count in counts.items()))
        print("  dead letters:", {name: len(queue.messages) for name, queue in case.stack.queues.items() if "dead" in name},
              "events told:", len(case.stack.events))
    print("  WRONG" if wrong else "  holds")
    return wrong


async def throttled(options):
    wrong = False
    async with Case(options) as case:
        async def one(what, function, operation, faults, method, path, body=None, **query):
            nonlocal wrong
            before = dict(case.stack.table.counts)
            case.faults.once = {(function, operation): list(faults)}
            begin = time.perf_counter()
            requests = case.stack.requests
            status, out, answer = await case.ask(method, path, body, **query)
            took = 1000 * (time.perf_counter() - begin)
            await case.rest()
            after = {key: value - before.get(key, 0) for key, value in case.stack.table.counts.items() if value != before.get(key, 0)}
            left = len(case.faults.once[(function, operation)])
            case.faults.once = {}
            bad = status >= 500 and took < 1000 * PATIENCE
            wrong = wrong or bad
            print(f"  {what}, {len(faults)} time(s): {status} after {took:.0f} ms ({len(faults) - left} met; retry-after "
                  f"{out.get('retry-after')}), reached the table: {after.get(operation, 0)} {operation}" + ("   <-- WRONG" if bad else ""))
        put = ("PUT", MAIN + "a/records/r9", {"data": {}})
        for times in (1, 2, 5):
            for what in ("ThrottlingError", "ProvisionedThroughputExceeded"):
                await one(f"PUT, transaction cancelled for {what}", "api", "TransactWriteItems", [what] * times, *put)
        for what in ("TransactionConflict", "ThrottlingError+TransactionConflict", "ThrottlingError+ConditionalCheckFailed"):
            await one(f"PUT, transaction cancelled for {what}", "api", "TransactWriteItems", [what], *put)
        for times in (1, 2, 3):
            for what in ("throttle", "in_progress", "500"):
                await one(f"PUT, {what}", "api", "TransactWriteItems", [what] * times, *put)
        await one("changeset, read cancelled for ThrottlingError", "api", "TransactGetItems", ["ThrottlingError"], "GET",
                  MAIN + "a/changeset", None, _expected="0")
        await one("changeset, read cancelled for TransactionConflict", "api", "TransactGetItems", ["TransactionConflict"], "GET",
                  MAIN + "a/changeset", None, _expected="0")
        await one("GET, BatchGetItem throttled", "api", "BatchGetItem", ["throttle"], "GET", MAIN + "a/records/r1")
        for what in ("throttle", "TransactionConflictException"):
            await one(f"aggregator's PutItem: {what}", "changes-aggregator", "PutItem", [what], *put)
    return wrong


async def main():
    cases = {"list": list_, "changeset": changeset, "events": events, "monitor": monitor, "stalled": stalled, "limits": limits, "throttled": throttled}
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--functions", default=FUNCTIONS)
    parser.add_argument("--template")
    parser.add_argument("--logs", default=LOGS)
    options = parser.parse_args()
    violated = []
    for name in options.names or cases:
        print(f"{name}:", flush=True)
        if await asyncio.wait_for(cases[name](options), 240):
            violated.append(name)
    print(f"violated: {', '.join(violated)}" if violated else "all hold", flush=True)
    sys.exit(bool(violated))


asyncio.run(main())
