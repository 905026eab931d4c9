"""Verifies a changeset with autograph-utils, which Mozilla's own tools use for Remote Settings.

    target/venv/bin/python tests/signer/third_party.py URL_OF_COLLECTION ROOT NAME

ROOT is the root in the form that clients know (`kinto-serverless chain` prints it). NAME is the host name in the certificate of the
key. Prints the number of records and the signatures that verify. Fails unless all of them do.
"""

import asyncio
import sys

import aiohttp
import canonicaljson
from autograph_utils import ExactMatch, MemoryCache, SignatureVerifier, decode_mozilla_hash


def verifier(session, root, name):
    return SignatureVerifier(session, MemoryCache(), decode_mozilla_hash(root), ExactMatch(name))


async def check(verifier, changeset):
    """Returns the number of its signatures. Raises unless all of them verify."""
    records = sorted(changeset["changes"], key=lambda record: record["id"])
    content = {"data": records, "last_modified": str(changeset["timestamp"])}
    text = canonicaljson.dumps(content).encode()
    signatures = changeset["metadata"]["signatures"]
    for signature in signatures:
        await verifier.verify(text, signature["signature"], signature["x5u"])
    return len(signatures)


async def main(url, root, name):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/changeset?_expected=0") as answer:
            changeset = await answer.json()
        signatures = await check(verifier(session, root, name), changeset)
    print(f"{len(changeset['changes'])} records, {signatures} signatures")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
