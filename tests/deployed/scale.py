"""Measures the load that a table with DynamoDB's limits carries, and the answers above these limits (docs/scale.md).

    python3 tests/deployed/scale.py --functions DIR --template template.yaml [--scale 0.02] [--seconds 15] [NAME ...]

    writers     more writers of one list than its partition key carries, while others write another list
    readers     more readers of one object than a partition key carries, while others read another. The others suffer too, because
                every read also reads the bucket, and all buckets are under one key
    pollers     more pollers of monitor/changes than the item that they all read carries

One partition key takes 1,000 write units a second and 3,000 read units. `--scale` multiplies these, so that a machine of two cores can
exceed them. Units are counted by the second, without DynamoDB's burst. Ends with 1 if something was lost, if a 503
had no Retry-After, or if clients suffered that should not.
"""

import argparse
import asyncio
import base64
import json
import math
import sys
import time

import http1
from aws_error import AwsError
from codec import loads
from dynamo import Table
from run import LOGS, Stack

AUTH = ("Authorization", "Basic " + base64.b64encode(b"me:secret").decode())
JSON = ("Content-Type", "application/json")
MAIN = "/v1/buckets/main/collections/"
MONITOR = "/v1/buckets/monitor/collections/changes/records"


class Limited(Table):
    """A table with a limit of units a second for each partition key."""

    scale, spent, second, refused = None, {}, 0, 0

    def spend(self, kind, units):
        """Takes `units` by partition key, either all or none."""
        if not self.scale:
            return []
        second = int(time.monotonic())
        if second != self.second:
            self.second, self.spent = second, {}
        most = self.scale * (3000 if kind == "read" else 1000)
        # As in DynamoDB, the first request above the limit is served: a limit is never below one request.
        over = [key for key in units if self.spent.get((kind, key), 0) >= most]
        if not over:
            for key, count in units.items():
                self.spent[kind, key] = self.spent.get((kind, key), 0) + count
        return over

    async def call(self, operation, request):
        kind, units, keys = self.units(operation, request)
        over = self.spend(kind, units)
        if not over:
            return await super().call(operation, request)
        self.refused += 1
        if operation.startswith("Transact"):
            reasons = [{"Code": "ThrottlingError" if key in over else "None"} for key in keys]
            codes = ", ".join(reason["Code"] for reason in reasons)
            raise AwsError("TransactionCanceledException", "Transaction cancelled, please refer cancellation reasons for "
                           f"specific reasons [{codes}]", CancellationReasons=reasons)
        raise AwsError("ProvisionedThroughputExceededException", "The level of configured provisioned throughput for one or "
                       "more partition keys was exceeded")

    def units(self, operation, request):
        """Returns "read" or "write", the approximate units by partition key, and the partition key of each item."""
        if operation == "Query":
            # Whatever it finds: the first page's first item.
            return "read", {}, []
        if operation in ("GetItem", "UpdateItem"):
            items = [request["Key"]]
        elif operation == "PutItem":
            items = [request["Item"]]
        elif operation == "BatchGetItem":
            (wanted,) = request["RequestItems"].values()
            items = wanted["Keys"]
        else:
            items = [inner.get("Key") or inner["Item"] for action in request["TransactItems"] for inner in action.values()]
        keys = [item["pk"]["S"] for item in items]
        factor = 2 if operation.startswith("Transact") else 1
        units = {}
        for key, item in zip(keys, items):
            size = 1 if "Get" in operation else math.ceil(len(json.dumps(item)) / 1024)
            units[key] = units.get(key, 0) + factor * size
        return "read" if "Get" in operation else "write", units, keys


class Load:
    """Clients that send one request after the other."""

    def __init__(self, port, end):
        self.port, self.end, self.answers = port, end, []

    async def run(self, clients, pause, request):
        async def one(number):
            client, n = http1.Client(self.port), 0
            while time.monotonic() < self.end:
                method, path, body = request(number, n)
                begin = time.monotonic()
                status, out, answer = await client.request(method, path, [AUTH, JSON], json.dumps(body).encode() if body else b"")
                self.answers.append((status, time.monotonic() - begin, out.get("retry-after"), path))
                n += 1
                # A client obeys Retry-After.
                await asyncio.sleep(float(out["retry-after"]) if "retry-after" in out else pause)
            client.close()
        await asyncio.gather(*(one(number) for number in range(clients)))

    def show(self, name, seconds):
        counts = {}
        for status, *_ in self.answers:
            counts[status] = counts.get(status, 0) + 1
        times = sorted(took for _, took, *_ in self.answers)
        done = sum(count for status, count in counts.items() if status < 400)
        print(f"  {name}: {done / seconds:.1f} a second, {counts}, p50 {times[len(times) // 2]:.3f} s, "
              f"p99 {times[len(times) * 99 // 100]:.3f} s, longest {times[-1]:.3f} s")
        return counts


