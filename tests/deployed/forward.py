"""Another DynamoDB in place of `dynamo.py` (--dynamodb-url)."""

import asyncio
import time
import urllib.parse

import http1
from aws_error import AwsError
from codec import dumps, loads
from dynamo import Shard


class Forward:
    """Another DynamoDB."""

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
