"""Capacity units: those that a request uses, and those that the partitions of a table offer."""

import time
import zlib

from expressions import item_size, number


def units(size, of):
    """Capacity units: at least one, also for a missing item."""
    return max(1, -(-size // of))


def write_units(old, new):
    """Units of the table and of the index (all attributes projected). An entry whose place changes is deleted and put again."""
    size = max(item_size(item) if item is not None else 0 for item in (old, new))
    entries = [item if item is not None and "last_modified" in item else None for item in (old, new)]
    if entries[0] == entries[1]:
        index = 0
    elif entries[0] is None or entries[1] is None:
        index = units(item_size(entries[0] or entries[1]), 1024)
    elif number(old["last_modified"]["N"]) == number(new["last_modified"]["N"]):
        index = units(size, 1024)
    else:
        index = sum(units(item_size(entry), 1024) for entry in entries)
    return units(size, 1024), index


class Throughput:
    """The limits of a table's partitions: 1,000 write units a second each, including the index."""

    UNITS = 1000

    def __init__(self, partitions, now=time.monotonic):
        self.now = now
        self.left = [(now(), float(self.UNITS))] * partitions

    def takes(self, pk):
        """Returns True if a write to this partition key is accepted. Its cost is deducted afterwards."""
        return self.filled(pk) > 0

    def filled(self, pk):
        at, left = self.left[zlib.crc32(pk.encode()) % len(self.left)]
        return min(self.UNITS, left + (self.now() - at) * self.UNITS)

    def take(self, pk, units):
        self.left[zlib.crc32(pk.encode()) % len(self.left)] = (self.now(), self.filled(pk) - units)
