"""SQS: FIFO queues with groups, deduplication and visibility."""

import asyncio
import hashlib
import re
import time
import uuid

from aws_error import AwsError


class Queue:
    """A FIFO queue."""

    def __init__(self, name, visibility, dead=None, most=1000, now=time.time):
        self.name, self.visibility, self.dead, self.most, self.now = name, visibility, dead, most, now
        self.messages, self.seen, self.event, self.sent, self.sequence = [], {}, asyncio.Event(), 0, 18870000000000000000
        self.log = []

    def send(self, body, group, dedup):
        for what, text in (("MessageGroupId", group), ("MessageDeduplicationId", dedup)):
            if not text or len(text) > 128 or not re.fullmatch(r"[!-~]+", text):
                raise AwsError("InvalidParameterValue", f"Value {text!r} for parameter {what} is invalid")
        if len(body.encode()) > 1024 * 1024 or not body:
            raise AwsError("InvalidParameterValue", "One or more parameters are invalid")
        if re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", body):
            raise AwsError("InvalidMessageContents", "Invalid characters")
        now = self.now()
        self.seen = {key: value for key, value in self.seen.items() if value[0] > now - 300}
        if dedup in self.seen:
            return self.seen[dedup][1]
        self.sequence += 256
        message = {"id": str(uuid.uuid4()), "body": body, "group": group, "dedup": dedup, "visible": 0.0, "count": 0,
                   "receipt": None, "sent": now, "first": None, "sequence": str(self.sequence)}
        self.seen[dedup] = (now, message)
        self.messages.append(message)
        self.sent += 1
        self.log.append((now, group, dedup, body))
        self.event.set()
        return message

    def receive(self, most):
        """The first messages of each group that has none in flight, in order."""
        now, taken, blocked = self.now(), [], set()
        for message in list(self.messages):
            if message["group"] in blocked:
                continue
            if message["visible"] > now:
                blocked.add(message["group"])
                continue
            if len(taken) == most:
                break
            if self.dead is not None and message["count"] >= self.most:
                self.messages.remove(message)
                self.dead.messages.append({**message, "visible": 0.0})
                continue
            taken.append(message)
        for message in taken:
            message["visible"] = now + self.visibility
            message["count"] += 1
            message["receipt"] = str(uuid.uuid4())
            message["first"] = message["first"] or now
        return taken

    def by_receipt(self, receipt):
        for message in self.messages:
            if message["receipt"] == receipt:
                if message["visible"] <= self.now():
                    raise AwsError("MessageNotInflight", "The receipt handle has expired")
                return message
        raise AwsError("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")

    def delete(self, message):
        if message in self.messages:
            self.messages.remove(message)
        self.event.set()

    def next_visible(self):
        return min((message["visible"] for message in self.messages), default=None)

    def record(self, message):
        return {
            "messageId": message["id"], "receiptHandle": message["receipt"], "body": message["body"],
            "attributes": {"ApproximateReceiveCount": str(message["count"]), "SentTimestamp": str(int(message["sent"] * 1000)),
                           "SequenceNumber": message["sequence"], "MessageGroupId": message["group"],
                           "SenderId": "AIDA", "MessageDeduplicationId": message["dedup"],
                           "ApproximateFirstReceiveTimestamp": str(int(message["first"] * 1000))},
            "messageAttributes": {}, "md5OfBody": hashlib.md5(message["body"].encode()).hexdigest(),
            "eventSource": "aws:sqs", "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{self.name}",
            "awsRegion": "us-east-1",
        }
