"""Moves unusual data, which a Kinto of many years may hold, by PostgreSQL and by the API.

    python tests/moving/odd.py KINTO_SERVERLESS KINTO_LOCAL

Kinto accepts all of them. The import names what it cannot move, and everything else has the same answers afterwards.
"""

import json
import sys
import tempfile
from urllib.parse import quote

from sides import HOST, SETTINGS, Served, Stack, ask, compare, run, send, storage

from postgres import Postgres
from request import Sent, authorization
from servers import Kinto

C = "/buckets/b/collections/c"
LONG = "l" * 300


def nested(depth):
    return "[" * depth + "]" * depth


RECORDS = {
    "integer": '{"n": 123456789012345678901234567890, "m": 18446744073709551616, "o": -9223372036854775809, "p": 9007199254740993}',
    "float": '{"n": 1e308, "m": 1e22, "o": 1e-7, "p": 5e-324, "q": -0.0, "r": 1.0, "s": 1.10, "t": 0.1234567890123456789}',
    "empty": "{}",
    "names": '{"": {"": null}, "__proto__": {"a": 1}, "constructor": 1, "a.b": 2, "$ref": "#", "\\u2028\U0001d11e": 1, "permissions": {"write": []}}',
    "texts": '{"a": "\\u007f\\u0001\\t\\r\\n", "b": "\\ud834\\udd1e", "c": "\\"\\\\,;\'", "d": "\\ufeff\\ufffe"}',
    "deleted": '{"deleted": true}',
    "deleted-too": '{"deleted": true, "x": 1}',
    "deleted-not": '{"deleted": false}',
    "zero": '{"last_modified": 0}',
    "one": '{"last_modified": 1}',
    "early": '{"last_modified": -5}',
    "text-of-time": '{"last_modified": "123"}',
    "twice": '{"a": 1, "a": 2}',
    "schema": '{"id": "schema", "schema": 5}',
    "near": f'{{"d": {nested(99)}}}',
    "deep": f'{{"d": {nested(120)}}}',
    "deepest": f'{{"d": {nested(300)}}}',
    "line%0A": "{}",
    "granted": '{"x": 1}',
    # It fills half an item, but PostgreSQL's text of it is larger than a whole item.
    "many": json.dumps({"many": [1] * 150_000}, separators=(",", ":")),
    "large": json.dumps({"text": "x" * 420_000}),
}
NAMED = {
    "a time before 1970: 1": ["early"],
    "an invalid id: ": ["line\n"],
    "data that are not a JSON object, or too deep: 1": ["deepest"],
    "data that are too deep: 1": ["deep"],
    "more than 400 KB: 1": ["large"],
    "not an entry of a history, or one that is too deep: ": [],
    "an entry of a history that is too deep: 1": [],
}
GRANTED = ["é", "x y", "a\nb", "a,\"b", "/buckets/b/groups/none", "p" * 3000, *(f"user:{number}" for number in range(300))]


def write(kinto, path, body, user="alice"):
    headers = {"Content-Type": "application/json", "Authorization": authorization(user)}
    answer = kinto.send(Sent("PUT", f"/v1{path}", headers, body.encode()))
    assert answer.status in (200, 201), (path, answer.status, answer.body)


