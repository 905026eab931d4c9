#!/usr/bin/env python3
"""Consumes the events of the stack's queue (parameter EventQueue), in order for each list.

    pip install boto3
    python3 examples/consumer.py "$EVENT_QUEUE_URL"
"""

import json
import sys

import boto3

REMEMBERED = 10_000


def handle(event):
    """Replace this by your own code. If it raises, the event comes again after a minute, at most ten times."""
    for uri, impacted in zip(event["impacted_uris"], event["impacted_records"]):
        print(event["date"], event["action"], uri, json.dumps(impacted["new"]), flush=True)


def consume(queue_url):
    sqs = boto3.client("sqs")
    # An event may come more than once, with the same id. If even a new process must not handle it twice, store the id
    # together with the effects of the event, in one transaction.
    handled = {}
    while True:
        # One at a time: the next event of a list comes when this one is deleted, so none overtakes it.
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
