"""Capacity units: what a request takes, and what the partitions of a table have."""

import time
import zlib

from expressions import item_size, number


def units(size, of):
    """Capacity units: at least one, also for what is not there."""
    return max(1, -(-size // of))


def write_units(old, new):
    """Of the table and of the index (all attributes projected): an entry whose place changes is deleted and put anew."""
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
    """What the partitions of a table take: 1,000 write units a second each, those of the index included."""

    UNITS = 1000

    def __init__(self, partitions, now=time.monotonic):
        self.now = now
        self.left = [(now(), float(self.UNITS))] * partitions

    def takes(self, pk):
        """Whether a write to this partition key is not refused: what it costs is taken afterwards."""
        return self.filled(pk) > 0

    def filled(self, pk):
        at, left = self.left[zlib.crc32(pk.encode()) % len(self.left)]
        return min(self.UNITS, left + (self.now() - at) * self.UNITS)

    def take(self, pk, units):
        self.left[zlib.crc32(pk.encode()) % len(self.left)] = (self.now(), self.filled(pk) - units)
