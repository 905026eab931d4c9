"""The deployed stack without AWS: the functions' own binaries, with one request per process at a time as on Lambda, between
stand-ins of the services that they use. It needs only Python and uses only loopback.

    python3 tests/deployed/run.py [--functions DIR] [--port 18300] [--apis 4] [--isolation item] [--shards 2] [--dynamodb-url URL]

DIR holds {api,changes-aggregator,broadcaster,notifier}/bootstrap, as target/lambda does once `tests/run` or
`cargo lambda build --release` has built them. The stand-ins:

    DynamoDB        dynamo.py, or any server that speaks its protocol (--dynamodb-url: its table is made from template.yaml,
                    and its stream is read with GetRecords)
    Lambda          the Runtime API, one port a process; kill -9 after the timeouts of template.yaml
    event sources   template.yaml's filters and batch sizes; ReportBatchItemFailures, BisectBatchOnFunctionError;
                    FIFO queues with groups, deduplication and visibility
    API Gateway     an HTTP API with payload format 2.0
    Megaphone       records the broadcasts
    IAM             each function has the permissions of its role in template.yaml

`histories.py` uses `Stack` with faults; `launch.py` runs one in the foreground.
"""

import argparse
import asyncio
import base64
import hashlib
import os
import random
import re
import signal
import tempfile
import time
import urllib.parse

import http1
from aws_error import PREFIX, AwsError
from codec import dumps, loads
from dynamo import CALLER, Table
from event_sources import Fan, QueueSource, StreamSource, View, template_event_sources
from fifo import Queue
from forward import Forward
from functions import Failed, Function

WORKSPACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FUNCTIONS = os.path.join(WORKSPACE, "target", "lambda")
TEMPLATE = os.path.join(WORKSPACE, "template.yaml")
LOGS = os.path.join(tempfile.gettempdir(), "deployed-logs")
SECRET_ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:{}-AbCdEf"

# The actions in the roles of template.yaml. A transaction needs the permissions of its parts.
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
        """A server at the port, or at any free one, and its port."""
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
        # Two mappings may follow one shard: each has its own event.
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
        """The consumer of the listener's queue, with the messages in the order of their arrival."""
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
            fault = None  # A repeated transaction that is committed or in progress does not conflict with itself.
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
                # When this takes effect, its client has already given up and sent it again.
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
                # The names of the reasons, joined by "+" for several items.
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
        # Format 2.0 has no multiValueHeaders in answers: API Gateway ignores them.
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
