"""Event source mappings with template.yaml's filters and batch sizes, and Lambda's retries."""

import asyncio
import json
import re

from codec import dumps, loads
from functions import Failed


def template_event_sources(path):
    """Filters and batch sizes of the stream mappings, from template.yaml."""
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
                    # As if the deletion was lost: the message comes again soon.
                    message["visible"] = self.queue.now() + 0.2
                    continue
                self.queue.delete(message)


class Fan:
    """An event that several tasks wait for separately."""

    def __init__(self):
        self.listeners = []

    def set(self):
        for listener in self.listeners:
            listener.set()


class View:
    """A shard, with a private event."""

    def __init__(self, shard):
        self.shard, self.event = shard, asyncio.Event()
        shard.event.listeners.append(self.event)

    @property
    def records(self):
        return self.shard.records
