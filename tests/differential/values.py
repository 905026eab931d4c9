"""The objects that requests use, and the values that they send."""

from request import RUN

# The second bucket's id begins with the first's.
BUCKETS = [f"b-{RUN}", f"b-{RUN}-staging"]
# The users' default buckets, which only sequences for listeners use.
DEFAULT = "default"
PERMISSIONS = {
    "bucket": ["read", "write", "collection:create", "group:create"],
    "group": ["read", "write"],
    "collection": ["read", "write", "record:create"],
    "record": ["read", "write"],
}
FIELDS = ["n", "s", "l", "o", "t"]
COMPARISONS = [
    "",
    "",
    "min_",
    "max_",
    "gt_",
    "lt_",
    "not_",
    "in_",
    "exclude_",
    "like_",
    "has_",
    "contains_",
    "contains_any_",
]
# Without filters whose result depends on ids that the servers make.
ID_COMPARISONS = ["", "not_", "in_", "exclude_", "like_", "has_", "contains_"]
VALUES = {
    "n": ["0", "1", "2", "-1", "1.5", '"1"', "null", "1,2", "x"],
    "s": ["a", "A", "b", "ab", "3", '"3"', "é", "a*", "*b", "a,b", "3,a", ""],
    "l": ["[1]", '["a"]', '[1,"a"]', "1", "[]"],
    "o": ['{"a":1}', "1", "null"],
    "o.a": ["1", "2", '"x"', "true"],
    "o.b.c": ["1", "x", "null"],
    "t": ["true", "false", "1", "null"],
    "id": ["r0", "r1", "r0,r2", '"r0"'],
    "missing": ["true", "1", "x"],
}
# As people write them: unknown drafts, dangling references, patterns in the syntax of Python and of ECMAScript.
SCHEMAS = [
    {"type": "object", "properties": {"n": {"type": "integer"}}},
    {"required": ["s"]},
    {"type": "nothing"},
    {},
    1,
    {"$schema": "http://json-schema.org/draft-04/schema#", "required": ["id", "last_modified", "schema"]},
    {"$schema": "http://json-schema.org/draft-04/schema", "properties": {"n": {"minimum": 1, "exclusiveMinimum": True}}},
    {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"n": {"exclusiveMinimum": 1}}},
    {"$schema": "https://example.com/own", "properties": {"s": {"maxLength": 1}}},
    {"$id": "not a uri", "properties": {"s": {"type": ["string", "null"]}}},
    {"definitions": {"é": {"type": "string"}}, "properties": {"s": {"$ref": "#/definitions/%C3%A9"}}},
    {"properties": {"n": {"$ref": "#/definitions/no"}, "s": {}}},
    {"properties": {"o": {"$ref": "http://json-schema.org/draft-07/schema#"}}},
    {"properties": {"s": {"pattern": r"^\w+$"}}},
    {"properties": {"s": {"pattern": r"(?i)^ab?$"}}},
    {"properties": {"s": {"pattern": r"\A(?P<x>a)\Z"}}},
    {"properties": {"s": {"pattern": "^[^]]+$"}}},
    {"properties": {"s": {"pattern": "a{,2}"}}},
    {"properties": {"s": {"pattern": "("}}},
    {"patternProperties": {"^[no]$": {"type": ["number", "object"]}}, "additionalProperties": True},
    {"properties": {"s": {"format": "email", "contentEncoding": "base64", "contentMediaType": "application/json"}}},
    {"properties": {"l": {"items": {"type": "integer"}, "uniqueItems": True, "maxItems": 1}}},
    {"properties": {"n": {"multipleOf": 0.5}}, "anyOf": [{"required": ["n"]}, {"required": ["s"]}]},
]
HOUR = 3_600_000
MINUTE = 60_000
INVALID_IDS = ["a b", "-a", "_a", "é", "*", "a.b"]
ODD_IDS = ["A", "a" * 100, "a" * 256]
