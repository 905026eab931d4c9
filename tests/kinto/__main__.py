"""Sends Kinto's own tests to the local stack by HTTP.

    target/venv/bin/python tests/kinto [--install | PYTEST ARGUMENTS…]

Downloads the source of the Kinto in tests/requirements.txt into target/kinto; with `--install` it does no more. It runs the tests that
talk to a server by HTTP. `conftest.py` starts a local stack (KINTO_LOCAL, by default target/debug/kinto-local) with the settings of each
test. Tests that look into the process are skipped. It ends with an error if a test fails that `expected.txt` does not name, or if a test
passes that it names.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKSPACE = HERE.parent.parent
PLACE = WORKSPACE / "target/kinto"
MODULES = ["test_views_*.py", "test_authorization.py"] + [
    f"plugins/test_{name}.py" for name in ("accounts", "admin", "default_bucket", "flush", "history", "openid")
]


def main():
    version = re.search(r"^kinto\S*==(\S+)", (WORKSPACE / "tests/requirements.txt").read_text(), re.MULTILINE)[1]
    source = PLACE / f"kinto-{version}"
    complete = source / "complete"
    if not complete.exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir(parents=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "kinto"]
        subprocess.run([*pip, "--dest", PLACE, f"kinto=={version}"], check=True)
        with tarfile.open(PLACE / f"kinto-{version}.tar.gz") as archive:
            archive.extractall(PLACE, filter="data")
        complete.touch()
    if sys.argv[1:] == ["--install"]:
        return
    shutil.copy(HERE / "conftest.py", source)
    binary = os.environ.get("KINTO_LOCAL", str(WORKSPACE / "target/debug/kinto-local"))
    environment = os.environ | {"KINTO_LOCAL": binary, "KINTO_EXPECTED": str(HERE / "expected.txt")}
    admin = WORKSPACE / "admin/opt/admin"
    if admin.exists():
        environment["KINTO_ADMIN_ASSETS_PATH"] = str(admin)
    arguments = sys.argv[1:]
    if not any("test_" in argument for argument in arguments):
        arguments += sorted(str(file) for pattern in MODULES for file in (source / "tests").glob(pattern))
    plugins = ["-p", "no:cacheprovider", "-p", "no:schemathesis"]
    pytest = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", *plugins, "-o", "addopts=", "--tb=line"]
    sys.exit(subprocess.run([*pytest, *arguments], cwd=source, env=environment).returncode)


if __name__ == "__main__":
    main()
