#!/usr/bin/env python3
"""Restores the records of a collection to their state at a moment, with new timestamps, so that every client follows.

    python3 examples/undo.py https://kinto.example/v1/buckets/main/collections/news 1764150000000 [--dry-run]

The moment is a time in milliseconds, the `last_modified` of the last write to keep, or a date such as `2026-11-26T10:00:00+00:00`.
KINTO_AUTHORIZATION is the header of a user who may read and write the collection (`Basic …`, `Bearer …`). The server needs the plugin
`kinto.plugins.history`. A record that somebody else writes meanwhile is left unchanged, and the program ends with status 1.
"""

import argparse
import datetime
import json
import os
import sys
import urllib.parse
import urllib.request

# Kinto's default limit.
BATCH = 25


def ask(method, url, body=None):
    headers = {"Content-Type": "application/json"}
    if authorization := os.environ.get("KINTO_AUTHORIZATION"):
        headers["Authorization"] = authorization
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
        return json.load(answer), answer.headers


def records_of(collection):
    url, records = f"{collection}/records", {}
    while url:
        page, headers = ask("GET", url)
        records |= {record["id"]: record for record in page["data"]}
        url = headers.get("Next-Page") and urllib.parse.urljoin(url, headers["Next-Page"])
    return records


def content(record):
    """The fields that a user wrote. The server sets the others."""
    return {name: value for name, value in record.items() if name not in ("last_modified", "schema")}


def requests(path, then, now):
    """The requests that turn `now` into `then`, each on the condition that nobody else writes the record meanwhile."""
    for id, record in then.items():
        current = now.get(id)
        if current is None:
            yield {"method": "PUT", "path": f"{path}/{id}", "body": {"data": content(record)}, "headers": {"If-None-Match": "*"}}
        elif content(current) != content(record):
            condition = {"If-Match": f'"{current["last_modified"]}"'}
            yield {"method": "PUT", "path": f"{path}/{id}", "body": {"data": content(record)}, "headers": condition}
    for id in now.keys() - then.keys():
        yield {"method": "DELETE", "path": f"{path}/{id}", "headers": {"If-Match": f'"{now[id]["last_modified"]}"'}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("collection", help="the URL of the collection")
    parser.add_argument("moment")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be written")
    arguments = parser.parse_args()
    moment = arguments.moment
    if not moment.isdigit():
        moment = int(datetime.datetime.fromisoformat(moment).timestamp() * 1000)
    server, bucket, id = arguments.collection.rstrip("/").replace("/buckets/", " ").replace("/collections/", " ").split()

    snapshot, _ = ask("GET", f"{server}/buckets/{bucket}/snapshot/collections/{id}@{moment}")
    then = {record["id"]: record for record in snapshot["data"] if not record.get("deleted")}
    now = records_of(f"{server}/buckets/{bucket}/collections/{id}")
    todo = list(requests(f"/buckets/{bucket}/collections/{id}/records", then, now))
    refused = 0
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        answers = [None] * len(batch) if arguments.dry_run else ask("POST", f"{server}/batch", {"requests": batch})[0]["responses"]
        for request, answer in zip(batch, answers):
            status = answer["status"] if answer else "-"
            refused += answer is not None and status >= 400
            print(request["method"], request["path"], status)
    print(f"{len(todo)} records differ from {moment}, {refused} were not written", file=sys.stderr)
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
