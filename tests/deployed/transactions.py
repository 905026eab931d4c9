"""Transactions of `dynamo.py`. Their items become visible at one moment or at several (its `isolation`)."""

import asyncio
import hashlib
import json

from aws_error import AwsError
from expressions import Invalid, holds, item_size
from throughput import units, write_units

MAX_TRANSACTION = 4 * 1024 * 1024


class Transactions:
    """The transactions of a table."""

    async def TransactWriteItems(self, request):
        token = request.get("ClientRequestToken")
        if token is not None and not 1 <= len(token) <= 36:
            raise Invalid("1 validation error detected: Value at 'clientRequestToken' failed to satisfy constraint")
        digest = hashlib.sha256(json.dumps(request["TransactItems"], sort_keys=True).encode()).digest()
        if token is not None and token in self.tokens:
            known, done = self.tokens[token]
            if known != digest:
                raise AwsError("IdempotentParameterMismatchException", "Request parameters do not match a previous request")
            if done is None:
                raise AwsError("TransactionInProgressException", "Transaction is in progress for this request token")
            return {}
        actions = request["TransactItems"]
        if not 1 <= len(actions) <= 100:
            raise Invalid("Member must have length less than or equal to 100")
        prepared, total = [], 0
        for action in actions:
            (kind, inner), = action.items()
            if kind not in ("Put", "Update", "Delete", "ConditionCheck"):
                raise Invalid("Invalid Request: TransactWriteRequest should contain Delete or Put or Update request")
            self.note(kind, inner)
            prepared.append((kind, inner, *self.prepare(kind, inner)))
        keys = [entry[2] for entry in prepared]
        if len(set(keys)) != len(keys):
            raise Invalid("Transaction request cannot include multiple operations on one item")
        if token is not None:
            self.tokens[token] = (digest, None)
        committed = False
        try:
            await self.moment()
            reasons, changes = [], []
            for kind, inner, key, condition, change in prepared:
                old = self.get(key)
                if key in self.locked:
                    reasons.append({"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"})
                    continue
                if condition is not None and not holds(condition, old or {}):
                    reason = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}
                    if inner.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" and old is not None:
                        reason["Item"] = old
                    reasons.append(reason)
                    continue
                try:
                    new = change(old) if change else old
                except Invalid as error:
                    reasons.append({"Code": "ValidationError", "Message": str(error)})
                    continue
                total += item_size(new if new is not None else old or {})
                reasons.append({"Code": "None"})
                changes.append((key, new))
            if any(reason["Code"] != "None" for reason in reasons):
                codes = ", ".join(reason["Code"] for reason in reasons)
                raise AwsError("TransactionCanceledException", "Transaction cancelled, please refer cancellation reasons "
                               f"for specific reasons [{codes}]", CancellationReasons=reasons)
            if total > MAX_TRANSACTION:
                raise Invalid("Collection size of items in the transaction has exceeded the maximum allowed size of 4 MB")
            write, index = 0, 0
            for key, new in changes:
                in_table, in_index = write_units(self.get(key), new)
                write, index = write + 2 * in_table, index + in_index
            self.consume("TransactWriteItems", len(changes), 0, write, index)
            mine = object()
            for key in keys:
                self.locked[key] = mine
            committed = True
            stall, self.stall = self.stall, 0
            if stall:
                await asyncio.sleep(stall)
            await self.apply(changes, keys, mine)
        finally:
            if token is not None:
                if committed:
                    self.tokens[token] = (digest, True)
                else:
                    self.tokens.pop(token, None)
        return {}

    async def apply(self, changes, keys, mine):
        try:
            await self.moment(0.002)
            if self.isolation == "item":
                groups = [[change] for change in changes]
            elif self.isolation == "partition":
                by_pk = {}
                for change in changes:
                    by_pk.setdefault(change[0][0], []).append(change)
                groups = list(by_pk.values())
            else:
                groups = [changes]
            self.random.shuffle(groups)
            for n, group in enumerate(groups):
                for key, item in group:
                    self.transaction = mine
                    self.put(key, item)
                    self.transaction = None
                    self.unlock(key, mine)
                if n + 1 < len(groups):
                    await self.moment(0.003)
        finally:
            for key in keys:
                self.unlock(key, mine)

    def unlock(self, key, mine):
        """Another transaction may hold the item by now."""
        if self.locked.get(key) is mine:
            del self.locked[key]

    async def TransactGetItems(self, request):
        gets = request["TransactItems"]
        if not 1 <= len(gets) <= 100:
            raise Invalid("Member must have length less than or equal to 100")
        keys = []
        for get in gets:
            self.check_table(get["Get"])
            keys.append(self.check_key(get["Get"]["Key"]))
        if len(set(keys)) != len(keys):
            raise Invalid("Transaction request cannot include multiple operations on one item")
        await self.moment()
        reasons = [{"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}
                   if key in self.locked else {"Code": "None"} for key in keys]
        if any(reason["Code"] != "None" for reason in reasons):
            codes = ", ".join(reason["Code"] for reason in reasons)
            raise AwsError("TransactionCanceledException", "Transaction cancelled, please refer cancellation reasons "
                           f"for specific reasons [{codes}]", CancellationReasons=reasons)
        found = [self.get(key) for key in keys]
        self.consume("TransactGetItems", len(keys), sum(2 * units(item_size(item or {}), 4096) for item in found))
        return {"Responses": [{} if item is None else {"Item": item} for item in found]}
