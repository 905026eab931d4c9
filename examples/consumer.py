#!/usr/bin/env python3
"""Takes the events of the stack's queue (parameter EventQueue), those of each list in their order.

    pip install boto3
    python3 examples/consumer.py "$EVENT_QUEUE_URL"
"""

import json
import sys

import boto3

REMEMBERED = 10_000


def handle(event):
    """Yours to write. What it raises brings the event again after a minute, ten times at most."""
    for uri, impacted in zip(event["impacted_uris"], event["impacted_records"]):
        print(event["date"], event["action"], uri, json.dumps(impacted["new"]), flush=True)


def consume(queue_url):
    sqs = boto3.client("sqs")
    # An event may come more than once, under the same id. One that must not be handled twice even by a new process is
    # remembered where its effects are: in one transaction with them.
    handled = {}
    while True:
        # One at a time: what follows in the same list comes when this one is deleted, so nothing overtakes it.
        answer = sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=20, MaxNumberOfMessages=1)
        for message in answer.get("Messages", []):
            event = json.loads(message["Body"])
            try:
                if event["id"] not in handled:
                    handle(event)
            except Exception as error:
                print(f"event {event['id']} comes again: {error!r}", file=sys.stderr)
                continue
            handled[event["id"]] = True
            if len(handled) > REMEMBERED:
                del handled[next(iter(handled))]
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])


if __name__ == "__main__":
    try:
        consume(sys.argv[1])
    except KeyboardInterrupt:
        pass
