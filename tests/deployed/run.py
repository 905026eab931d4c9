"""The deployed stack without AWS: the functions' own binaries, each process one request at a time as on Lambda, between
stand-ins of what they talk to. Nothing but Python, loopback only.

    python3 tests/deployed/run.py [--functions DIR] [--port 18300] [--apis 4] [--isolation item] [--shards 2] [--dynamodb-url URL]

DIR holds {api,changes-aggregator,broadcaster,notifier}/bootstrap, as target/lambda does once `tests/run` or
`cargo lambda build --release` has built them. The stand-ins:

    DynamoDB        dynamo.py, or any server that speaks its protocol (--dynamodb-url: its table is made as template.yaml
                    says, its stream read with GetRecords)
    Lambda          the Runtime API, one port a process; time limits of template.yaml, kill -9 behind them
    event sources   template.yaml's filters and batch sizes; ReportBatchItemFailures, BisectBatchOnFunctionError;
                    FIFO queues with groups, deduplication and visibility
    API Gateway     an HTTP API with payload format 2.0
    Megaphone       one that records what it is told
    IAM             each function may do what its role in template.yaml may

`histories.py` uses `Stack` with faults; `launch.py` runs one in the foreground.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid

import http1
from dynamo import CALLER, PREFIX, AwsError, Table

try:
    import orjson

    def dumps(value):
        return orjson.dumps(value)
    loads = orjson.loads
except ImportError:
    def dumps(value):
        return json.dumps(value, separators=(",", ":")).encode()
    loads = json.loads

WORKSPACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FUNCTIONS = os.path.join(WORKSPACE, "target", "lambda")
TEMPLATE = os.path.join(WORKSPACE, "template.yaml")
LOGS = os.path.join(tempfile.gettempdir(), "deployed-logs")
SECRET_ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:{}-AbCdEf"

# Of the roles in template.yaml. A transaction needs what its parts need.
PERMISSIONS = {
    "api": {"dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:UpdateItem",
            "dynamodb:BatchWriteItem", "secretsmanager:GetSecretValue", "ssm:GetParameter"},
    "changes-aggregator": {"dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query", "dynamodb:PutItem",
                           "dynamodb:UpdateItem", "sqs:SendMessage"},
    "broadcaster": {"dynamodb:GetItem", "dynamodb:UpdateItem", "sqs:ChangeMessageVisibility", "sqs:SendMessage",
                    "secretsmanager:GetSecretValue", "ssm:GetParameter"},
    "notifier": {"dynamodb:GetItem", "dynamodb:Query", "sqs:SendMessage", "sqs:ChangeMessageVisibility",
                 "secretsmanager:GetSecretValue", "ssm:GetParameter"},
}
INDEX_READERS = {"api"}
SENDS_TO = {"changes-aggregator": {"broadcasts.fifo"}, "broadcaster": {"broadcasts-dead.fifo"},
            "notifier": {"notifications.fifo", "notifications-dead.fifo", "events.fifo"}}


def template_event_sources(path):
    """Filters and batch sizes of the stream mappings, as they stand in template.yaml."""
    sources, function, kind = {}, None, None
    for line in open(path):
        found = re.match(r"  (\w+):\s*$", line)
        if found:
            function = found.group(1)
        found = re.match(r"          Type: (\w+)\s*$", line)
        if found and found.group(1) in ("DynamoDB", "SQS"):
            kind = found.group(1)
            sources[(function, kind)] = {"filters": [], "batch": None, "partial": False, "bisect": False}
        source = sources.get((function, kind))
        if source is None:
            continue
        found = re.match(r"\s+- Pattern: '(.*)'\s*$", line)
        if found:
            source["filters"].append(json.loads(found.group(1)))
        found = re.match(r"\s+BatchSize: (\d+)", line)
        if found:
            source["batch"] = int(found.group(1))
        if "FunctionResponseTypes: [ReportBatchItemFailures]" in line:
            source["partial"] = True
        if "BisectBatchOnFunctionError: true" in line:
            source["bisect"] = True
    return sources


def matches(pattern, value):
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(key in value and matches(inner, value[key]) for key, inner in pattern.items())
    for option in pattern:
        if isinstance(option, dict):
            if "prefix" in option and isinstance(value, str) and value.startswith(option["prefix"]):
                return True
        elif option == value and type(option) is type(value):
            return True
    return False


# ---- SQS ------------------------------------------------------------------------------------------------------------

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
        """Of each group that has no message in flight the first ones, in order."""
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


# ---- Lambda ---------------------------------------------------------------------------------------------------------

class Failed(Exception):
    """An invocation that Lambda counts as an error."""


class Instance:
    """One execution environment: a process and its Runtime API."""

    def __init__(self, stack, function, number):
        self.stack, self.function, self.number = stack, function, number
        self.name = f"{function.name}-{number}"
        self.process, self.server, self.port = None, None, None
        self.waiting, self.current, self.busy = None, None, False
        self.started = None
        self.generation = 0

    async def open(self):
        self.server, self.port = await self.stack.listen(self.handle)

    async def spawn(self):
        self.generation += 1
        environment = {
            "PATH": "/usr/local/bin:/usr/bin/:/bin", "LANG": "en_US.UTF-8", "TZ": ":UTC",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.port}", "_HANDLER": "bootstrap", "LAMBDA_TASK_ROOT": "/var/task",
            "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EXECUTION_ENV": "AWS_Lambda_provided.al2023",
            "AWS_ACCESS_KEY_ID": self.name, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
            "AWS_LAMBDA_FUNCTION_NAME": self.function.name, "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": self.stack.log_level,
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/x", "AWS_LAMBDA_LOG_STREAM_NAME": self.name,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.stack.aws_port}",
            **{key: value for key, value in self.function.environment.items() if value is not None},
        }
        log = open(os.path.join(self.stack.folder, self.name + ".log"), "ab")
        self.spawned = time.perf_counter()
        self.started = None
        self.waiting = None
        process = await asyncio.create_subprocess_exec(
            self.function.binary, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=tempfile.gettempdir())
        log.close()
        self.process = process
        self.stack.pids.append(process.pid)
        asyncio.ensure_future(self._watch(process))

    async def _watch(self, process):
        code = await process.wait()
        if self.process is process:
            self.process = None
            if self.current and not self.current[2].done():
                self.current[2].set_exception(Failed(f"Runtime exited with error: {code}"))
            self.stack.exits[self.function.name] = self.stack.exits.get(self.function.name, 0) + 1

    def kill(self):
        if self.process is not None and self.process.returncode is None:
            try:
                os.kill(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    async def handle(self, request):
        path = request.target
        if path == "/2018-06-01/runtime/invocation/next":
            if self.started is None:
                self.started = time.perf_counter() - self.spawned
                self.stack.starts.setdefault(self.function.name, []).append((self.started, cpu_of(self.process)))
            generation = self.generation
            if self.waiting is None or self.waiting.done():
                self.waiting = asyncio.get_running_loop().create_future()
            waiting = self.waiting
            invocation = await waiting
            if generation != self.generation:
                raise http1.Cut
            self.current = invocation
            identifier, event, _, deadline = invocation
            return 200, [
                ("Content-Type", "application/json"), ("Lambda-Runtime-Aws-Request-Id", identifier),
                ("Lambda-Runtime-Deadline-Ms", str(deadline)),
                ("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:us-east-1:000000000000:function:{self.function.name}"),
                ("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0"),
            ], event
        found = re.fullmatch(r"/2018-06-01/runtime/invocation/([^/]+)/(response|error)", path)
        if found and self.current and found.group(1) == self.current[0]:
            if not self.current[2].done():
                if found.group(2) == "response":
                    self.current[2].set_result(request.body)
                else:
                    self.current[2].set_exception(Failed(request.body.decode("utf-8", "replace")))
            return 202, [], b""
        if path == "/2018-06-01/runtime/init/error":
            return 202, [], b""
        return 400, [], b"{}"

    async def invoke(self, event):
        """What the function answers, as bytes."""
        if len(event) > 6 * 1024 * 1024:
            raise Failed("RequestEntityTooLarge")
        if self.process is None:
            await self.spawn()
        loop = asyncio.get_running_loop()
        deadline = time.perf_counter() + 10
        while self.waiting is None or self.waiting.done():
            if self.process is None:
                raise Failed("Runtime exited during its start")
            if time.perf_counter() > deadline:
                self.kill()
                raise Failed("Init timed out")
            await asyncio.sleep(0.002)
        answer = loop.create_future()
        limit = self.function.timeout
        invocation = (str(uuid.uuid4()), event, answer, int((time.time() + limit) * 1000))
        self.current = invocation
        self.waiting.set_result(invocation)
        self.function.invocations += 1
        begin = time.perf_counter()
        try:
            result = await asyncio.wait_for(asyncio.shield(answer), limit)
        except asyncio.TimeoutError:
            self.kill()
            self.function.timeouts += 1
            raise Failed(f"Task timed out after {limit} seconds")
        finally:
            self.function.took.append(time.perf_counter() - begin)
            answer.cancel()
        if len(result) > 6 * 1024 * 1024 + 1024:
            raise Failed("Response payload size exceeded maximum allowed payload size (6291556 bytes)")
        return result


def cpu_of(process):
    """Seconds of CPU that a process has used."""
    try:
        fields = open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0


class Function:
    def __init__(self, stack, name, instances, timeout, environment):
        self.stack, self.name, self.timeout, self.environment = stack, name, timeout, environment
        self.binary = os.path.join(stack.functions_folder, name, "bootstrap")
        self.instances = [Instance(stack, self, n) for n in range(instances)]
        self.idle = list(self.instances)
        self.free = asyncio.Condition()
        self.invocations = self.timeouts = self.errors = 0
        self.took = []

    async def open(self):
        for instance in self.instances:
            await instance.open()

    async def invoke(self, event):
        async with self.free:
            while not self.idle:
                await self.free.wait()
            instance = self.idle.pop(self.stack.random.randrange(len(self.idle)))
        try:
            return await instance.invoke(event)
        except Failed:
            self.errors += 1
            raise
        finally:
            async with self.free:
                self.idle.append(instance)
                self.free.notify()


# ---- event sources --------------------------------------------------------------------------------------------------

class StreamSource:
    """An event source mapping over one shard."""

    def __init__(self, stack, function, shard, source, duplicates=0.0):
        self.stack, self.function, self.shard, self.source, self.duplicates = stack, function, shard, source, duplicates
        self.position, self.batches, self.retries, self.last_batches = 0, 0, 0, []
        self.idle = True

    async def run(self):
        while True:
            records = self.shard.records
            batch = []
            while self.position < len(records) and len(batch) < self.source["batch"]:
                record = records[self.position]
                self.position += 1
                if any(matches(pattern, record) for pattern in self.source["filters"]):
                    batch.append(record)
            if batch:
                self.idle = False
                await self.deliver(batch)
                if self.stack.faulty and self.stack.random.random() < self.duplicates and self.last_batches:
                    await self.deliver(self.stack.random.choice(self.last_batches))
                self.last_batches = [*self.last_batches[-20:], batch]
            if self.position < len(records):
                continue
            self.idle = True
            self.shard.event.clear()
            if self.position < len(self.shard.records):
                continue
            await self.shard.event.wait()
            await asyncio.sleep(self.stack.poll)

    async def deliver(self, batch):
        todo, pause = [batch], 0.05
        while todo:
            batch = todo.pop(0)
            self.batches += 1
            again = None
            try:
                answer = loads(await self.function.invoke(dumps({"Records": batch})))
            except Failed as error:
                self.stack.note("stream", self.function.name, str(error)[:200])
                if self.source["bisect"] and len(batch) > 1:
                    half = len(batch) // 2
                    again = [batch[:half], batch[half:]]
                else:
                    again = [batch]
            else:
                failures = (answer or {}).get("batchItemFailures") or []
                if failures and self.source["partial"]:
                    numbers = [failure.get("itemIdentifier") for failure in failures]
                    known = [record["dynamodb"]["SequenceNumber"] for record in batch]
                    if any(number not in known for number in numbers):
                        self.stack.note("stream", self.function.name, f"unknown itemIdentifier {numbers}")
                        again = [batch]
                    else:
                        first = min(known.index(number) for number in numbers)
                        again = [batch[first:]]
            if again:
                self.retries += 1
                todo = again + todo
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2)
            else:
                pause = 0.05


class QueueSource:
    """An event source mapping over a FIFO queue; `pollers` batches at once, never two of one group."""

    def __init__(self, stack, function, queue, source, pollers=1, duplicates=0.0):
        self.stack, self.function, self.queue, self.source = stack, function, queue, source
        self.pollers, self.duplicates, self.batches = pollers, duplicates, 0

    async def run(self):
        await asyncio.gather(*[self.poll() for _ in range(self.pollers)])

    async def poll(self):
        while True:
            batch = self.queue.receive(self.source["batch"])
            if not batch:
                self.queue.event.clear()
                try:
                    await asyncio.wait_for(self.queue.event.wait(), 0.1)
                except asyncio.TimeoutError:
                    pass
                continue
            self.batches += 1
            event = {"Records": [self.queue.record(message) for message in batch]}
            try:
                answer = loads(await self.function.invoke(dumps(event)))
            except Failed as error:
                self.stack.note("queue", self.function.name, str(error)[:200])
                continue
            failures = (answer or {}).get("batchItemFailures") or []
            failed = {failure.get("itemIdentifier") for failure in failures}
            if failed - {message["id"] for message in batch}:
                self.stack.note("queue", self.function.name, f"unknown itemIdentifier {failed}")
                continue
            for message in batch:
                if message["id"] in failed:
                    continue
                if self.stack.faulty and self.stack.random.random() < self.duplicates:
                    # As if the deletion got lost: it comes again soon.
                    message["visible"] = self.queue.now() + 0.2
                    continue
                self.queue.delete(message)


# ---- Megaphone ------------------------------------------------------------------------------------------------------

class Megaphone:
    def __init__(self, stack, key):
        self.stack, self.key, self.versions, self.refused = stack, key, [], 0

    async def handle(self, request):
        if request.target == "/__heartbeat__":
            return 200, [], b"{}"
        if request.header("authorization") != f"Bearer {self.key}" or request.method != "PUT":
            self.refused += 1
            return 401, [], b""
        kind = self.stack.faults.megaphone() if self.stack.faulty else None
        if kind == "error":
            return 500, [], b""
        if kind == "busy":
            return 503, [("Retry-After", "1")], b""
        if kind == "reset":
            raise http1.Cut
        new = request.target not in {version[1] for version in self.versions}
        self.versions.append((time.time(), request.target, int(request.body.decode().strip('"'))))
        if kind == "lost":
            raise http1.Cut
        return 201 if new else 200, [("content-type", "application/json")], b'{"code": 200}'


# ---- AWS endpoint ---------------------------------------------------------------------------------------------------

class Forward:
    """DynamoDB elsewhere."""

    def __init__(self, url, stack, table="kinto"):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port, self.stack, self.name = parts.hostname, parts.port, stack, table
        self.idle, self.counts, self.shapes, self.refusals = [], {}, {}, {}
        self.shards = []

    async def raw(self, target, request, key="local"):
        client = self.idle.pop() if self.idle else http1.Client(self.port, self.host)
        date = time.strftime("%Y%m%d", time.gmtime())
        headers = [("Content-Type", "application/x-amz-json-1.0"), ("X-Amz-Target", target),
                   ("X-Amz-Date", date + "T000000Z"),
                   ("Authorization", f"AWS4-HMAC-SHA256 Credential={key}/{date}/us-east-1/dynamodb/aws4_request, "
                                     "SignedHeaders=host, Signature=0")]
        try:
            status, _, body = await client.request("POST", "/", headers, dumps(request))
        except (OSError, asyncio.IncompleteReadError):
            client.close()
            status, _, body = await client.request("POST", "/", headers, dumps(request))
        self.idle.append(client)
        answer = loads(body) if body else {}
        if status != 200:
            code = answer.pop("__type", "InternalServerError").rsplit("#", 1)[-1]
            message = answer.pop("message", None) or answer.pop("Message", "")
            answer.pop("Message", None)
            raise AwsError(code, message, status, **answer)
        return answer

    async def call(self, operation, request):
        self.counts[operation] = self.counts.get(operation, 0) + 1
        try:
            return await self.raw("DynamoDB_20120810." + operation, request)
        except AwsError as error:
            if error.code not in ("ConditionalCheckFailedException", "TransactionCanceledException"):
                self.refusals[(operation, error.code, error.message[:200])] = request
            raise

    async def open(self):
        await self.raw("DynamoDB_20120810.CreateTable", {
            "TableName": self.name, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "S"},
                                     {"AttributeName": "last_modified", "AttributeType": "N"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            "LocalSecondaryIndexes": [{"IndexName": "by_last_modified", "Projection": {"ProjectionType": "ALL"}, "KeySchema": [
                {"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "last_modified", "KeyType": "RANGE"}]}],
            "StreamSpecification": {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}})
        table = await self.raw("DynamoDB_20120810.DescribeTable", {"TableName": self.name})
        arn = table["Table"]["LatestStreamArn"]
        from dynamo import Shard
        self.shards = [Shard(0)]
        asyncio.ensure_future(self.follow(arn))

    async def follow(self, arn):
        iterators, done = {}, set()
        while True:
            try:
                stream = (await self.raw("DynamoDBStreams_20120810.DescribeStream", {"StreamArn": arn}))["StreamDescription"]
                for shard in stream["Shards"]:
                    name = shard["ShardId"]
                    if name in done:
                        continue
                    if name not in iterators:
                        iterators[name] = (await self.raw("DynamoDBStreams_20120810.GetShardIterator", {
                            "StreamArn": arn, "ShardId": name, "ShardIteratorType": "TRIM_HORIZON"}))["ShardIterator"]
                    answer = await self.raw("DynamoDBStreams_20120810.GetRecords", {"ShardIterator": iterators[name]})
                    for record in answer.get("Records", []):
                        record.setdefault("eventSourceARN", arn)
                        self.shards[0].records.append(record)
                        self.shards[0].event.set()
                    if answer.get("NextShardIterator"):
                        iterators[name] = answer["NextShardIterator"]
                    else:
                        done.add(name)
            except AwsError as error:
                self.stack.note("stream", "GetRecords", f"{error.code} {error.message}")
            await asyncio.sleep(0.05)


class NoFaults:
    def aws(self, caller, operation):
        return None

    def megaphone(self):
        return None


class Stack:
    def __init__(self, functions_folder, settings=None, apis=4, isolation="atomic", shards=1, seed=0, slow=False,
                 listeners=True, faults=None, template=None, folder=None, dynamodb_url=None, proto="https",
                 raw_path="decoded", visibility=None, duplicates=0.0, log_level="WARN", poll=0.02, keep_history=False,
                 everything=None, aggregators=None):
        self.functions_folder, self.random = functions_folder, random.Random(seed)
        self.faults, self.faulty = faults or NoFaults(), faults is not None
        self.folder = folder or LOGS
        os.makedirs(self.folder, exist_ok=True)
        self.proto, self.raw_path, self.log_level, self.poll = proto, raw_path, log_level, poll
        self.pids, self.exits, self.starts, self.notes, self.denied = [], {}, {}, {}, {}
        self.servers, self.tasks = [], []
        self.front_log = None
        self.sources = template_event_sources(template or TEMPLATE)
        if dynamodb_url:
            self.table = Forward(dynamodb_url, self)
        else:
            self.table = Table(isolation=isolation, shards=shards, seed=seed, slow=slow)
            if keep_history:
                self.table.history = []
        self.requests, self.injected, self.in_flight = 0, {}, 0
        visibility = visibility or {}
        self.queues = {
            "broadcasts-dead.fifo": Queue("broadcasts-dead.fifo", 30),
            "notifications-dead.fifo": Queue("notifications-dead.fifo", 30),
            "events.fifo": Queue("events.fifo", 60),
        }
        self.queues["broadcasts.fifo"] = Queue("broadcasts.fifo", visibility.get("broadcasts", 240), self.queues["broadcasts-dead.fifo"])
        self.queues["notifications.fifo"] = Queue("notifications.fifo", visibility.get("notifications", 540), self.queues["notifications-dead.fifo"])
        self.settings, self.apis, self.listeners, self.duplicates = dict(settings or {}), apis, listeners, duplicates
        self.everything = everything or {}
        self.aggregators = aggregators
        self.events = []
        self.hook = None  # stands before `aws`

    def note(self, *what):
        key = " | ".join(what)
        self.notes[key] = self.notes.get(key, 0) + 1

    async def listen(self, handler, port=0):
        """A server at the port, or at any that is free, with its port."""
        server = await http1.serve(port, handler)
        self.servers.append(server)
        return server, server.sockets[0].getsockname()[1]

    async def start(self, port=0):
        _, self.aws_port = await self.listen(lambda request: (self.hook or self.aws)(request))
        self.megaphone = Megaphone(self, "megaphone-key")
        _, self.megaphone_port = await self.listen(self.megaphone.handle)
        if isinstance(self.table, Forward):
            await self.table.open()

        def url(name):
            return f"http://127.0.0.1:{self.aws_port}/000000000000/{name}"
        megaphone = {
            "KINTO_EVENT_LISTENERS_MP_USE": "kinto_megaphone.listeners",
            "KINTO_EVENT_LISTENERS_MP_URL": f"http://127.0.0.1:{self.megaphone_port}",
            "KINTO_EVENT_LISTENERS_MP_API_KEY": SECRET_ARN.format("megaphone-key"),
            "KINTO_EVENT_LISTENERS_MP_BROADCASTER_ID": "remote-settings",
            "KINTO_EVENT_LISTENERS_MP_MATCH_KINTO_CHANGES": self.settings.get("KINTO_CHANGES_RESOURCES") or "/buckets/main",
            "KINTO_EVENT_LISTENERS_MP_DEBOUNCE_SECONDS": "0",
            "KINTO_EVENT_LISTENERS_MP_TIMEOUT_SECONDS": "10",
            "KINTO_PUSH_BROADCAST_MIN_DEBOUNCE_INTERVAL_SECONDS": "300",
            "KINTO_PUSH_BROADCAST_MAX_DEBOUNCE_INTERVAL_SECONDS": "1200",
            "KINTO_BROADCASTS_BROADCASTER_ID": "remote-settings",
        }
        common = {"TABLE_NAME": "kinto", "KINTO_EVENT_LISTENERS": "mp", **megaphone, **self.everything}
        changes = {key: value for key, value in self.settings.items() if key.startswith("KINTO_CHANGES_")}
        changes.setdefault("KINTO_CHANGES_RESOURCES", "/buckets/main")
        api = {"KINTO_USERID_HMAC_SECRET": SECRET_ARN.format("userid-hmac"), "KINTO_MULTIAUTH_POLICIES": "basicauth",
               "KINTO_BUCKET_CREATE_PRINCIPALS": "system.Authenticated",
               **changes, **self.settings}
        api["KINTO_EVENT_LISTENERS"] = "mp events" if self.listeners else "mp"
        if self.listeners:
            api["KINTO_EVENT_LISTENERS_EVENTS_USE"] = "notifier"
        self.api = Function(self, "api", self.apis, 29, {**common, **api})
        shards = len(self.table.shards)
        self.aggregator = Function(self, "changes-aggregator", self.aggregators or shards, 60, {
            **common, "BROADCAST_QUEUE_URL": url("broadcasts.fifo"), **changes})
        self.broadcaster = Function(self, "broadcaster", 1, 40, {
            **common, "BROADCAST_QUEUE_URL": url("broadcasts.fifo"), "BROADCAST_DEAD_LETTER_QUEUE_URL": url("broadcasts-dead.fifo")})
        self.functions = [self.api, self.aggregator, self.broadcaster]
        self.stream_sources = [StreamSource(self, self.aggregator, shard, self.sources[("ChangesAggregator", "DynamoDB")],
                                            self.duplicates) for shard in self.table.shards]
        self.queue_sources = [QueueSource(self, self.broadcaster, self.queues["broadcasts.fifo"],
                                          self.sources[("Broadcaster", "SQS")], 1, self.duplicates)]
        if self.listeners:
            self.notifier = Function(self, "notifier", shards + 1, 90, {
                **common, "NOTIFICATION_QUEUE_URL": url("notifications.fifo"),
                "NOTIFICATION_DEAD_LETTER_QUEUE_URL": url("notifications-dead.fifo"),
                "KINTO_EVENT_LISTENERS": "queue", "KINTO_EVENT_LISTENERS_QUEUE_USE": "sqs",
                "KINTO_EVENT_LISTENERS_QUEUE_QUEUE_URL": url("events.fifo")})
            self.functions.append(self.notifier)
            self.stream_sources += [StreamSource(self, self.notifier, shard, self.sources[("Notifier", "DynamoDB")],
                                                 self.duplicates) for shard in self.table.shards]
            self.queue_sources.append(QueueSource(self, self.notifier, self.queues["notifications.fifo"],
                                                  self.sources[("Notifier", "SQS")], 2, self.duplicates))
        # Two mappings may follow one shard: each has an event of its own.
        from dynamo import Shard
        if not isinstance(self.table, Forward):
            for shard in self.table.shards:
                shard.event = Fan()
            for source in self.stream_sources:
                source.shard = View(source.shard)
        elif self.listeners:
            for shard in self.table.shards:
                shard.event = Fan()
            for source in self.stream_sources:
                source.shard = View(source.shard)
        for function in self.functions:
            await function.open()
        for source in [*self.stream_sources, *self.queue_sources]:
            self.tasks.append(asyncio.ensure_future(source.run()))
        self.tasks.append(asyncio.ensure_future(self.consume()))
        self.server, self.port = await self.listen(self.front, port)
        return self

    async def consume(self):
        """The consumer of the listener's queue: in the order that it gets them."""
        queue = self.queues["events.fifo"]
        while True:
            for message in queue.receive(10):
                self.events.append((message["group"], message["dedup"], loads(message["body"])))
                queue.delete(message)
            queue.event.clear()
            try:
                await asyncio.wait_for(queue.event.wait(), 0.2)
            except asyncio.TimeoutError:
                pass

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        for function in self.functions:
            for instance in function.instances:
                instance.kill()
        await http1.stop(self.servers)
        await asyncio.sleep(0.1)

    def instance(self, name):
        for function in self.functions:
            for instance in function.instances:
                if instance.name == name:
                    return instance

    # ---- DynamoDB, SQS, Secrets Manager

    def check_permission(self, caller, service, operation, request):
        function = caller.rsplit("-", 1)[0]
        allowed = PERMISSIONS.get(function)
        if allowed is None:
            return
        needed = {operation}
        if operation == "TransactGetItems":
            needed = {"GetItem"}
        elif operation == "TransactWriteItems":
            needed = {{"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}[kind]
                      for action in request["TransactItems"] for kind in action}
        missing = {f"{service}:{action}" for action in needed} - allowed
        if operation == "BatchWriteItem":
            puts = [write.get("PutRequest") for writes in request["RequestItems"].values() for write in writes]
            if not all(put and put["Item"]["pk"]["S"].startswith("#layer#") for put in puts):
                missing.add("dynamodb:BatchWriteItem on these keys")
        if operation == "Query" and request.get("IndexName") and function not in INDEX_READERS:
            missing.add("dynamodb:Query on the index")
        if operation == "SendMessage" and request["QueueUrl"].rsplit("/", 1)[1] not in SENDS_TO.get(function, ()):
            missing.add("sqs:SendMessage on " + request["QueueUrl"].rsplit("/", 1)[1])
        if missing:
            self.denied[f"{function}: {', '.join(sorted(missing))}"] = self.denied.get(function, 0) + 1
            raise AwsError("AccessDeniedException", f"User: {caller} is not authorized to perform: {sorted(missing)}")

    async def aws(self, http_request):
        self.in_flight += 1
        try:
            return await self.answer_aws(http_request)
        finally:
            self.in_flight -= 1

    async def answer_aws(self, http_request):
        target = http_request.header("x-amz-target", "")
        service, _, operation = target.partition(".")
        found = re.search(r"Credential=([^/]+)/", http_request.header("authorization", ""))
        caller = found.group(1) if found else "nobody"
        CALLER.set(caller.rsplit("-", 1)[0])
        self.requests += 1
        dynamodb = service.startswith("DynamoDB")
        fault = self.faults.aws(caller, operation) if self.faulty else None
        if fault in ("conflict", "tx_throttle") and operation == "TransactWriteItems" \
                and loads(http_request.body).get("ClientRequestToken") in getattr(self.table, "tokens", ()):
            fault = None  # What is sent again once it is committed, or under way, does not meet itself.
        if fault:
            self.injected[(fault, operation)] = self.injected.get((fault, operation), 0) + 1
            instance = self.instance(caller)
            if fault == "reset":
                raise http1.Cut
            if fault == "kill_before":
                instance.kill()
                raise http1.Cut
            if fault == "delay":
                await asyncio.sleep(self.random.random() * 0.3)
            elif fault == "late":
                # Its client has given up and sent it again when this takes effect.
                await asyncio.sleep(2.05 + self.random.random() * 1.5)
            elif fault == "kill_during":
                instance.kill()
            elif fault in ("500", "503"):
                code = "InternalServerError" if fault == "500" else "ServiceUnavailable"
                return self.answered(AwsError(code, "injected", int(fault)), dynamodb)
            elif fault == "throttle":
                code = self.random.choice(["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"]
                                          if dynamodb else ["RequestThrottled"])
                return self.answered(AwsError(code, "injected"), dynamodb)
            elif fault == "in_progress" and operation == "TransactWriteItems":
                return self.answered(AwsError("TransactionInProgressException", "injected"), dynamodb)
            elif fault in ("conflict", "tx_throttle") and operation in ("TransactWriteItems", "TransactGetItems"):
                items = loads(http_request.body)["TransactItems"]
                code = "TransactionConflict" if fault == "conflict" else self.random.choice(
                    ["ThrottlingError", "ProvisionedThroughputExceeded"])
                reasons = [{"Code": "None"} for _ in items]
                reasons[self.random.randrange(len(items))] = {"Code": code, "Message": "injected"}
                codes = ", ".join(reason["Code"] for reason in reasons)
                return self.answered(AwsError(
                    "TransactionCanceledException", "Transaction cancelled, please refer cancellation reasons for specific "
                    f"reasons [{codes}]", CancellationReasons=reasons), dynamodb)
            elif operation in ("TransactWriteItems", "TransactGetItems") and fault[:1].isupper():
                # The reasons by their names, with "+" between those of several items.
                items = loads(http_request.body)["TransactItems"]
                named = [{"Code": code, "Message": "injected"} for code in fault.split("+")]
                reasons = (named + [{"Code": "None"}] * len(items))[:len(items)]
                return self.answered(AwsError(
                    "TransactionCanceledException", "Transaction cancelled, please refer cancellation reasons for specific "
                    f"reasons [{', '.join(reason['Code'] for reason in reasons)}]", CancellationReasons=reasons), dynamodb)
            elif fault in ("conflict", "TransactionConflictException") and operation in ("UpdateItem", "PutItem"):
                return self.answered(AwsError("TransactionConflictException", "injected"), dynamodb)
        try:
            request = loads(http_request.body) if http_request.body else {}
            if dynamodb:
                self.check_permission(caller, "dynamodb", operation, request)
                answer = await self.table.call(operation, request)
            elif service == "AmazonSQS":
                self.check_permission(caller, "sqs", operation, request)
                answer = self.sqs(operation, request)
            elif service == "secretsmanager":
                self.check_permission(caller, "secretsmanager", operation, request)
                found = re.search(r":secret:(.*)-AbCdEf$", request["SecretId"])
                answer = {"ARN": request["SecretId"], "Name": found.group(1), "SecretString": found.group(1)}
            else:
                raise AwsError("UnknownOperationException", target)
        except AwsError as error:
            if error.code in ("ValidationException", "AccessDeniedException", "ResourceNotFoundException", "InvalidParameterValue",
                              "UnknownOperationException", "IdempotentParameterMismatchException", "InvalidMessageContents"):
                self.note("refused", caller.rsplit("-", 1)[0], operation, f"{error.code}: {error.message[:300]}")
            result = self.answered(error, dynamodb)
        else:
            result = (200, [("content-type", "application/x-amz-json-1.0"), ("x-amzn-requestid", "R")], dumps(answer))
        if fault == "drop":
            raise http1.Cut
        if fault == "hang":
            await asyncio.sleep(2.5)
            raise http1.Cut
        if fault == "kill_after":
            instance.kill()
            raise http1.Cut
        return result

    @staticmethod
    def answered(error, dynamodb):
        body = error.body(PREFIX if dynamodb else "com.amazonaws.sqs#")
        return error.status, [("content-type", "application/x-amz-json-1.0"), ("x-amzn-requestid", "R")], dumps(body)

    def sqs(self, operation, request):
        queue = self.queues.get(request["QueueUrl"].rsplit("/", 1)[1])
        if queue is None:
            raise AwsError("QueueDoesNotExist", "The specified queue does not exist.")
        if operation == "SendMessage":
            body = request["MessageBody"]
            message = queue.send(body, request.get("MessageGroupId"), request.get("MessageDeduplicationId"))
            return {"MessageId": message["id"], "SequenceNumber": message["sequence"],
                    "MD5OfMessageBody": hashlib.md5(body.encode()).hexdigest()}
        if operation == "ChangeMessageVisibility":
            timeout = request["VisibilityTimeout"]
            if not 0 <= timeout <= 43200:
                raise AwsError("InvalidParameterValue", "VisibilityTimeout")
            queue.by_receipt(request["ReceiptHandle"])["visible"] = queue.now() + timeout
            return {}
        raise AwsError("UnknownOperationException", operation)

    # ---- API Gateway

    async def front(self, request):
        if len(request.body) > 10 * 1024 * 1024:
            return 413, [("content-type", "application/json")], b'{"message":"Request Entity Too Large"}'
        try:
            event = self.event_of(request)
        except (UnicodeDecodeError, ValueError):
            return 400, [("content-type", "application/json")], b'{"message":"Bad Request"}'
        try:
            answer = loads(await self.api.invoke(dumps(event)))
        except Failed as error:
            self.note("api", str(error)[:160])
            status = 504 if "timed out" in str(error) else 413 if "RequestEntityTooLarge" in str(error) else 500
            return status, [("content-type", "application/json")], b'{"message":"Internal Server Error"}'
        if not isinstance(answer, dict) or "statusCode" not in answer:
            self.note("api", "an answer without statusCode")
            return 500, [("content-type", "application/json")], b'{"message":"Internal Server Error"}'
        body = answer.get("body") or ""
        body = base64.b64decode(body, validate=True) if answer.get("isBase64Encoded") else body.encode()
        headers = [(key, value) for key, value in (answer.get("headers") or {}).items()
                   if key.lower() not in ("content-length", "connection", "transfer-encoding")]
        headers += [("set-cookie", cookie) for cookie in answer.get("cookies") or ()]
        # Format 2.0 has no multiValueHeaders in answers: API Gateway passes over them.
        if any(key.lower() not in {k.lower() for k, _ in headers} for key in answer.get("multiValueHeaders") or {}):
            self.note("api", "headers in multiValueHeaders alone: lost on API Gateway")
        if not any(key.lower() == "content-type" for key, _ in headers) and body:
            headers.append(("content-type", "application/json" if body[:1] in b"{[" else "text/plain;charset=UTF-8"))
        return answer["statusCode"], headers, body

    TEXT = re.compile(r"(text/.*|application/(json|javascript|xml|vnd\.api\+json|xml\+xhtml|.*\+xml|.*\+json))$")

    def event_of(self, request):
        path, _, query = request.target.partition("?")
        if path.startswith("http://") or path.startswith("https://"):
            path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
        decoded = urllib.parse.unquote(path)
        headers, cookies = {}, []
        for name, value in request.headers:
            if name == "cookie":
                cookies += [cookie.strip() for cookie in value.split(";")]
            elif name in ("connection", "transfer-encoding", "expect"):
                continue
            else:
                headers[name] = f"{headers[name]},{value}" if name in headers else value
        headers.setdefault("host", "localhost")
        headers["content-length"] = str(len(request.body))
        headers["x-amzn-trace-id"] = "Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e"
        headers["x-forwarded-for"] = "127.0.0.1"
        headers["x-forwarded-port"] = "443"
        headers["x-forwarded-proto"] = self.proto
        now = time.time()
        event = {
            "version": "2.0", "routeKey": "$default", "rawPath": decoded if self.raw_path == "decoded" else path,
            "rawQueryString": query, "headers": headers,
            "requestContext": {
                "accountId": "000000000000", "apiId": "abcdefghij", "domainName": headers["host"],
                "domainPrefix": headers["host"].split(".")[0],
                "http": {"method": request.method, "path": decoded, "protocol": request.version, "sourceIp": "127.0.0.1",
                         "userAgent": headers.get("user-agent", "")},
                "requestId": "JKJaXmPLvHcESHA=", "routeKey": "$default", "stage": "$default",
                "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)), "timeEpoch": int(now * 1000),
            },
            "isBase64Encoded": False,
        }
        if cookies:
            event["cookies"] = cookies
        if query:
            pairs = {}
            for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True, errors="replace"):
                pairs[name] = f"{pairs[name]},{value}" if name in pairs else value
            event["queryStringParameters"] = pairs
        if request.body:
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            text = None
            if self.TEXT.match(kind) and "content-encoding" not in headers:
                try:
                    text = request.body.decode()
                except UnicodeDecodeError:
                    pass
            if text is None:
                event["isBase64Encoded"] = True
                text = base64.b64encode(request.body).decode()
            event["body"] = text
        return event

    def summary(self):
        lines = []
        for name, starts in sorted(self.starts.items()):
            took = sorted(start for start, _ in starts)
            cpu = sorted(used for _, used in starts)
            lines.append(f"{name}: {len(starts)} starts, {1000 * took[0]:.0f}/{1000 * took[len(took) // 2]:.0f}/{1000 * took[-1]:.0f} ms "
                         f"to the first /next (min/median/max), {1000 * cpu[len(cpu) // 2]:.0f} ms of CPU (median)")
        for function in self.functions:
            took = sorted(function.took) or [0]
            lines.append(f"{function.name}: {function.invocations} invocations, {function.errors} errors, {function.timeouts} timeouts, "
                         f"median {1000 * took[len(took) // 2]:.1f} ms, 99% {1000 * took[int(len(took) * 0.99)]:.0f} ms")
        lines.append(f"AWS requests: {self.requests}; table: {self.table.counts}")
        for what in (self.notes, self.denied):
            for key, count in sorted(what.items(), key=lambda pair: -pair[1])[:30]:
                lines.append(f"  {count} x {key}")
        return "\n".join(lines)


