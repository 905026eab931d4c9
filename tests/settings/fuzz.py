"""Reads random ini files by PasteDeploy and by `lib/src/settings/ini.rs`, and compares the results.

    target/venv/bin/python tests/settings/fuzz.py [FILES] [SEED]

If both read a file, the results must be equal. If PasteDeploy refuses a file, ours must refuse it. Files that only ours refuses are
counted: they have a setting that [DEFAULT] has too, which PasteDeploy drops silently.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from paste.deploy.loadwsgi import APP, ConfigLoader

WORKSPACE = Path(__file__).parent.parent.parent
LINES = [
    "[app:main]", "[app:other]", "[DEFAULT]", "[server:main]", "[x] y", "[", "[]", "use = egg:kinto", "use = egg:kinto#main",
    "use = other", "use = main", "a = 1", "a: 1", "b = %(a)s", "b = %(here)s/x", "c = %(c)s", "c = 100%", "c = 50%%", "c = %(nowhere)s",
    "kinto.a = true ; remark", "kinto.list =", "  one", "    two", "\tthree", "# remark", "  ; remark", "", "   ", "d = x = y : z",
    "= nothing", "no value", "e =", "A = capitals", "f g = a name of two words", "h =  [\"x\", \"y\"]  ", "i = ü", "j=%(b)s%(a)s", "[app:main]x",
    "k = %", "l = %(a)", "m = %(a)d", "n\t=\ttabs", "[app:third]", "use = third", "[app]", "[app: main]", "[application:main]",
    "[application: other]", "[pipeline:main]", "o = %(__file__)s",
]


def made(random):
    lines = random.choices(LINES, k=random.randrange(1, 14))
    if random.random() < 0.8:
        lines = ["[app:main]", "use = egg:kinto"] + [line for line in lines if random.random() < 0.9]
    if random.random() < 0.1:
        lines = ["  " + line for line in lines]
    return random.choice(["\n", "\n", "\r\n"]).join(lines) + random.choice(["", "\n"])


def theirs(text, path):
    path.write_bytes(text.encode())
    try:
        loader = ConfigLoader(str(path))
        loader.update_defaults({"here": "/here", "__file__": "/here/kinto.ini"})
        return dict(loader.get_context(APP, name="main").local_conf)
    except Exception:
        return None


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    generator = random.Random(seed)
    files = [made(generator) for _ in range(count)]
    # `cargo test --workspace` builds it.
    command = [WORKSPACE / "target/debug/examples/ini"]
    run = subprocess.run(command, input="\n".join(map(json.dumps, files)) + "\n", text=True, capture_output=True, check=True)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == count
    path = Path(tempfile.mkdtemp()) / "kinto.ini"
    stricter = failed = read = 0
    for text, ours in zip(files, answers):
        expected = theirs(text, path)
        read += expected is not None
        if ours is None and expected is not None:
            stricter += 1
            if "[DEFAULT]" not in text:
                failed += 1
                print(f"refused here alone: {text!r}: {expected}")
        elif ours != expected:
            failed += 1
            print(f"differs: {text!r}\n  PasteDeploy: {expected}\n  here:        {ours}")
        if failed > 10:
            break
    print(f"{read} of {count} were read, {stricter} are refused here alone")
    print(f"{count - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
