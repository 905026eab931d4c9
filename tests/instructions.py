"""Counts the instructions that the local stack spends on a request, under valgrind. A busy machine does not change them.

    cargo build --release -p kinto-local
    python3 tests/instructions.py target/release/kinto-local [--request-log]

With `--request-log` each request also writes a log line. Each figure is the difference of two runs, so it does not include the start of the
process. A request is sent when the process is idle, so each write includes one batch of the aggregator. Otherwise a batch holds as many
writes as there is time for, and two runs differ by a tenth. It takes ten minutes.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOG = {"KINTO_REQUEST_LOG": "true", "RUST_LOG": "warn,request.summary=info"} if "--request-log" in sys.argv else {"RUST_LOG": "warn"}
RECORDS = "/v1/buckets/b/collections/c/records"
# 300 bytes.
RECORD = {
    "title": "x" * 40,
    "n": 123,
    "tags": ["a", "b", "c"],
    "nested": {"a": 1, "b": [1, 2, 3], "c": "y" * 80},
    "text": "z" * 80,
}
HEADERS = {"Authorization": "Basic dTpw", "Content-Type": "application/json"}


def put(n):
    return {"method": "PUT", "path": f"{RECORDS}/r{n}", "body": {"data": RECORD}}


def post(_):
    return {"method": "POST", "path": RECORDS, "body": {"data": RECORD}}


def batch(request):
    requests = lambda n: [request(25 * n + k) for k in range(25)]
    return lambda n: {"method": "POST", "path": "/v1/batch", "body": {"requests": requests(n)}}


# For each name the request, and the number of records in it.
REQUESTS = {
    "GET of a record": (lambda _: {"method": "GET", "path": f"{RECORDS}/read"}, 1),
    "PUT of a record": (put, 1),
    "POST of a record": (post, 1),
    "PUT in a batch of 25": (batch(put), 25),
    "POST in a batch of 25": (batch(post), 25),
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def connect(port):
    deadline = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
            return connection
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def send(connection, request):
    body = json.dumps(request["body"]) if "body" in request else None
    connection.request(request["method"], request["path"], body, HEADERS)
    response = connection.getresponse()
    text = response.read()
    if response.status >= 300:
        raise SystemExit(f"{request['method']} {request['path']}: {response.status} {text}")


def await_idle(process):
    """Waits until the process has used no CPU time for 50 ms."""
    used = None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        before, used = used, [path.read_text() for path in sorted(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))]
        if used == before:
            return
        time.sleep(0.05)
    raise SystemExit("the process is never idle")


def instructions(program, request, times):
    """The instructions of the whole process when it answers the request that many times."""
    port = free_port()
    report = tempfile.NamedTemporaryFile("r")
    process = subprocess.Popen(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={report.name}", program],
        env={**os.environ, **LOG, "PORT": str(port), "AWS_PORT": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        connection = connect(port)
        for path in ["/v1/buckets/b", "/v1/buckets/b/collections/c", f"{RECORDS}/read"]:
            send(connection, {"method": "PUT", "path": path, "body": {"data": RECORD}})
        for n in range(times):
            await_idle(process)
            send(connection, request(n))
        await_idle(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    return int(re.search(r"Collected : (\d+)", report.read())[1])


def main():
    for name, (request, records) in REQUESTS.items():
        few = 200 if records == 1 else 20
        spent = instructions(sys.argv[1], request, 3 * few) - instructions(sys.argv[1], request, few)
        print(f"{name}: {spent / (2 * few * records) / 1e6:.3f} million", flush=True)


main()
