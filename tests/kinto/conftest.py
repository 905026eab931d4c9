"""Sends Kinto's own tests to a local stack. tests/kinto copies this file beside them."""

import atexit
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import webtest
from kinto import DEFAULT_SETTINGS as KINTO
from kinto.core import DEFAULT_SETTINGS as CORE
from kinto.core import testing

BINARY = os.environ["KINTO_LOCAL"]
BACKENDS = ("storage_", "cache_", "permission_")
running = set()


class Server:
    """A local stack with the settings of a test's class. It is restarted after each test."""

    def __init__(self, settings):
        # Default values are left out: absent and empty are different.
        defaults = CORE | KINTO
        settings = {name: value for name, value in settings.items() if defaults.get(name) != value}
        # The host and port that the tests expect.
        settings.setdefault("http_host", "localhost")
        settings.setdefault("admin_assets_path", os.environ.get("KINTO_ADMIN_ASSETS_PATH"))
        lines = [f"{name} = {text(value)}" for name, value in settings.items() if value is not None]
        lines = [line for line in lines if not line.startswith(BACKENDS)]
        with tempfile.NamedTemporaryFile("w", suffix=".ini", delete=False) as file:
            file.write("\n".join(["[app:main]", "use = egg:kinto", *lines]) + "\n")
        self.ini = file.name
        atexit.register(os.unlink, self.ini)
        self.port = 0
        self.start()

    def start(self):
        environment = {
            "PATH": os.environ["PATH"],
            "PORT": str(self.port),
            "AWS_PORT": "0",
            "RUST_LOG": "error",
            "KINTO_ACCOUNT_HASH_COST": "10",
        }
        with tempfile.TemporaryFile("w+") as log:
            self.process = subprocess.Popen(
                [BINARY, "--ini", self.ini], env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd="/"
            )
            running.add(self.process)
            for line in self.process.stdout:
                if line.startswith("listening on "):
                    self.port = int(line.split()[2].split(":")[2].split("/")[0])
                    return
            log.seek(0)
            pytest.skip(f"does not start: {log.read().strip()[-300:]}")

    def flush(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        running.discard(self.process)
        self.start()


class Inside:
    """An object inside a server's process, which no test can see over HTTP."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(f"looks into the process: {name}")

    def initialize_schema(self, *args, **kwargs):
        pass

    def flush(self):
        pass


def text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, set)):
        value = " ".join(map(str, value))
    return str(value).replace("%", "%%")


in_process = testing.BaseWebTest.make_app


def make_app(cls, settings=None, config=None):
    if cls.entry_point.__module__ != "kinto":
        return in_process.__func__(cls, settings, config)
    settings = cls.get_app_settings(extras=settings)
    server = Server(settings)
    app = webtest.TestApp(f"http://127.0.0.1:{server.port}")
    app.RequestClass = testing.get_request_class(cls.api_prefix)
    storage = Inside(flush=server.flush)
    app.app.registry = Inside(storage=storage, cache=Inside(), permission=Inside(), settings=settings)
    return app


testing.BaseWebTest.make_app = classmethod(make_app)
atexit.register(lambda: [process.kill() for process in running])


def expected():
    """The tests that are expected to fail, with the reasons."""
    lines = Path(os.environ["KINTO_EXPECTED"]).read_text().splitlines()
    why = {}
    for line in lines:
        if line.startswith("# "):
            reason = line[2:]
        elif line:
            why[line] = reason
    return why


def pytest_collection_modifyitems(items):
    why = expected()
    for item in items:
        names = [item.nodeid, item.nodeid.rpartition("::")[0]]
        for name in names:
            if name in why:
                item.add_marker(pytest.mark.xfail(reason=why[name], strict=name == item.nodeid))
