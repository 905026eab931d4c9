"""Prints a table of the capacity units that each kind of request uses, computed from the sizes of the items, and their price.

    python3 tests/deployed/capacity.py [--functions DIR] [--bytes 500]

Transactions cost twice in the table. Each entry of the index is counted once, also in transactions, because the documentation
names no factor for these. With a listener ("+ events") each transaction has an item of the outbox. `--bytes` is the size of a record's data.
"""

import argparse
import asyncio
import base64
import json
import sys

import http1
from codec import loads
from run import FUNCTIONS, LOGS, Stack

AUTH = ("Authorization", "Basic " + base64.b64encode(b"me:secret").decode())
JSON = ("Content-Type", "application/json")
MAIN = "/v1/buckets/main"
NEWS = MAIN + "/collections/news"
MONITOR = "/v1/buckets/monitor/collections/changes"
SHORT = {"TransactWriteItems": "TransactWrite", "TransactGetItems": "TransactGet", "BatchGetItem": "BatchGet"}


async def measure(options, listeners):
    stack = Stack(options.functions, {"KINTO_CHANGES_RESOURCES": "/buckets/main"}, 1, listeners=listeners, template=options.template,
                  proto="http", folder=options.logs)
    await stack.start()
    client = http1.Client(stack.port)
    rows = []

    async def rest():
        quiet = 0
        for _ in range(300):
            busy = any(not s.idle or s.position < len(s.shard.records) for s in stack.stream_sources)
            busy = busy or any(queue.messages for name, queue in stack.queues.items() if "dead" not in name)
            quiet = 0 if busy else quiet + 1
            if quiet > 4:
                return
            await asyncio.sleep(.02)

    async def ask(what, method, path, body=None, headers=(), show=True):
        await rest()
        stack.table.consumed.clear()
        status, out, answer = await client.request(method, path, [AUTH, JSON, *headers],
                                                   json.dumps(body).encode() if body is not None else b"")
        await rest()
        rows_of = {}
        for who, operation, items, read, write, index in stack.table.consumed:
            rows_of.setdefault(who, []).append((operation, items, read, write, index))
        if status >= 400 and status not in (412,):
            sys.exit(f"{what or method + ' ' + path}: {status} {answer}")
        if show:
            rows.append((what, status, rows_of))
        return out, loads(answer) if answer else None

    text = "x" * options.bytes
    await ask("", "GET", "/v1/", show=False)
    await ask("hello", "GET", "/v1/")
    await ask("create a bucket", "PUT", MAIN)
    await ask("create a collection", "PUT", NEWS)
    await ask("create a record", "PUT", NEWS + "/records/a", {"data": {"t": text}})
    await ask("replace a record", "PUT", NEWS + "/records/a", {"data": {"t": text + "y"}})
    await ask("PATCH a record", "PATCH", NEWS + "/records/a", {"data": {"u": 1}})
    await ask("POST a record", "POST", NEWS + "/records", {"data": {"t": text}})
    await ask("write under a past time", "PUT", NEWS + "/records/p", {"data": {"t": text, "last_modified": 1000}})
    await ask("PUT refused by If-None-Match", "PUT", NEWS + "/records/a", {"data": {}}, [("If-None-Match", "*")])
    await ask("GET a record", "GET", NEWS + "/records/a")
    for n in range(4):
        await ask("", "POST", "/v1/batch", {"requests": [
            {"method": "PUT", "path": f"{NEWS}/records/b{n}{m}", "body": {"data": {"t": text}}} for m in range(25)]}, show=False)
    await ask("batch of 25 creations", "POST", "/v1/batch", {"requests": [
        {"method": "PUT", "path": f"{NEWS}/records/c{m}", "body": {"data": {"t": text}}} for m in range(25)]})
    out, _ = await ask("list of 128 records", "GET", NEWS + "/records")
    etag = out["etag"]
    await ask("the same, 304", "GET", NEWS + "/records", None, [("If-None-Match", etag)])
    await ask("list by _since, nothing new", "GET", NEWS + "/records?_since=" + etag.strip('"'))
    await ask("list, page of 10", "GET", NEWS + "/records?_limit=10")
    await ask("HEAD of the list", "HEAD", NEWS + "/records")
    _, answer = await ask("changeset, first in a process", "GET", NEWS + "/changeset?_expected=0")
    await ask("changeset, unchanged", "GET", NEWS + "/changeset?_expected=1")
    await ask("", "PUT", NEWS + "/records/a", {"data": {"t": text}}, show=False)
    await ask("changeset, one record changed", "GET", NEWS + "/changeset?_expected=2")
    await ask("monitor/changes, something changed", "GET", MONITOR + "/records")
    await ask("monitor/changes, nothing changed", "GET", MONITOR + "/records")
    await ask("monitor's changeset, nothing changed", "GET", MONITOR + "/changeset?_expected=0")
    await ask("__broadcasts__", "GET", "/v1/__broadcasts__")
    await ask("group of 3 members", "PUT", MAIN + "/groups/g", {"data": {"members": [f"basicauth:{n:064x}" for n in range(3)]}})
    await ask("DELETE a record", "DELETE", NEWS + "/records/a")
    await ask("DELETE all records (127)", "DELETE", NEWS + "/records")
    await ask("DELETE the collection", "DELETE", NEWS)
    await ask("DELETE the bucket", "DELETE", MAIN)
    client.close()
    await stack.stop()
    return rows


