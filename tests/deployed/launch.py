"""Starts one stack of the deployed functions on PORT with the KINTO_* settings of the environment, in the foreground.

    PORT=18300 python3 tests/deployed/launch.py

The variables FUNCTIONS (target/lambda), ISOLATION (atomic) and APIS (2) are run.py's options. Clients do not see refusals of the
stand-ins as such; they are appended to the file REFUSALS.
"""

import asyncio
import os
import signal
import time

from run import FUNCTIONS, LOGS, Stack


async def main():
    port = int(os.environ["PORT"])
    settings = {key: value for key, value in os.environ.items()
                if key.startswith(("KINTO_", "MULTIAUTH_")) and value and key != "KINTO_HTTP_PORT"}
    settings.setdefault("KINTO_USERID_HMAC_SECRET", "local")
    settings.setdefault("KINTO_MULTIAUTH_POLICIES", "basicauth")
    everything = {key: settings.pop(key) for key in list(settings) if key.startswith("KINTO_EVENT_LISTENERS_MP")}
    stack = Stack(os.environ.get("FUNCTIONS", FUNCTIONS), settings, int(os.environ.get("APIS", "2")), os.environ.get("ISOLATION", "atomic"),
                  slow="ISOLATION" in os.environ, listeners=True, proto="http", everything=everything,
                  folder=os.environ.get("LOGS", LOGS) + "-" + str(port),
                  raw_path=os.environ.get("RAW_PATH", "decoded"), dynamodb_url=os.environ.get("DYNAMODB_URL"))
    await stack.start(port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    until, written = time.monotonic() + 1800, set()
    while not stop.is_set() and time.monotonic() < until:
        try:
            await asyncio.wait_for(stop.wait(), 0.2)
        except asyncio.TimeoutError:
            pass
        # At once, because the harness may kill this process without notice.
        new = [key for what in (stack.notes, stack.denied) for key in what if key not in written]
        written.update(new)
        if new and os.environ.get("REFUSALS"):
            with open(os.environ["REFUSALS"], "a") as file:
                file.writelines(key.replace("\n", " ") + "\n" for key in new)
    await stack.stop()


asyncio.run(main())
