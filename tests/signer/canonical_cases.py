"""Writes random JSON values, each followed by a tab and its canonical text, for lib/src/signer/canonical_cases.txt.

    pip install canonicaljson-rs
    python tests/signer/canonical_cases.py 10000 SEED > lib/src/signer/canonical_cases.txt
"""

import json
import random
import struct
import sys

import canonicaljson

PARTS = ["", "a", "Z", "é", "/", '"', "\\", "\x00", "\x1f", "\b\t\n\f\r", "\x7f", "\x80", "\u2028", "\uff6a", "\U0001f600"]


def text():
    def character():
        code = random.choice([random.randrange(0x80), random.randrange(0x110000)])
        return "?" if 0xD800 <= code < 0xE000 else chr(code)

    return "".join(random.choice([random.choice(PARTS), character()]) for _ in range(random.randrange(5)))


def number():
    kind = random.randrange(4)
    if kind == 0:
        return random.randrange(-(2**63), 2**64)
    if kind == 1:
        return random.randrange(-1000, 1000)
    if kind == 2:
        return random.randrange(-1000, 1000) / random.choice([1, 10, 1000])
    while True:
        (any_float,) = struct.unpack("d", random.randbytes(8))
        if any_float - any_float == 0:  # Neither infinite nor NaN.
            return any_float


def value(depth):
    kind = random.randrange(7 if depth else 5)
    if kind < 2:
        return number()
    if kind < 4:
        return text()
    if kind == 4:
        return random.choice([None, True, False])
    if kind == 5:
        return [value(depth - 1) for _ in range(random.randrange(4))]
    return {text(): value(depth - 1) for _ in range(random.randrange(5))}


count = int(sys.argv[1])
random.seed(int(sys.argv[2]))
for _ in range(count):
    case = {text(): value(3) for _ in range(random.randrange(1, 4))}
    print(json.dumps(case), canonicaljson.dumps(case), sep="\t")