def show(operations):
    counts = {}
    for operation, items, *_ in operations:
        name = SHORT.get(operation, operation)
        counts.setdefault(name, []).append(items)
    text = ", ".join(f"{len(items)} {name}" + (f" of {'+'.join(map(str, items))}" if sum(items) > len(items) or "Trans" in name else "")
                     for name, items in counts.items())
    return text, [sum(operation[n] for operation in operations) for n in (2, 3, 4)]


# List prices in dollars a million (us-east-1, arm64): the HTTP API, a start of a function, a request to a FIFO queue, units on
# demand. A function has 256 MB and is assumed to run for 10 ms.
HTTP, START, QUEUE, RRU, WRU = 1.00, 0.20, 0.50, 0.125, 0.625
RUN = 0.0000133334 * 0.25 * 0.010 * 1_000_000
# The requests of a broadcast: sent, received, deleted.
QUEUE_REQUESTS = 3
NAMES = ("api", "changes-aggregator", "broadcaster", "notifier")

# Upper bounds: RRU and WRU by function, the dollars of an isolated write that is monitored and broadcast, and
# those of one of many writes, which share the batches of the stream and the broadcasts.
BOUNDS = {
    "create a record": ({"api": (6, 6), "changes-aggregator": (1, 3), "broadcaster": (3, 2)}, 10.0, 5.2),
    "replace a record": ({"api": (6, 6), "changes-aggregator": (1, 3), "broadcaster": (3, 2)}, 10.0, 5.8),
    "POST a record": ({"api": (5, 5), "changes-aggregator": (1, 3), "broadcaster": (3, 2)}, 10.0, 5.0),
    "GET a record": ({"api": (5, 0)}, None, None),
    "the same, 304": ({"api": (5, 0)}, None, None),
    "changeset, unchanged": ({"api": (12, 0)}, None, None),
    "monitor/changes, nothing changed": ({"api": (1, 0)}, None, None),
    "monitor/changes, something changed": ({"api": (1, 0)}, None, None),
    "monitor's changeset, nothing changed": ({"api": (1, 0)}, None, None),
    "__broadcasts__": ({"api": (1, 0)}, None, None),
}


def dollars(by, front=True):
    """The dollars of a million of these."""
    total = HTTP if front else 0
    for who, operations in by.items():
        _, (read, write, index) = show(operations)
        total += read * RRU + (write + index) * WRU + START + RUN
        total += QUEUE * QUEUE_REQUESTS if who == "broadcaster" else 0
    return total


def check(what, by):
    """The values of a row that exceed their bounds."""
    bounds, price, of_many = BOUNDS.get(what, ({}, None, None))
    for who, (reads, writes) in bounds.items():
        _, (read, write, index) = show(by.get(who, []))
        if read > reads or write + index > writes:
            yield f"{what}: {who} asks for {read:g} RRU and {write + index:g} WRU, more than {reads} and {writes}"
    if price is not None:
        if dollars(by) > price:
            yield f"{what}: {dollars(by):.2f} $ a million, more than {price}"
        alone = dollars({"api": by["api"]})
        if alone > of_many:
            yield f"{what}, of many: {alone:.2f} $ a million, more than {of_many}"


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", default=FUNCTIONS)
    parser.add_argument("--template")
    parser.add_argument("--bytes", type=int, default=300)
    parser.add_argument("--logs", default=LOGS)
    parser.add_argument("--check", action="store_true", help="fail where something is dearer than it may be")
    options = parser.parse_args()
    dear = []
    for listeners in (False, True):
        title = "With a listener (events)" if listeners else "Without listeners"
        print(f"\n{title}, {options.bytes} bytes of data a record\n")
        print("| request | by | to DynamoDB | RRU | WRU | $ a million |\n| --- | --- | --- | --- | --- | --- |")
        for what, _, by in await measure(options, listeners):
            price = f"{dollars(by or {'api': []}):.2f}"
            if not listeners:
                dear += check(what, by)
            if not by:
                print(f"| {what} | api | none | 0 | 0 | {price} |")
            for who in sorted(by, key=NAMES.index):
                text, (read, write, index) = show(by[who])
                print(f"| {what} | {who} | {text} | {read:g} | {write + index:g} | {price} |")
                what = price = ""
        if options.check:
            break
    if dear:
        sys.exit("\n".join(["", *dear]))


asyncio.run(main())