class Fan:
    """An event that several wait for, each for itself."""

    def __init__(self):
        self.listeners = []

    def set(self):
        for listener in self.listeners:
            listener.set()


class View:
    """A shard, with an event of one's own."""

    def __init__(self, shard):
        self.shard, self.event = shard, asyncio.Event()
        shard.event.listeners.append(self.event)

    @property
    def records(self):
        return self.shard.records


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", default=FUNCTIONS)
    parser.add_argument("--template")
    parser.add_argument("--port", type=int, default=18300)
    parser.add_argument("--apis", type=int, default=4)
    parser.add_argument("--isolation", default="atomic", choices=["atomic", "partition", "item"])
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--dynamodb-url")
    parser.add_argument("--no-listeners", action="store_true")
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    settings = {key: value for key, value in os.environ.items() if key.startswith(("KINTO_", "MULTIAUTH_"))}
    stack = Stack(options.functions, settings, options.apis, options.isolation, options.shards, slow=options.slow,
                  listeners=not options.no_listeners, template=options.template, dynamodb_url=options.dynamodb_url, proto="http")
    await stack.start(options.port)
    print(f"http://127.0.0.1:{stack.port}/v1/", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await asyncio.wait_for(stop.wait(), options.minutes * 60)
    except asyncio.TimeoutError:
        pass
    print(stack.summary(), flush=True)
    await stack.stop()


if __name__ == "__main__":
    asyncio.run(main())
