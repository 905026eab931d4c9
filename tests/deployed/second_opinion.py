"""Sends one example of each shape of the functions' requests (histories.py --shapes FILE) to other DynamoDBs,
and prints their refusals: an expression, a reserved word, a type.

    python3 tests/deployed/second_opinion.py FILE URL [URL ...]
"""

import asyncio
import json
import sys

from aws_error import AwsError
from forward import Forward


class Nobody:
    def note(self, *what):
        pass


async def main():
    shapes = json.load(open(sys.argv[1]))
    bad = 0
    for url in sys.argv[2:]:
        table = Forward(url, Nobody())
        table.follow = lambda arn: asyncio.sleep(0)
        try:
            await table.open()
        except (KeyError, AwsError) as error:
            print(f"{url}: {error!r} on creating the table (no streams?), going on")
        taken = refused = 0
        for operation, request in shapes:
            operation = {"Put": "PutItem", "Update": "UpdateItem"}.get(operation, operation)
            request = dict(request)
            try:
                await table.call(operation, request)
                taken += 1
            except AwsError as error:
                if error.code in ("ConditionalCheckFailedException",):
                    taken += 1
                    continue
                refused += 1
                print(f"{url}: {operation} {error.code}: {error.message}\n    {json.dumps(request)[:600]}")
        print(f"{url}: {taken} shapes taken, {refused} refused")
        bad += refused
    sys.exit(bool(bad))


asyncio.run(main())
