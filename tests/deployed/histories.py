"""Random histories against the deployed functions, with faults, checked against every version that the table ever held.

    python3 tests/deployed/histories.py [--functions DIR] [--seeds 1,2,3] [--seconds 25] [--isolation item] [--shards 2] [--apis 6]
                         [--faults LEVEL] [--clients 10]

Each seed has a new stack (run.py), writers, readers that synchronize, and pollers of the monitor. Then the faults end, the stack
comes to rest, and `check` compares the answers with the table's versions. LEVEL: none, light, heavy, lost (lost answers
and stalled transactions), broadcaster (its processes are killed too, which takes two minutes more).

Exit status 1 if a check is violated. Each violation is printed with the requests that show it.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
import time
import urllib.parse

import http1
from checks import MONITOR, Checks
from codec import loads
from run import FUNCTIONS, LOGS, Stack

AUTH = ("Authorization", "Basic " + base64.b64encode(b"me:secret").decode())
JSON = ("Content-Type", "application/json")

# The chance of each fault for each request to AWS, by function.
LEVELS = {
    "none": {},
    "light": {
        "api": {"reset": .003, "500": .004, "throttle": .004, "drop": .004, "delay": .02, "conflict": .01, "tx_throttle": .003,
                "kill_before": .002, "kill_after": .002, "kill_during": .002, "late": .001},
        "changes-aggregator": {"reset": .01, "500": .02, "throttle": .02, "drop": .02, "delay": .05, "kill_before": .01,
                               "kill_after": .01, "kill_during": .01, "late": .004, "conflict": .02},
        "broadcaster": {"reset": .02, "500": .02, "throttle": .02, "drop": .02, "delay": .05},
        "notifier": {"reset": .01, "500": .01, "throttle": .01, "drop": .01, "delay": .03, "kill_before": .004, "kill_after": .004,
                     "kill_during": .004},
        "megaphone": {"error": .1, "busy": .05},
    },
    "heavy": {
        "api": {"reset": .01, "500": .015, "503": .01, "throttle": .02, "drop": .015, "delay": .08, "conflict": .05, "tx_throttle": .02,
                "kill_before": .006, "kill_after": .008, "kill_during": .008, "late": .004, "hang": .003, "stall": .01},
        "changes-aggregator": {"reset": .03, "500": .04, "503": .02, "throttle": .04, "drop": .04, "delay": .1, "kill_before": .03,
                               "kill_after": .03, "kill_during": .03, "late": .01, "hang": .01, "conflict": .04},
        "broadcaster": {"reset": .04, "500": .04, "throttle": .04, "drop": .05, "delay": .1, "late": .01},
        "notifier": {"reset": .02, "500": .03, "throttle": .02, "drop": .03, "delay": .05, "kill_before": .01, "kill_after": .01,
                     "kill_during": .01},
        "megaphone": {"error": .2, "busy": .1},
    },
    "lost": {
        "api": {"drop": .06, "stall": .05, "late": .02, "hang": .01},
        "changes-aggregator": {"drop": .1, "late": .03},
        "broadcaster": {"drop": .1},
        "notifier": {"drop": .1},
        "megaphone": {"error": .3},
    },
}
LEVELS["broadcaster"] = {**LEVELS["light"], "broadcaster": {"kill_before": .03, "kill_after": .03, "drop": .03, "500": .03},
                         "megaphone": {"error": .1, "lost": .05, "reset": .03}}


class Faults:
    def __init__(self, level, seed):
        self.rates, self.random = LEVELS[level], random.Random(seed * 7919 + 1)

    def draw(self, rates):
        at = self.random.random()
        for kind, rate in rates.items():
            if at < rate:
                return kind
            at -= rate
        return None

    def aws(self, caller, operation):
        kind = self.draw(self.rates.get(caller.rsplit("-", 1)[0], {}))
        if kind == "stall":
            if operation != "TransactWriteItems":
                return None
            self.table.stall = 2.2 + self.random.random() * 6
        return kind

    def megaphone(self):
        return self.draw(self.rates.get("megaphone", {}))


class Run(Checks):
    def __init__(self, options, seed):
        self.options, self.seed = options, seed
        self.random = random.Random(seed)
        self.ops, self.syncs, self.polls, self.violations = [], [], [], []
        self.statuses, self.unique, self.over = {}, 0, False
        self.etags = {}  # the last version of a record that any client saw
        self.warnings = {}

    def violation(self, kind, text):
        self.violations.append((kind, text))

    # ---- requests

    async def send(self, client, method, path, body=None, headers=(), keep=True):
        data = json.dumps(body).encode() if body is not None else b""
        op = {"method": method, "path": path, "body": body, "headers": dict(headers), "begin": time.time(), "status": None,
              "answer": None, "out": {}}
        try:
            status, out, answer = await client.request(method, path, [AUTH, JSON, *headers], data)
            op["status"], op["out"] = status, out
            if answer:
                try:
                    op["answer"] = loads(answer)
                except ValueError:
                    op["answer"] = None
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass
        op["end"] = time.time()
        self.statuses[op["status"]] = self.statuses.get(op["status"], 0) + 1
        if keep:
            self.ops.append(op)
        return op

    def value(self):
        self.unique += 1
        return f"{self.seed}-{self.unique}"

    # ---- writers

    STABLE = ("c0", "c1", "c2")
    PASSING = ("d0", "d1")

    def record_path(self, collection=None):
        collection = collection or self.random.choice(self.STABLE + (("p0",) if self.random.random() < .2 else ()))
        return f"/v1/buckets/main/collections/{collection}/records/r{self.random.randrange(self.options.records)}"

    def one(self, path=None):
        """A write of one record: method, path, body, headers."""
        path = path or self.record_path()
        draw, headers = self.random.random(), []
        if draw < .35:
            method, body = "PUT", {"data": {"v": self.value()}}
        elif draw < .55:
            method, body = "PATCH", {"data": {"v": self.value()}}
        elif draw < .75:
            method, body = "DELETE", None
        else:
            method, body = "POST", {"data": {"v": self.value()}}
            path = path.rsplit("/", 1)[0]
            if self.random.random() < .5:
                body["data"]["id"] = f"r{self.random.randrange(self.options.records)}"
        if "/p0/" in path and body and self.random.random() < .5:
            body["data"]["last_modified"] = int(time.time() * 1000) - self.random.randrange(1, 10 ** 6)
        known = self.etags.get(path)
        draw = self.random.random()
        if method != "POST":
            if draw < .35 and known:
                headers = [("If-Match", f'"{known}"')]
            elif draw < .45 and method == "PUT":
                headers = [("If-None-Match", "*")]
        return method, path, body, headers

    def learn(self, op):
        if op["status"] in (200, 201) and isinstance(op["answer"], dict):
            data = op["answer"].get("data")
            if isinstance(data, dict) and "id" in data and "/records" in op["path"]:
                path = op["path"].split("?")[0]
                if path.endswith("/records"):
                    path += "/" + data["id"]
                self.etags[path] = data["last_modified"]
        elif op["status"] == 412 and isinstance(op["answer"], dict):
            existing = (op["answer"].get("details") or {}).get("existing") or {}
            if "last_modified" in existing:
                self.etags[op["path"]] = existing["last_modified"]

    async def writer(self, number):
        client = http1.Client(self.stack.port)
        while not self.over:
            draw = self.random.random()
            if draw < .62:
                self.learn(await self.send(client, *self.one()))
            elif draw < .82:
                requests = []
                paths = set()
                for _ in range(self.random.randrange(2, 7)):
                    method, path, body, headers = self.one()
                    record = path + "/" + body["data"]["id"] if method == "POST" and "id" in body["data"] else path
                    if record in paths and (method != "POST" or record != path):
                        continue
                    paths.add(record)
                    requests.append({"method": method, "path": path, "headers": dict(headers), **({"body": body} if body else {})})
                await self.send(client, "POST", "/v1/batch", {"requests": requests})
            elif draw < .86:
                collection = self.random.choice(self.STABLE)
                path = f"/v1/buckets/main/collections/{collection}"
                await self.send(client, "PUT", path, {"data": {"v": self.value()}})
            elif draw < .88:
                collection = self.random.choice(self.STABLE)
                await self.send(client, "DELETE", f"/v1/buckets/main/collections/{collection}/records?_limit=4")
            elif draw < .91:
                op = await self.send(client, "GET", self.record_path())
                self.learn(op)
            else:
                await self.pass_away(client)
            await asyncio.sleep(self.random.random() * .03)
        client.close()

    async def pass_away(self, client):
        """Deletes and creates collections and a bucket again, with records in them."""
        draw = self.random.random()
        if draw < .35:
            collection = self.random.choice(self.PASSING)
            path = f"/v1/buckets/main/collections/{collection}"
            await self.send(client, self.random.choice(("DELETE", "PUT", "PUT")), path)
        elif draw < .5:
            await self.send(client, self.random.choice(("DELETE", "PUT", "PUT")), "/v1/buckets/tmp")
        elif draw < .65:
            await self.send(client, "PUT", "/v1/buckets/tmp/collections/t0", {"data": {"v": self.value()}})
        elif draw < .7:
            members = [f"basicauth:{n:064x}" for n in self.random.sample(range(8), 3)]
            await self.send(client, "PUT", f"/v1/buckets/main/groups/g{self.random.randrange(2)}", {"data": {"members": members}})
        else:
            base = self.random.choice(["/v1/buckets/tmp/collections/t0"] + [f"/v1/buckets/main/collections/{c}" for c in self.PASSING])
            path = f"{base}/records/r{self.random.randrange(self.options.records)}"
            await self.send(client, *self.one(path))

    # ---- readers

    async def syncer(self, collection, pages):
        """Synchronizes as kinto.js does: by `_since` with the ETag of the first page."""
        client, since, known = http1.Client(self.stack.port), None, {}
        path = f"/v1/buckets/main/collections/{collection}/records"
        last = False
        while True:
            query = [("_limit", str(pages))] if pages else []
            if since is not None:
                query.append(("_since", f'"{since}"'))
            target = path + ("?" + urllib.parse.urlencode(query) if query else "")
            begin = time.time()
            etag, objects, ok = None, [], True
            while target:
                op = await self.send(client, "GET", target, keep=False)
                if op["status"] != 200:
                    ok = False
                    break
                if etag is None:
                    etag = int(op["out"]["etag"].strip('"'))
                objects += op["answer"]["data"]
                target = op["out"].get("next-page")
                if target:
                    target = target[target.index("/v1/"):]
            if ok:
                self.syncs.append({"kind": "since", "collection": collection, "since": since, "etag": etag, "begin": begin,
                                   "end": time.time(), "objects": objects, "pages": pages})
                for item in objects:
                    # If two pages have a record, the later time is the newer state.
                    before = known.get(item["id"])
                    if before is None or before["last_modified"] <= item["last_modified"]:
                        known[item["id"]] = item
                since = etag
                if last:
                    break
            if self.over and not last:
                await self.rest.wait()
                last = True
            elif not ok and last:
                await asyncio.sleep(.2)
            else:
                await asyncio.sleep(self.random.random() * .08)
        client.close()
        live = {key: item for key, item in known.items() if not item.get("deleted")}
        return f"_since of {collection} in pages of {pages}", collection, live, since

    async def changeset_syncer(self, collection, incremental):
        client, since, known = http1.Client(self.stack.port), None, {}
        path = f"/v1/buckets/main/collections/{collection}/changeset"
        last, timestamp = False, 0
        while True:
            query = {"_expected": str(self.random.randrange(10 ** 6))}
            if since is not None and incremental:
                query["_since"] = f'"{since}"'
            begin = time.time()
            op = await self.send(client, "GET", path + "?" + urllib.parse.urlencode(query), keep=False)
            ok = op["status"] == 200
            if ok:
                answer = op["answer"]
                self.syncs.append({"kind": "changeset", "collection": collection, "since": since if incremental else None,
                                   "etag": answer["timestamp"], "begin": begin, "end": time.time(), "objects": answer["changes"],
                                   "pages": 0, "metadata": answer["metadata"]})
                if not incremental:
                    known = {}
                for item in answer["changes"]:
                    known[item["id"]] = item
                if answer["timestamp"] < timestamp:
                    self.violation("changeset went back", f"{collection}: {timestamp} then {answer['timestamp']}")
                since = timestamp = answer["timestamp"]
                if last:
                    break
            if self.over and not last:
                await self.rest.wait()
                last = True
            elif not ok and last:
                await asyncio.sleep(.2)
            else:
                await asyncio.sleep(self.random.random() * .1)
        client.close()
        live = {key: item for key, item in known.items() if not item.get("deleted")}
        return f"changeset of {collection}, incremental: {incremental}", collection, live, since

    async def poller(self, kind):
        client, since = http1.Client(self.stack.port), None
        while not self.over:
            target = MONITOR + ("/changeset?_expected=0" if kind == "changeset" else "/records")
            if kind == "since" and since is not None:
                target += "?" + urllib.parse.urlencode({"_since": f'"{since}"'})
            begin = time.time()
            op = await self.send(client, "GET", target, keep=False)
            if op["status"] == 200:
                if kind == "changeset":
                    etag, entries = op["answer"]["timestamp"], op["answer"]["changes"]
                else:
                    etag, entries = int(op["out"]["etag"].strip('"')), op["answer"]["data"]
                self.polls.append({"kind": kind, "since": since if kind == "since" else None, "etag": etag, "begin": begin,
                                   "end": op["end"], "entries": {f"/buckets/{e['bucket']}/collections/{e['collection']}": e["last_modified"]
                                                                for e in entries}})
                since = etag
            await asyncio.sleep(self.random.random() * .05)
        client.close()

    # ---- the whole

    async def run(self):
        options = self.options
        faults = Faults(options.faults, self.seed)
        visibility = {"broadcasts": 45, "notifications": 4} if options.faults == "broadcaster" else {"broadcasts": 42, "notifications": 4}
        self.stack = Stack(
            options.functions, {"KINTO_CHANGES_RESOURCES": "/buckets/main"}, options.apis, options.isolation, options.shards,
            self.seed, slow=not options.quick, faults=faults, template=options.template, folder=options.logs, proto="http",
            visibility=visibility, duplicates=.05 if options.faults != "none" else 0, keep_history=True,
            dynamodb_url=options.dynamodb_url)
        faults.table = self.stack.table
        self.stack.faulty = False
        await self.stack.start()
        self.rest = asyncio.Event()
        client = http1.Client(self.stack.port)
        await self.send(client, "PUT", "/v1/buckets/main")
        await self.send(client, "PUT", "/v1/buckets/tmp")
        for collection in self.STABLE + self.PASSING + ("p0",):
            op = await self.send(client, "PUT", f"/v1/buckets/main/collections/{collection}")
            assert op["status"] in (200, 201), op
        self.stack.faulty = True
        writers = [asyncio.ensure_future(self.writer(n)) for n in range(options.clients)]
        readers = [self.syncer(c, pages) for c, pages in (("c0", 0), ("c1", 0), ("c2", 3), ("c0", 2))]
        readers += [self.changeset_syncer(c, incremental) for c, incremental in (("c0", True), ("c1", True), ("c2", False), ("c1", False))]
        readers = [asyncio.ensure_future(reader) for reader in readers]
        pollers = [asyncio.ensure_future(self.poller(kind)) for kind in ("all", "all", "since", "changeset")]
        await asyncio.sleep(options.seconds)
        self.over = True
        await asyncio.gather(*writers, *pollers)
        self.stack.faulty = False
        rested = await self.come_to_rest(180 if options.faults == "broadcaster" else 110)
        if not rested:
            self.violation("not at rest", self.pending())
        self.rest.set()
        synced = await asyncio.gather(*readers)
        await self.check(client, synced)
        client.close()
        await self.stack.stop()

    def pending(self):
        streams = [(s.function.name, s.position, len(s.shard.records)) for s in self.stack.stream_sources if not s.idle]
        queues = {name: [(m["group"], m["count"], round(m["visible"] - time.time(), 1)) for m in queue.messages[:5]]
                  for name, queue in self.stack.queues.items() if queue.messages}
        return f"streams {streams}, queues {queues}"

    async def come_to_rest(self, seconds):
        until = time.time() + seconds
        quiet = 0
        while time.time() < until:
            busy = any(not s.idle or s.position < len(s.shard.records) for s in self.stack.stream_sources)
            busy = busy or any(queue.messages for name, queue in self.stack.queues.items() if "dead" not in name)
            # Their senders may be gone: late or stalled requests still take effect.
            busy = busy or self.stack.in_flight or getattr(self.stack.table, "locked", None)
            quiet = 0 if busy else quiet + 1
            if quiet >= 8:
                return True
            await asyncio.sleep(.1)
        return False

async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", default=FUNCTIONS)
    parser.add_argument("--template")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--isolation", default="partition", choices=["atomic", "partition", "item"])
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--apis", type=int, default=6)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--records", type=int, default=8)
    parser.add_argument("--faults", default="light", choices=sorted(LEVELS))
    parser.add_argument("--quick", action="store_true", help="no pauses within the table's own operations")
    parser.add_argument("--dynamodb-url")
    parser.add_argument("--logs", default=LOGS)
    parser.add_argument("--shapes", help="a file for one example of each shape of request to DynamoDB")
    options = parser.parse_args()
    bad = 0
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last) + 1) if last else [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        run = Run(options, seed)
        begin = time.time()
        try:
            await asyncio.wait_for(run.run(), options.seconds + 400)
        except asyncio.TimeoutError:
            run.violation("hangs", "the run did not end")
            await run.stack.stop()
        kinds = {}
        for kind, _ in run.violations:
            kinds[kind] = kinds.get(kind, 0) + 1
        faults = {}
        for (fault, _), count in run.stack.injected.items():
            faults[fault] = faults.get(fault, 0) + count
        print(f"seed {seed}, {options.isolation}, {options.faults}, {time.time() - begin:.0f} s: {sum(run.statuses.values())} requests "
              f"{dict(sorted(run.statuses.items(), key=str))}, {len(run.syncs)} syncs ({getattr(run, 'checked', 0)} records), "
              f"{len(run.polls)} polls, {run.stack.table.writes if hasattr(run.stack.table, 'writes') else '?'} item writes, "
              f"{len(run.stack.events)} events, {len(run.stack.megaphone.versions)} broadcasts, faults {faults}, "
              f"kills {run.stack.exits}", flush=True)
        print("  stream batches " + str({f"{s.function.name}": sum(o.batches for o in run.stack.stream_sources if o.function is s.function)
                                          for s in run.stack.stream_sources}) +
              f", queue batches {[s.batches for s in run.stack.queue_sources]}, retried {sum(s.retries for s in run.stack.stream_sources)}")
        print("  " + run.stack.summary().replace("\n", "\n  "))
        for kind, texts in run.warnings.items():
            print(f"  note: {len(texts)} x {kind}; {texts[0][:600]}")
        print(f"  VIOLATIONS: {kinds}" if kinds else "  no violation", flush=True)
        shown = {}
        for kind, text in run.violations:
            shown[kind] = shown.get(kind, 0) + 1
            if shown[kind] <= 3:
                print(f"    {kind}: {text[:900]}")
        bad += bool(kinds)
        if options.shapes and hasattr(run.stack.table, "shapes"):
            with open(options.shapes, "w") as file:
                json.dump(list(run.stack.table.shapes.values()), file)
    print(f"{len(list(seeds)) - bad} passed, {bad} failed")
    sys.exit(bool(bad))


if __name__ == "__main__":
    asyncio.run(main())
