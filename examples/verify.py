"""Verifies a signed changeset as a client does: python3 verify.py URL_OF_COLLECTION PUBLIC_KEY.pem

It needs only Python 3.8. To verify many changesets, use a library for the curve instead of `mul`.
"""

import base64
import hashlib
import json
import sys
import urllib.request

P = 2**384 - 2**128 - 2**96 + 2**32 - 1
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
G = (0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
     0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    slope = (3 * a[0] ** 2 - 3) * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope**2 - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def mul(k, point):
    result = None
    for bit in bin(k)[2:]:
        result = add(result, result)
        result = add(result, point) if bit == "1" else result
    return result


def verifies(changeset, key):
    records = sorted(changeset["changes"], key=lambda record: record["id"])
    content = {"data": records, "last_modified": str(changeset["timestamp"])}
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).replace("\x7f", "\\u007f")
    e = int.from_bytes(hashlib.sha384(b"Content-Signature:\0" + text.encode()).digest(), "big")
    raw = base64.urlsafe_b64decode(changeset["metadata"]["signature"]["signature"])
    r, s = int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big")
    if not (len(raw) == 96 and 0 < r < N and 0 < s < N):
        return False
    w = pow(s, -1, N)
    point = add(mul(e * w % N, G), mul(r * w % N, key))
    return point is not None and point[0] % N == r


def main(url, pem):
    body = "".join(line for line in open(pem).read().split("\n") if "-----" not in line)
    point = base64.b64decode(body)[-96:]
    key = int.from_bytes(point[:48], "big"), int.from_bytes(point[48:], "big")
    with urllib.request.urlopen(f"{url}/changeset?_expected=0") as answer:
        changeset = json.load(answer)
    if not verifies(changeset, key):
        sys.exit("the signature does NOT match these records")
    print(f"{len(changeset['changes'])} records of {changeset['timestamp']} are verified")


if __name__ == "__main__":
    main(*sys.argv[1:])
