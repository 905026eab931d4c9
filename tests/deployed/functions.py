"""Lambda: processes of the functions' binaries, each with its own Runtime API and one invocation at a time."""

import asyncio
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid

import http1


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
        """The function's answer, as bytes."""
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
