"""JSON for the stand-ins: by orjson if it is installed."""

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
