"""What each kind of request asks of DynamoDB, and what that costs, after the sizes of the items: a table.

    python3 tests/deployed/capacity.py [--functions DIR] [--bytes 500]

Transactions cost twice in the table. Of the index each entry is counted once, also in transactions, for which the documentation
names no factor. With a listener ("+ events") each transaction has an item of the outbox. `--bytes`: of the data of a record.
"""

import argparse
import asyncio
import base64
import json

import http1
from run import FUNCTIONS, LOGS, Stack, loads

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


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", default=FUNCTIONS)
    parser.add_argument("--template")
    parser.add_argument("--bytes", type=int, default=500)
    parser.add_argument("--logs", default=LOGS)
    options = parser.parse_args()
    for listeners in (False, True):
        print(f"\n{'With a listener (events)' if listeners else 'Without listeners'}, {options.bytes} bytes of data a record\n")
        print("| request | status | by | to DynamoDB | RCU | WCU table | WCU index |\n| --- | --- | --- | --- | --- | --- | --- |")
        for what, status, by in await measure(options, listeners):
            if not by:
                print(f"| {what} | {status} | api | none | 0 | 0 | 0 |")
            for who in sorted(by, key=lambda who: ("api", "changes-aggregator", "broadcaster", "notifier").index(who)):
                if listeners and who not in ("api", "notifier"):
                    continue
                text, (read, write, index) = show(by[who])
                print(f"| {what} | {status} | {who} | {text} | {read:g} | {write:g} | {index:g} |")


asyncio.run(main())
