"""Random histories against the deployed functions, with faults, checked against every version that the table ever held.

    python3 tests/deployed/histories.py [--functions DIR] [--seeds 1,2,3] [--seconds 25] [--isolation item] [--shards 2] [--apis 6]
                         [--faults LEVEL] [--clients 10]

Each seed: a new stack (run.py), writers, readers that synchronize, pollers of the monitor; then the faults end, the stack
comes to rest, and `check` compares what was answered with what the table held. LEVEL: none, light, heavy, lost (answers
that get lost and transactions that stall), broadcaster (its processes are killed too: takes two minutes more).

Exit status 1 if anything is violated; each violation is printed with the requests that show it.
"""

import argparse
import asyncio
import base64
import bisect
import json
import os
import random
import sys
import time
import urllib.parse

import http1
from run import FUNCTIONS, LOGS, Failed, Stack, loads

AUTH = ("Authorization", "Basic " + base64.b64encode(b"me:secret").decode())
JSON = ("Content-Type", "application/json")
MONITOR = "/v1/buckets/monitor/collections/changes"

# Of each request to AWS, by function: the chance of each fault.
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


class Run:
    def __init__(self, options, seed):
        self.options, self.seed = options, seed
        self.random = random.Random(seed)
        self.ops, self.syncs, self.polls, self.violations = [], [], [], []
        self.statuses, self.unique, self.over = {}, 0, False
        self.etags = {}  # the last that anybody saw of a record
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
        """Collections and a bucket that are deleted and made anew, with records in them."""
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
        """As kinto.js: by `_since` with the ETag of the first page."""
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
                    # Of two pages the later time is the newer state.
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
            # Who sent them may have gone: what is late, or stalled, still takes effect.
            busy = busy or self.stack.in_flight or getattr(self.stack.table, "locked", None)
            quiet = 0 if busy else quiet + 1
            if quiet >= 8:
                return True
            await asyncio.sleep(.1)
        return False

    # ---- checks

    async def check(self, client, synced):
        if isinstance(getattr(self.stack.table, "history", None), list):
            self.read_history()
            self.check_times()
            self.check_writes()
            self.check_syncs()
            self.check_polls()
            self.check_events()
        for what, collection, live, since in synced:
            op = await self.send(client, "GET", f"/v1/buckets/main/collections/{collection}/records", keep=False)
            server = {item["id"]: item for item in op["answer"]["data"]}
            if live != server:
                missing = {k: v for k, v in server.items() if live.get(k) != v}
                extra = {k: v for k, v in live.items() if k not in server}
                self.violation("a client is not in sync", f"{what}: has not {missing}, has wrongly {extra}")
        await self.check_monitor_at_rest(client)
        if self.stack.denied:
            self.violation("a permission is missing", str(self.stack.denied))
        for key in self.stack.notes:
            if key.startswith("refused |"):
                self.violation("AWS refuses a request", key)

    def read_history(self):
        """Of each record, and of each list, its versions in the order of their commits."""
        self.versions, self.lists, self.monitor, self.by_value = {}, {}, {}, {}
        for n, (at, (pk, sk), item, transaction) in enumerate(self.stack.table.history):
            if pk == "#monitor":
                if sk == "#state":
                    self.read_monitor(n, at, item)
                continue
            if sk == "#timestamp":
                self.lists.setdefault(pk, []).append((n, at, int(item["timestamp"]["N"]), "closed" in item,
                                                      item["generation"]["S"]))
            elif pk.endswith(("#record", "#collection", "#group", "#bucket")):
                live = "deleted" not in item
                data = json.loads(item["data"]["S"]) if live else None
                version = {"n": n, "at": at, "lm": int(item["last_modified"]["N"]), "live": live, "data": data,
                           "parent": item["parent"]["S"], "generation": item["generation"]["S"], "pk": pk, "sk": sk,
                           "transaction": transaction}
                self.versions.setdefault((pk, sk), []).append(version)
                if live and isinstance(data, dict) and "v" in data:
                    self.by_value.setdefault(data["v"], []).append(version)

    def read_monitor(self, n, at, state):
        """The changes that a state of the monitor has and the one before had not: by collection when, the collection's
        timestamp, whether it is gone, and the position. An entry's own item says nothing that was not there before."""
        for name, entry in state.get("latest", {}).get("M", {}).items():
            bucket, collection = name.split("/")
            position, timestamp, *deleted = entry["L"]
            entries = self.monitor.setdefault(f"/buckets/{bucket}/collections/{collection}", [])
            if not entries or entries[-1][4] != int(position["N"]):
                entries.append((n, at, int(timestamp["N"]), bool(deleted), int(position["N"])))

    def check_times(self):
        for pk, entries in self.lists.items():
            last = 0
            for _, _, timestamp, _, _ in entries:
                if timestamp < last:
                    self.violation("a list's timestamp went back", f"{pk}: {last} then {timestamp}")
                last = timestamp
        seen = {}
        for (pk, sk), versions in self.versions.items():
            if "/p0#" in pk:
                continue
            for version in versions:
                other = seen.setdefault((pk, version["lm"]), sk)
                if other != sk or other == sk and sum(v["lm"] == version["lm"] for v in versions) > 1:
                    self.violation("two objects of a list have one timestamp", f"{pk}: {other} and {sk} at {version['lm']}")
            times = [version["lm"] for version in versions]
            if times != sorted(times):
                self.violation("an object went back", f"{pk} {sk}: {times}")

    @staticmethod
    def key_of(path):
        parts = path.split("?")[0].strip("/").split("/")[1:]
        kind, identifier = parts[-2], parts[-1]
        parent = "/" + "/".join(parts[:-2]) if len(parts) > 2 else ""
        return f"{parent}#{kind[:-1]}", identifier

    def flat(self):
        """Each write, those of batches on their own: (op, method, path, headers, body, status, answer)."""
        for op in self.ops:
            if op["path"] == "/v1/batch":
                requests = op["body"]["requests"]
                answers = (op["answer"] or {}).get("responses") if op["status"] == 200 else None
                for n, request in enumerate(requests):
                    answer = answers[n] if answers else {}
                    status = answer.get("status") if answers else (op["status"] if op["status"] and op["status"] < 500 else None)
                    yield (op, request["method"], request["path"], request["headers"], request.get("body"), status, answer.get("body"))
            elif op["method"] in ("PUT", "PATCH", "POST", "DELETE"):
                status = op["status"]
                yield (op, op["method"], op["path"], op["headers"], op["body"], status, op["answer"])

    def check_writes(self):
        acknowledged = {}
        for op, method, path, headers, body, status, answer in self.flat():
            if path.split("?")[0].endswith("/records") and method == "DELETE" or path.startswith("/v1/batch"):
                continue
            data = (answer or {}).get("data") if isinstance(answer, dict) else None
            value = ((body or {}).get("data") or {}).get("v")
            found = self.by_value.get(value, []) if value else []
            if method == "POST":
                pk = self.key_of(path + "/x")[0]
                sk = data.get("id") if data else ((body or {}).get("data") or {}).get("id")
            else:
                pk, sk = self.key_of(path)
            versions = self.versions.get((pk, sk), [])
            shown = f"{method} {path} {headers} {value} -> {status} {json.dumps(data)[:150] if data else json.dumps(answer)[:200]}"
            if value and method == "POST" and len({(v["pk"], v["sk"]) for v in found}) > 1:
                self.violation("a POST made two records", f"{shown}: {[(v['sk'], v['lm']) for v in found]}")
            if status in (200, 201) and data:
                lm = data.get("last_modified")
                at = [n for n, version in enumerate(versions) if version["lm"] == lm]
                if not at:
                    # A POST or PUT may be answered with what was there: then nothing was written.
                    self.violation("an acknowledged write is not there", shown)
                    continue
                version, before = versions[at[0]], versions[at[0] - 1] if at[0] else None
                if method == "DELETE" and version["live"] or method != "DELETE" and not version["live"]:
                    self.violation("an acknowledged write is not what was written", f"{shown} {version}")
                wrote = method == "DELETE" or value is None or (version["data"] or {}).get("v") == value
                if method in ("PUT", "PATCH") and not wrote:
                    self.violation("an acknowledged write has other data", f"{shown} {version}")
                if wrote and pk.endswith("#record") and "/p0#" not in pk:
                    acknowledged.setdefault(pk, []).append((op["begin"], op["end"], lm, shown))
                if_match = next((v for k, v in headers.items() if k.lower() == "if-match"), None)
                if if_match and (before is None or f'"{before["lm"]}"' != if_match):
                    self.violation("If-Match did not hold", f"{shown}: before it was {before}")
                if "If-None-Match" in headers and wrote and before is not None and before["live"] and before["parent"] == version["parent"] \
                        and op["path"] != "/v1/batch":
                    self.violation("If-None-Match did not hold", f"{shown}: before it was {before}")
                if value and len([v for v in found if (v["pk"], v["sk"]) == (pk, sk)]) > 1 and method in ("PUT", "POST"):
                    # PATCH of metadata keeps v; a write that was done twice shows as two versions with one value.
                    others = [v for v in found if (v["pk"], v["sk"]) == (pk, sk)]
                    if not self.patched(others):
                        self.warn("a write was done twice (and answered once)", f"{shown}: {[v['lm'] for v in others]}")
            elif status is not None and 400 <= status < 500:
                if found and status != 429:
                    self.violation("a refused write took effect", f"{shown}: {found}")
                if_match = next((v for k, v in headers.items() if k.lower() == "if-match"), None)
                if status == 412 and if_match and op["path"] != "/v1/batch":
                    self.check_refusal(op, versions, int(if_match.strip('"')), shown)
                if method == "DELETE" and status in (404, 412) and op["path"] != "/v1/batch":
                    self.check_no_tombstone(op, versions, status, shown)
        # Who began after another had ended has a later time.
        for pk, entries in acknowledged.items():
            entries.sort(key=lambda entry: entry[1])
            ends, highest, top = [], [], (0, "")
            for begin, end, lm, shown in entries:
                top = max(top, (lm, shown))
                ends.append(end)
                highest.append(top)
            for begin, end, lm, shown in entries:
                n = bisect.bisect_left(ends, begin)
                if n and highest[n - 1][0] > lm:
                    self.violation("times are not in the order of the requests", f"{shown} began after {highest[n - 1]}")

    def warn(self, kind, text):
        self.warnings.setdefault(kind, []).append(text)

    @staticmethod
    def patched(versions):
        return False

    def check_refusal(self, op, versions, expected, shown):
        """A 412 is right when at some moment within the request the record was another than it named."""
        current, always = None, True
        for n, version in enumerate(versions):
            after = versions[n + 1]["at"] if n + 1 < len(versions) else float("inf")
            if version["at"] <= op["end"] and after >= op["begin"] and version["lm"] != expected:
                always = False
        if not versions:
            always = False
        if always and any(v["lm"] == expected and v["live"] for v in versions):
            self.violation("412 although If-Match held all the time", shown)

    def check_no_tombstone(self, op, versions, status, shown):
        """A deletion that was refused deleted nothing: each tombstone within it is somebody else's. Counted, for who else
        deleted that record then cannot be told for certain."""
        within = [v for v in versions if not v["live"] and op["begin"] <= v["at"] <= op["end"]]
        if not within:
            return
        others = [o for o, m, p, *_ in self.flat() if o is not op and o["begin"] <= op["end"] and o["end"] >= op["begin"]
                  and (m == "DELETE" and (p.split("?")[0] == op["path"] or p.split("?")[0] == op["path"].rsplit("/", 1)[0]))]
        if not others:
            self.violation("a deletion was refused and took effect", f"{shown}: tombstone at {within[0]['lm']}")

    def check_syncs(self):
        """Of each answer: every version with since < time <= ETag is in it, or a later one of that record."""
        per_list = {}
        for (pk, sk), versions in self.versions.items():
            per_list.setdefault(pk, []).extend((v["lm"], sk, v["live"], v["at"]) for v in versions)
        for entries in per_list.values():
            entries.sort()
        self.checked = 0
        for sync in self.syncs:
            pk = f"/buckets/main/collections/{sync['collection']}#record"
            entries = per_list.get(pk, [])
            since = sync["since"] or 0
            got = {}
            for item in sync["objects"]:
                got[item["id"]] = max(got.get(item["id"], 0), item["last_modified"])
            low = bisect.bisect_right(entries, (since, "\U0010ffff"))
            high = bisect.bisect_right(entries, (sync["etag"], "\U0010ffff"))
            newest = {}
            for lm, sk, live, at in entries[low:high]:
                newest[sk] = (lm, live, at)
            for sk, (lm, live, at) in newest.items():
                self.checked += 1
                if sync["since"] is None and not live:
                    if sk in got and got[sk] <= lm:
                        self.violation("a deleted record is shown", f"{sync['kind']} {sync['collection']} {sk} {lm} {got[sk]}")
                    continue
                if got.get(sk, 0) < lm:
                    # What a later write moved on while pages were read is behind the ETag and comes next time.
                    later = [v for v in self.versions[(pk, sk)] if v["lm"] > sync["etag"] and v["at"] <= sync["end"]]
                    if later and sk not in got:
                        continue
                    self.violation("a reader misses a write", f"{sync['kind']} of {sync['collection']} (pages of {sync['pages']}) "
                                   f"since {sync['since']} has ETag {sync['etag']} without {sk} of {lm} (live: {live}), committed "
                                   f"{1000 * (at - sync['begin']):.1f} ms after it began, {1000 * (at - sync['end']):.1f} after it ended; "
                                   f"shown: {got.get(sk)}")
        # One after the other: the ETag never goes back.
        ordered = {}
        for sync in sorted(self.syncs, key=lambda sync: sync["end"]):
            ordered.setdefault(sync["collection"], []).append(sync)
        for collection, syncs in ordered.items():
            ends = [sync["end"] for sync in syncs]
            highest, top = [], 0
            for sync in syncs:
                top = max(top, sync["etag"])
                highest.append(top)
            for sync in syncs:
                n = bisect.bisect_left(ends, sync["begin"])
                if n and highest[n - 1] > sync["etag"]:
                    self.violation("a list's ETag went back", f"{collection} {sync['kind']}: {sync['etag']} after {highest[n - 1]}")

    def check_polls(self):
        truth = {}
        for pk, entries in self.lists.items():
            if pk.endswith("#record"):
                truth[pk[:-len("#record")]] = [(at, timestamp) for _, at, timestamp, _, _ in entries]
        polls = sorted(self.polls, key=lambda poll: poll["end"])
        full = [poll for poll in polls if poll["kind"] != "since"]
        for poll in polls:
            for uri, lm in poll["entries"].items():
                known = [timestamp for at, timestamp in truth.get(uri, []) if at <= poll["end"] + .001]
                if lm > max(known, default=0):
                    self.violation("the monitor is ahead", f"{uri}: {lm}, list {max(known, default=0)}")
        ends = [poll["end"] for poll in full]
        states, top = [], {}
        for poll in full:
            top = dict(top)
            for uri, lm in poll["entries"].items():
                top[uri] = max(top.get(uri, 0), lm)
            top["etag"] = max(top.get("etag", 0), poll["etag"])
            states.append(top)
        for poll in full:
            n = bisect.bisect_left(ends, poll["begin"])
            if not n:
                continue
            before = states[n - 1]
            for uri, lm in before.items():
                shown = poll["etag"] if uri == "etag" else poll["entries"].get(uri)
                if shown is None:
                    gone = any(deleted for _, at, _, deleted, _ in self.monitor.get(uri, []) if at <= poll["end"] + .001)
                    if not gone:
                        self.violation("an entry of the monitor vanished", f"{uri} {lm}")
                elif shown < lm:
                    self.violation("the monitor went back", f"{uri}: {lm} then {shown} ({poll['kind']})")
        for poll in polls:
            if poll["kind"] != "since" or poll["since"] is None:
                continue
            for uri, entries in self.monitor.items():
                if not uri.startswith("/buckets/main/"):
                    continue
                within = [(lm, deleted, at) for _, at, lm, deleted, position in entries if poll["since"] < position <= poll["etag"]]
                if not within or within[-1][1] or poll["entries"].get(uri, 0) >= within[-1][0]:
                    continue
                lm, _, at = within[-1]
                if any(position > poll["etag"] and at <= poll["end"] for _, at, _, _, position in entries):
                    continue
                shown = f"{uri} since {poll['since']} ETag {poll['etag']}: {lm}, shown {poll['entries'].get(uri)}"
                self.violation("a poll of the monitor misses a change", f"{shown}, recorded {1000 * (at - poll['begin']):.0f} ms after it began")

    def check_events(self):
        if not self.stack.listeners:
            return
        told, order = {}, {}
        for group, identifier, event in self.stack.events:
            for impacted in event["impacted_records"]:
                new = impacted.get("new") or {}
                told.setdefault((event["resource_name"], new.get("id"), new.get("last_modified")), 0)
                if not event.get("truncated"):
                    told[(event["resource_name"], new.get("id"), new.get("last_modified"))] += 1
            parent = event["uri"]
            order.setdefault(group, []).append((event["id"], event))
        self.events_count = len(self.stack.events)
        for (pk, sk), versions in self.versions.items():
            kind = pk.rsplit("#", 1)[1]
            for version in versions:
                if (kind, sk, version["lm"]) not in told:
                    self.violation("an event is lost", f"{pk} {sk} {version['lm']} live: {version['live']}")
        truth = {(version["pk"].rsplit("#", 1)[1], version["sk"], version["lm"]) for versions in self.versions.values() for version in versions}
        for key in told:
            if key not in truth:
                self.violation("an event of a write that was not committed", str(key))
        # Of a collection's records in the order of the commits; of one transaction the events stand by action, not by time.
        by_time = {(version["pk"], version["sk"], version["lm"]): version["transaction"]
                   for versions in self.versions.values() for version in versions}
        for group, events in order.items():
            seen, top = set(), {}
            for identifier, event in events:
                if identifier in seen or event["resource_name"] != "record" or "/collections/p0" in event["uri"]:
                    continue
                seen.add(identifier)
                pk = f"/buckets/{event['bucket_id']}/collections/{event['collection_id']}#record"
                for new in [impacted["new"] for impacted in event["impacted_records"] if impacted.get("new")]:
                    this = (new["last_modified"], by_time.get((pk, new["id"], new["last_modified"])))
                    highest = top.get(pk, (0, None))
                    if this[0] < highest[0] and this[1] is not highest[1]:
                        self.violation("events of a list are not in the order of the commits", f"{event['uri']} {identifier}: {this[0]} after {highest[0]}")
                    top[pk] = max(this, highest, key=lambda pair: pair[0])

    async def check_monitor_at_rest(self, client):
        op = await self.send(client, "GET", MONITOR + "/records", keep=False)
        shown = {f"/buckets/{e['bucket']}/collections/{e['collection']}": e["last_modified"] for e in op["answer"]["data"]}
        highest = 0
        for pk, entries in getattr(self, "lists", {}).items():
            uri = pk[:-len("#record")]
            if not pk.startswith("/buckets/main/") or not pk.endswith("#record"):
                continue
            _, _, timestamp, closed, _ = entries[-1]
            if closed and uri in shown:
                self.violation("the monitor shows a deleted collection", uri)
            if not closed and shown.get(uri) != timestamp:
                self.violation("the monitor does not converge", f"{uri}: {shown.get(uri)}, list {timestamp}")
            if not closed:
                highest = max(highest, timestamp)
        last = 0
        for at, target, version in self.stack.megaphone.versions:
            if version < last:
                self.violation("Megaphone went back", f"{version} after {last}")
            last = max(last, version)
        if last < highest:
            self.violation("Megaphone does not converge", f"{last}, highest {highest}")


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
