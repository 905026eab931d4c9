"""JSON as the stand-ins read and write it: by orjson where it is installed."""

import json

try:
    import orjson

    def dumps(value):
        return orjson.dumps(value)
    loads = orjson.loads
except ImportError:
    def dumps(value):
        return json.dumps(value, separators=(",", ":")).encode()
    loads = json.loads