async def drive(options, name):
    stack = Stack(options.functions, {"KINTO_CHANGES_RESOURCES": "/buckets/main"}, 24, listeners=False, proto="http",
                  template=options.template, folder=options.logs)
    stack.table.__class__ = Limited
    await stack.start()
    setup = http1.Client(stack.port)

    async def ask(method, path, body=None):
        status, out, answer = await setup.request(method, path, [AUTH, JSON], json.dumps(body).encode() if body else b"")
        return status, loads(answer) if answer else None

    await ask("PUT", "/v1/buckets/main")
    for collection in "ab":
        await ask("PUT", MAIN + collection)
        await ask("PUT", MAIN + collection + "/records/r", {"data": {"n": 0}})
    put = {"data": {"n": 1}}
    loads_of = {
        "writers": [
            ("writers of one list", 12, 0, lambda c, n: ("PUT", f"{MAIN}a/records/w{c}-{n}", put)),
            ("writers of another", 1, .5, lambda c, n: ("PUT", f"{MAIN}b/records/w{c}-{n}", put)),
        ],
        "readers": [
            ("readers of one object", 12, 0, lambda c, n: ("GET", f"{MAIN}a/records/r", None)),
            ("readers of another bucket", 1, .5, lambda c, n: ("GET", "/v1/buckets/other/collections/c/records/r", None)),
        ],
        "pollers": [
            ("pollers of monitor/changes", 12, 0, lambda c, n: ("GET", MONITOR, None)),
            ("writers of a list", 1, 1, lambda c, n: ("PUT", f"{MAIN}b/records/w{c}-{n}", put)),
        ],
    }[name]
    await ask("PUT", "/v1/buckets/other")
    await ask("PUT", "/v1/buckets/other/collections/c")
    await ask("PUT", "/v1/buckets/other/collections/c/records/r", put)
    end = time.monotonic() + options.seconds
    stack.table.scale = options.scale
    running = [Load(stack.port, end) for _ in loads_of]
    await asyncio.gather(*(load.run(*rest) for load, (_, *rest) in zip(running, loads_of)))
    stack.table.scale = None
    wrong = []
    for load, (what, *_) in zip(running, loads_of):
        counts = load.show(what, options.seconds)
        strange = set(counts) - {200, 201, 503}
        if strange:
            wrong.append(f"{what} were answered {strange}")
        if any(status == 503 and not after for status, _, after, _ in load.answers):
            wrong.append(f"{what} were answered 503 without Retry-After")
        for status, _, _, path in load.answers:
            if status == 201 and (await ask("GET", path))[0] != 200:
                wrong.append(f"{path} was answered 201 and is not there")
    if 503 in {status for status, *_ in running[1].answers} and name != "readers":
        wrong.append(f"{loads_of[1][0]} suffer")
    if not any(status == 503 for status, *_ in running[0].answers):
        print("  (not beyond the limit)")
    # monitor/changes has the latest change of each list.
    for collection in "ab":
        _, found = await ask("GET", f"{MAIN}{collection}/records?_limit=1")
        latest = found["data"][0]["last_modified"]
        for _ in range(200):
            _, monitor = await ask("GET", MONITOR)
            if any(entry["collection"] == collection and entry["last_modified"] == latest for entry in monitor["data"]):
                break
            await asyncio.sleep(.1)
        else:
            wrong.append(f"monitor/changes does not show the latest of {collection}")
    print(f"  requests that the table refused: {stack.table.refused}")
    setup.close()
    await stack.stop()
    return wrong


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--functions", required=True)
    parser.add_argument("--template")
    parser.add_argument("--scale", type=float, default=.02)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--logs", default=LOGS)
    options = parser.parse_args()
    wrong = []
    for name in options.names or ("writers", "readers", "pollers"):
        print(f"{name}: {1000 * options.scale:g} write and {3000 * options.scale:g} read units a second and partition key", flush=True)
        wrong += await drive(options, name)
    print("\n".join(wrong) or "nothing was lost, and every 503 said when to come again")
    sys.exit(bool(wrong))


asyncio.run(main())