def odd_kinto(kinto, postgres):
    for path in ("/buckets/b", C, "/buckets/monitor", "/buckets/monitor/collections/other", "/buckets/default", "/buckets/line%0A", f"/buckets/{LONG}", "/buckets/b/collections/line%0A"):
        write(kinto, path, "{}")
    # Objects under an id that no URL of this server can have, and its namesake.
    write(kinto, "/buckets/b/collections/line", "{}")
    write(kinto, "/buckets/b/collections/line/records/r", '{"data": {"of": "line"}}')
    write(kinto, "/buckets/b/collections/line%0A/records/r", '{"data": {"of": "another"}}')
    for name, data in RECORDS.items():
        permissions = json.dumps({"read": GRANTED} if name == "granted" else {})
        write(kinto, f"{C}/records/{name}", f'{{"data": {data}, "permissions": {permissions}}}')
    members = ["a b", "é", "x" * 1000, "account:a+b@c.d"]
    write(kinto, "/buckets/b/groups/g", json.dumps({"data": {"members": members}, "permissions": {"read": ["é"]}}))
    # Groups that are members of groups, which Kinto once accepted, and a group without members.
    postgres.execute("""UPDATE objects SET data = jsonb_set(data, '{members, 0}', '"/buckets/b/groups/g"') WHERE id = 'g'""", "kinto")
    write(kinto, "/buckets/b/groups/h", '{"data": {"members": []}}')
    postgres.execute("UPDATE objects SET data = '{}' WHERE id = 'h'", "kinto")
    for name in ("a+b@c.d", "UPPER.x_y-z"):
        assert send(kinto, "PUT", f"/accounts/{name}", None, {"data": {"password": "é \U0001d11e"}}).status == 201
    # A record created again under a past time, and a bucket created again: nothing of the first one is left.
    write(kinto, f"{C}/records/again", '{"data": {"last_modified": 5}}')
    send(kinto, "DELETE", f"{C}/records/again?last_modified=6", "alice")
    write(kinto, f"{C}/records/again", '{"data": {"last_modified": 7}}')
    write(kinto, "/buckets/again", "{}")
    write(kinto, "/buckets/again/collections/c", '{"permissions": {"read": ["system.Everyone"]}}')
    write(kinto, "/buckets/again/collections/c/records/r", "{}")
    send(kinto, "DELETE", "/buckets/again", "alice")
    write(kinto, "/buckets/again", "{}")
    # Permissions of objects that are gone.
    postgres.execute(f"""INSERT INTO access_control_entries VALUES ('{C}/records/gone', 'read', 'mallory'),
        ('/buckets/again/collections/c', 'read', 'mallory')""", "kinto")
    postgres.execute("INSERT INTO timestamps VALUES ('/buckets/none', 'collection', now()), ('/buckets/b', 'record', '1900-01-01')", "kinto")


def questions(postgres):
    lost = [f"/records/{quote(name)}" for names in NAMED.values() for name in names]
    for kind, parent, name in postgres.rows("SELECT resource_name, parent_id, id FROM objects WHERE resource_name <> 'history' ORDER BY 1, 2, 3"):
        url = f"/accounts/{name}" if kind == "account" else f"{quote(parent)}/{kind}s/{quote(name)}"
        if "%0A" not in url and LONG not in url and not any(url.endswith(end) for end in lost):
            for user in ("alice", "é", None):
                yield user, url
                if kind == "bucket":
                    yield user, f"{url}/collections?exclude_id=line%0A"
                    # These entries have different times on the two sides, or are left out.
                    yield user, f"{url}/history?resource_name=record&like_uri=again"
                    yield user, f"{url}/groups?_since=1"
                if kind == "collection":
                    for query in ("exclude_id=early,deep,deepest,large,line%0A", "_since=0&has_deleted=true", "_before=2&min_last_modified=0", "_since=6&in_id=again,zero,one"):
                        yield user, f"{url}/records?{query}"


def main():
    program, local = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        kinto = Kinto(HOST, {**SETTINGS, **storage(postgres.url("kinto"))})
        for backend in kinto.backends:
            backend.initialize_schema()
        odd_kinto(kinto, postgres)
        asked = list(dict.fromkeys(questions(postgres)))
        answers = {question: ask(kinto, question) for question in asked}
        count = sum(1 for answer in answers.values() if answer[0] == 200)
        assert count > 40, count

        def check(what, source, data, ignored=""):
            said = run(program, "import", source, "--data", data, "--dry-run")
            for named, _ in NAMED.items():
                assert f"does not fit: {named}" in said or ignored and ignored in named, (named, said)
            run(program, "import", source, "--data", data, "--leave-out")
            assert " 0 items written" in run(program, "import", source, "--data", data, "--leave-out")
            run(program, "verify", source, "--data", data)
            with Stack(local, data) as server:
                findings = compare(answers, server)
            print("\n".join(finding[:600] for finding in findings[:10]))
            assert not findings, f"{what}: {len(findings)} differences"
            print(f"{len(asked)} questions, {count} with an answer: {what}, nothing differs")

        check("by PostgreSQL", postgres.url("kinto"), f"{directory}/table.db")
        # Only a part of an entry that is too deep is read.
        with Served(kinto) as served:
            check("by HTTP", served.url.replace("://", "://alice:secret@"), f"{directory}/http.db", "too deep")


if __name__ == "__main__":
    main()
