"""Random sequences of requests to a small universe of objects."""

from request import RUN, At, Authorization, Made, Principal, Request, Seen, Text
from values import (BUCKETS, COMPARISONS, DEFAULT, FIELDS, HOUR, ID_COMPARISONS, INVALID_IDS, MINUTE, ODD_IDS,
                    PERMISSIONS, SCHEMAS, VALUES)


class Generator:
    """Generates one sequence. `random` makes all decisions."""

    def __init__(self, random, without=(), writes=False, history=False):
        self.random = random
        self.without = set(without)
        self.times = 0
        # For listeners, which hear only of writes.
        self.writes = writes
        self.buckets = BUCKETS
        self.accounts = False
        # For histories, which are read between the writes.
        self.history = history

    def sequence(self):
        """Five to 25 requests. The first ones usually create objects to work on."""
        if self.writes and self.chance(20):
            self.buckets = [DEFAULT, BUCKETS[1]]
        elif self.writes and self.chance(4):
            self.accounts = True
        # Ids made by the servers have no order.
        self.makes_ids = self.chance(50)
        start = self.random.choice(range(5))
        records = [Request("PUT", path, body={"data": self.data()}) for path in self.some_records()]
        prelude = [
            Request(
                "PUT",
                f"/buckets/{self.buckets[0]}",
                body=self.random.choice([None, {"permissions": self.permissions("bucket")}]),
            ),
            Request("PUT", f"/buckets/{self.buckets[0]}/collections/c0"),
            *records,
        ]
        rest = [self.request() for _ in range(self.random.randint(5, 20))]
        return (prelude if start else []) + rest

    def some_records(self):
        count = self.random.choice([0, 1, 3, 4])
        return [f"/buckets/{self.buckets[0]}/collections/c0/records/r{n}" for n in range(count)]

    def chance(self, percent):
        return self.random.random() * 100 < percent

    def weighted(self, **weights):
        return self.random.choices(list(weights), weights.values())[0]

    # The subject of a request.

    def kind(self):
        weights = {"bucket": 10, "group": 10, "collection": 15, "record": 65}
        if "groups" in self.without:
            del weights["group"]
        return self.weighted(**weights)

    def id(self, kind):
        if self.chance(3):
            ids = INVALID_IDS if kind == "bucket" else INVALID_IDS + ODD_IDS
            if kind == "collection" and DEFAULT in self.buckets:
                # Kinto creates the bucket before it checks this, and whether it stays depends on the storage.
                ids = ODD_IDS
            return self.random.choice(ids)
        if kind == "bucket":
            return self.random.choices(self.buckets, [9, 1])[0]
        if kind == "record" and self.makes_ids and self.chance(4):
            return Made(self.random.randrange(3))
        return kind[0] + str(
            self.random.choices(range(4), [6, 3, 2, 1])[0] if kind == "record" else int(self.chance(20))
        )

    def list(self, kind):
        bucket = self.id("bucket")
        match kind:
            case "bucket":
                return "/buckets"
            case "group" | "collection":
                return Text("/buckets/", bucket, f"/{kind}s")
        return Text("/buckets/", bucket, "/collections/", self.id("collection"), "/records")

    def user(self):
        if DEFAULT in self.buckets:
            # The URIs name the user of the bucket.
            return "alice"
        return self.random.choices(["alice", "bob", None], [75, 15, 10])[0]

    def time(self, of):
        """A time to send: usually one that was seen, otherwise a distant one."""
        if self.chance(80):
            return Seen(of, self.random.choices(range(5), [8, 4, 2, 1, 1])[0])
        # The list of buckets remains for the next run, and its time does not go back.
        return At(self.random.choice([-3, -2, -1] if of == "/buckets" else [-3, -2, -1, 1, 2, 3]) * HOUR // 4)

    def time_of_its_own(self, of):
        """A time that no other object has: two objects with the same time have no order."""
        if self.chance(50):
            return Seen(of)
        self.times += 1
        sign = -1 if of == "/buckets" else self.random.choice([-1, 1])
        return At(sign * (HOUR + self.times * MINUTE))

    # The parts of a request.

    def preconditions(self, of):
        if not self.chance(15):
            return ()
        name = self.random.choice(["If-Match", "If-None-Match"])
        value = self.random.choices(
            [Text('"', self.time(of), '"'), "*", self.time(of), '"abc"', "", "abc", '"0"'], [70, 18, 4, 2, 1, 3, 2]
        )[0]
        return ((name, value if isinstance(value, str) else Text(value)),)

    def headers(self, of, method):
        headers = self.preconditions(of)
        if self.chance(2):
            accepted = ["text/html", "*/*", "application/json", "application/*", "", "APPLICATION/JSON", "nonsense"]
            accepted += ["text/html, */*;q=0.5", "application/json;q=0.1", "application/json;q=", "*/*;q=0", ";,"]
            headers += (("Accept", self.random.choice(accepted)),)
        if method in ("PUT", "POST") and self.chance(3):
            types = [
                "application/json; charset=utf-8",
                "text/plain",
                "application/merge-patch+json",
                "APPLICATION/JSON",
            ]
            headers += (("Content-Type", self.random.choice(types)),)
        return headers

    def value(self, name):
        match name:
            case "n":
                return self.random.choice([0, 1, 2, 3, -1, 1.5, None, "1"])
            case "s":
                return self.random.choice(["a", "A", "b", "ab", "3", "é", "", "a*b"])
            case "l":
                return self.random.choice([[], [1], ["a"], [1, "a"], [1, [2]], [{"a": 1}]])
            case "o":
                return self.random.choice(
                    [{}, {"a": 1}, {"a": 2, "b": {"c": 1}}, {"a": "x", "b": {"c": None}}, {"b": 1}]
                )
        return self.random.choice([True, False, None])

    def data(self, of=None, id=None):
        data = {name: self.value(name) for name in FIELDS if self.chance(35)}
        if of is not None and self.chance(8):
            data["last_modified"] = self.time_of_its_own(of)
        if of is not None and self.chance(2):
            # A time that several objects may share.
            data["last_modified"] = At(-2 * HOUR)
        if self.chance(1):
            data["last_modified"] = self.random.choice([0, -1, 1.5, "abc", True, None, []])
        if id is not None and self.chance(6):
            data["id"] = id if self.chance(70) else self.random.choice(["other", 1, None])
        return data

    def principals(self):
        everybody = ["system.Everyone", "system.Authenticated", Principal("alice"), Principal("bob")]
        everybody += [f"/buckets/{self.buckets[0]}/groups/g0", "someone"]
        return self.random.sample(everybody, self.random.randint(0, 2))

    def permissions(self, kind):
        names = self.random.sample(PERMISSIONS[kind], self.random.randint(0, 2))
        permissions = {name: self.principals() for name in names}
        if self.chance(4):
            permissions[self.random.choice(["record:create", "bogus", "read"])] = self.random.choice(
                [None, "x", [1], []]
            )
        return permissions

    def body(self, kind, of, id):
        """Usually a body that `PUT`, `POST` or `PATCH` accepts."""
        if self.chance(4):
            odd = [b"{", b"[]", b"null", b'""', b"1", b"\xff", b"{}", {"data": 1}, {"data": None}, {"data": []}]
            odd += [{"permissions": None}, {"permissions": []}, {"unknown": 1}, {"data": {}, "unknown": 1}]
            return self.random.choice(odd)
        data = self.data(of, id)
        if kind == "group":
            data = {"members": self.members(), **({} if self.chance(70) else data)}
        # Kinto ignores the schemas of collections in a default bucket.
        has_schemas = "schemas" not in self.without and DEFAULT not in self.buckets
        if kind == "collection" and has_schemas and self.chance(10):
            data["schema"] = self.random.choice(SCHEMAS)
        body = {"data": data} if self.chance(85) else {}
        if self.chance(25):
            body["permissions"] = self.permissions(kind)
        return body

    def members(self):
        if self.chance(4):
            return self.random.choice([["system.Everyone"], ["/buckets/x/groups/y"], "alice", [1], None])
        return self.random.sample(
            [Principal("alice"), Principal("bob"), "system.Authenticated", "someone"], self.random.randint(0, 2)
        )

    def operation(self):
        """An operation of a JSON patch."""
        where = ["/data/n", "/data/s", "/data/l", "/data/l/0", "/data/l/-", "/data/o/a", "/data/o/b/c", "/data/missing"]
        where += ["/data/o", "/data/last_modified", "/data/id", "/data", "/permissions", "/nowhere", "data/n", ""]
        weights = [6, 4, 3, 2, 2, 3, 1, 1, 1, 0.3, 0.3, 0.3, 0.2, 0.5, 0.3, 0.3]
        path = self.random.choices(where, weights)[0]
        if self.chance(20):
            path = Text(f"/permissions/{self.random.choice(['read', 'write'])}/", Principal("bob"))
        operation = {
            "op": self.random.choices(
                ["add", "replace", "remove", "test", "move", "copy", "bogus"], [8, 4, 3, 2, 1, 1, 0.3]
            )[0],
            "path": path,
        }
        if operation["op"] in ("add", "replace", "test") and self.chance(95):
            operation["value"] = self.value(self.random.choice(FIELDS))
        if operation["op"] in ("add", "replace") and self.chance(8):
            # All principals at once, because people take them for a list.
            operation["path"] = f"/permissions/{self.random.choice(['read', 'write'])}"
            operation["value"] = self.random.choices(
                [["system.Everyone"], [Principal("bob"), "x"], [], {"x": "x"}, {}, "x", None, [1], [""], 1],
                [6, 6, 3, 3, 1, 1, 1, 1, 1, 1],
            )[0]
        if operation["op"] in ("move", "copy"):
            operation["from"] = self.random.choice(where[:8])
        return operation

    def operations(self):
        if self.chance(4):
            return self.random.choice([[], [1], [{}], {"data": {}}, b"[", [{"op": "add"}]])
        return [self.operation() for _ in range(self.random.randint(1, 3))]

    def query(self, of, method):
        """The query of a list."""
        query = []
        for _ in range(self.random.choices([0, 1, 2], [50, 35, 15])[0]):
            field = self.random.choice([*VALUES])
            name = self.random.choice(ID_COMPARISONS if field == "id" else COMPARISONS) + field
            query.append((name, self.random.choice(VALUES[field])))
        if self.chance(6):
            name = self.random.choice(["", "gt_", "lt_", "min_", "max_", "not_", "in_"]) + "last_modified"
            query.append((name, Text(self.time(of))))
        if self.chance(25):
            sort = self.random.sample(
                [
                    "n",
                    "-n",
                    "s",
                    "-s",
                    "o.a",
                    "-o.b.c",
                    "last_modified",
                    "-last_modified",
                    "-t",
                    "missing",
                    *([] if self.makes_ids else ["id", "-id"]),
                ],
                self.random.randint(1, 2),
            )
            query.append(("_sort", ",".join(sort)))
        if self.chance(25):
            query.append(
                (
                    "_limit",
                    self.random.choices(
                        ["1", "2", "3", "0", "-1", "x", "99999999999999999999", "", "1.0", '"1"', "null", "1e0", "true"],
                        [8, 8, 4, 1, 0.5, 0.5, 0.3, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3],
                    )[0],
                )
            )
        if self.chance(12) and method != "DELETE":
            query.append(
                (
                    "_fields",
                    ",".join(
                        self.random.sample(
                            ["n", "s", "o.a", "o.b.c", "id", "last_modified", "missing", "o", ""],
                            self.random.randint(1, 3),
                        )
                    ),
                )
            )
        if method == "DELETE" and any(name == "_limit" for name, _ in query):
            # Without a filter Kinto also removes the permissions of objects that it does not delete.
            query.append(("not_missing", "0"))
        for name in ("_since", "_before"):
            if self.chance(15 if name == "_since" else 5):
                value = self.random.choices(
                    [
                        Text(self.time(of)),
                        Text('"', self.time(of), '"'),
                        Text(self.time(of), ".0"),
                        Text(self.time(of), ".5"),
                        "1.5e12",
                        "null",
                        "true",
                        "abc",
                        "0",
                        "",
                        "-1",
                        '"',
                        "99999999999999",
                    ],
                    [10, 10, 0.5, 0.5, 0.5, 0.5, 0.2, 0.5, 1, 0.3, 0.3, 0.3, 0.3],
                )[0]
                query.append((name, value))
        if self.chance(1):
            query.append(
                self.random.choice(
                    [("_unknown", "1"), ("_token", "x"), ("_to", "1"), ("_token", ""), ("in_", "1"), ("", "x")]
                )
            )
        return tuple(query)

    # Requests.

    def request(self, within_batch=False):
        weights = {
            "read": 12,
            "list": 34,
            "page": 10,
            "put": 18,
            "post": 8,
            "patch": 14,
            "delete": 9,
            "delete_list": 4,
            "head": 4,
            "permissions": 2,
            "batch": 7,
            "odd": 3,
        }
        if self.writes:
            weights |= {"read": 4, "list": 12, "page": 6, "put": 24, "delete": 12, "delete_list": 8, "batch": 24}
            del weights["permissions"], weights["odd"]
        if self.accounts:
            weights["account"] = 60
        if self.history:
            weights |= {"history": 40, "snapshot": 12, "read": 2, "list": 4, "put": 24, "delete_list": 6, "ordered_batch": 8}
            del weights["permissions"], weights["odd"], weights["batch"], weights["page"]
        if within_batch:
            del weights["batch"], weights["page"]
        for name in self.without & weights.keys():
            del weights[name]
        return getattr(self, f"a_{self.weighted(**weights)}")()

    def object(self, method):
        kind = self.kind()
        of, id = self.list(kind), self.id(kind)
        return (
            kind,
            of,
            id,
            dict(method=method, path=Text(of, "/", id), user=self.user(), headers=self.headers(of, method)),
        )

    def a_read(self):
        _, _, _, request = self.object("HEAD" if self.chance(10) else "GET")
        fields = self.random.choice(["n", "o.a,s", "id", "missing", "", ",", "s,"])
        query = (("_fields", fields),) if self.chance(10) else ()
        return Request(**request, query=query)

    def a_put(self):
        kind, of, id, request = self.object("PUT")
        return Request(**request, body=self.body(kind, of, id) if self.chance(85) else None)

    def a_post(self):
        kind = self.kind()
        if kind == "bucket" and DEFAULT in self.buckets:
            # An id of this kind occurs only in paths.
            kind = "group"
        of = self.list(kind)
        body = self.body(kind, of, self.id(kind)) if self.chance(95) else None
        if isinstance(body, dict) and isinstance(body.get("data"), dict):
            # Other runs would meet a bucket whose id the server makes.
            if not self.makes_ids or kind == "bucket" or self.chance(50):
                body["data"]["id"] = self.id(kind)
        elif not self.makes_ids or kind == "bucket":
            body = {"data": {"id": self.id(kind)}}
        return Request("POST", of, user=self.user(), headers=self.headers(of, "POST"), body=body)

    def a_patch(self):
        kind, of, id, request = self.object("PATCH")
        type = self.random.choices(
            ["application/json", "application/merge-patch+json", "application/json-patch+json", "text/plain"],
            [45, 25, 29, 1],
        )[0]
        body = self.operations() if "json-patch" in type else self.body(kind, of, id)
        request["headers"] += (("Content-Type", type),)
        if self.chance(20):
            behavior = self.random.choices(["light", "diff", "full", "LIGHT", "bogus"], [4, 4, 1, 0.5, 0.5])[0]
            request["headers"] += (("Response-Behavior", behavior),)
        return Request(**request, body=body)

    def a_delete(self):
        _, of, _, request = self.object("DELETE")
        query = ()
        if self.chance(12):
            value = self.random.choices(
                [Text(self.time_of_its_own(of)), Text('"', self.time(of), '"'), "abc"], [8, 1, 1]
            )[0]
            query = (("last_modified", value),)
        return Request(**request, query=query)

    def list_request(self, method):
        kind = self.kind()
        of = self.list(kind)
        return Request(method, of, query=self.query(of, method), user=self.user(), headers=self.headers(of, method))

    def a_list(self):
        return self.list_request("GET")

    def a_head(self):
        return self.list_request("HEAD")

    def a_delete_list(self):
        return self.list_request("DELETE")

    def a_page(self):
        method = "DELETE" if "delete_list" not in self.without and self.chance(15) else "GET"
        return Request(method, "(next page)", follows=True, user=self.random.choices(["alice", "bob"], [95, 5])[0])

    def a_history(self):
        bucket = self.id("bucket")
        of = Text("/buckets/", bucket, "/history")
        method = self.random.choices(["GET", "HEAD", "DELETE", "POST"], [80, 8, 10, 2])[0]
        query = []
        for _ in range(self.random.choices([0, 1, 2], [55, 30, 15])[0]):
            query.append(
                self.random.choice(
                    [
                        ("resource_name", self.random.choice(["bucket", "group", "collection", "record"])),
                        ("action", self.random.choice(["create", "update", "delete"])),
                        ("not_action", "create"),
                        ("user_id", Text(Principal("bob"))),
                        ("record_id", self.random.choice(["r0", "r1", "1"])),
                        ("in_record_id", "r0,r2"),
                        ("collection_id", "c0"),
                        ("has_group_id", "true"),
                        ("bucket_id", bucket),
                        ("like_uri", "records"),
                        ("target.data.n", self.random.choice(["0", "1", "2"])),
                        ("min_target.data.n", "1"),
                        ("target.data.s", "a"),
                        ("has_target.data.deleted", "true"),
                        ("deleted", "true"),
                        ("missing", "1"),
                    ]
                )
            )
        if self.chance(20):
            sort = ["uri", "-uri", "action", "resource_name", "-user_id", "last_modified", "-last_modified", "missing"]
            query.append(("_sort", ",".join(self.random.sample(sort, self.random.randint(1, 2)))))
        if self.chance(15) and method != "DELETE":
            fields = ["uri", "action", "target.data.n", "target.permissions", "user_id", "missing", ""]
            query.append(("_fields", ",".join(self.random.sample(fields, self.random.randint(1, 2)))))
        for name in ("_since", "_before"):
            if self.chance(15):
                query.append((name, Text(Seen(of, self.random.randrange(4)))))
        if method == "POST":
            of = f"/buckets/{self.buckets[0]}/history"
        return Request(method, of, query=tuple(query), user=self.user())

    def a_snapshot(self):
        bucket, collection = self.id("bucket"), self.id("collection")
        records = Text("/buckets/", bucket, "/collections/", collection, "/records")
        moment = self.random.choices([Seen(records, self.random.randrange(5)), At(HOUR), "x", "0"], [90, 5, 2, 3])[0]
        path = Text("/buckets/", bucket, "/snapshot/collections/", collection, "@", moment)
        return Request(self.random.choices(["GET", "HEAD"], [9, 1])[0], path, user=self.user())

    def a_permissions(self):
        query = self.random.choice(
            [
                (),
                (("_sort", "uri"),),
                (("resource_name", "record"),),
                (("_limit", "1"), ("_sort", "uri")),
                (("unknown", "1"),),
            ]
        )
        # They are ordered by their URIs, and so by the ids that the servers make.
        method = "HEAD" if self.makes_ids else self.random.choice(["GET", "GET", "HEAD"])
        return Request(method, "/permissions", query=query, user=self.user())

    def a_odd(self):
        """Requests that miss the endpoints: slashes, versions, methods, paths."""
        path = self.list("record") if self.chance(50) else Text(self.list("bucket"), "/", self.id("bucket"))
        method, prefix, path = self.random.choice(
            [
                ("GET", "/v1", Text(path, "/")),
                ("PUT", "/v1", Text(path, "/")),
                ("GET", "", path),
                ("DELETE", "", path),
                ("GET", "/v0", path),
                ("GET", "/v1", Text(path, "/unknown")),
                ("PATCH", "/v1", "/buckets"),
                ("PUT", "/v1", "/buckets"),
                ("POST", "/v1", f"/buckets/{BUCKETS[0]}"),
                ("GET", "/v1", "/batch"),
                ("POST", "/v1", "/"),
                ("GET", "/v1", "//buckets"),
                ("GET", "/v1", f"/buckets/{BUCKETS[0]}/unknown"),
                ("TRACE", "/v1", path),
            ]
        )
        return Request(method, path, prefix=prefix, user=self.user())

    def a_batch(self):
        parts = [self.part() for _ in range(self.random.choices([0, 1, 2, 4, 8, 26], [1, 20, 30, 30, 16, 3])[0])]
        defaults = None
        if self.chance(20):
            of = self.list("record")
            defaults = self.random.choices(
                [
                    {"method": "PUT"},
                    {"headers": {"If-None-Match": "*"}},
                    {"body": {"data": self.data()}},
                    {"path": of},
                    {"method": "POST", "path": of},
                    {"unknown": 1},
                    {"method": 1},
                ],
                [3, 3, 3, 3, 3, 0.5, 0.5],
            )[0]
        return Request("POST", "/batch", user=self.user(), batch=tuple(parts), defaults=defaults)

    def a_ordered_batch(self):
        """A batch whose entries Kinto's history keeps in the order of the writes: it groups equal actions on a list."""
        kind = self.random.choices(["record", "group"], [4, 1])[0]
        of, ids = self.list(kind), self.random.sample([f"{kind[0]}{n}" for n in range(6)], self.random.randint(1, 6))
        methods = self.random.sample(["PUT", "PATCH", "DELETE"], self.random.randint(1, 3))
        parts = []
        for n, method in enumerate(methods):
            for id in ids[n :: len(methods)]:
                body = None if method == "DELETE" else {"data": {"n": self.value("n")}}
                if body and kind == "group":
                    body["data"]["members"] = self.random.sample([Principal("alice"), Principal("bob")], 1)
                if body and self.chance(25):
                    body["permissions"] = self.permissions(kind)
                # An existing object is left alone: its creation would be an update.
                headers = (("If-None-Match", "*"),) if method == "PUT" else ()
                parts.append(Request(method, Text(of, "/", id), headers=headers, body=body))
        if self.chance(20):
            parts.insert(self.random.randint(0, len(parts)), Request("GET", of))
        return Request("POST", "/batch", user=self.user(), batch=tuple(parts))

    def a_account(self):
        """An account for a user who has none yet, or the user's own account."""
        user = self.random.choice(["alice", "bob"])
        data = {**self.data(), "password": "secret"}
        method = self.random.choice(["PUT", "PUT", "POST", "PATCH", "DELETE"])
        who = self.random.choice([user, user, None])
        if method == "POST":
            return Request(method, "/accounts", user=who, body={"data": {**data, "id": f"{user}-{RUN}"}})
        return Request(method, f"/accounts/{user}-{RUN}", user=who, body={"data": data} if method != "DELETE" else None)

    def part(self):
        if self.chance(3):
            return self.random.choice(
                [
                    {},
                    {"path": "no/slash"},
                    {"path": "/batch", "method": "POST", "body": {"requests": []}},
                    {"path": "/", "method": "BOGUS"},
                    {"path": "/", "unknown": 1},
                    1,
                    {"path": "/", "headers": {"a": 1}},
                    {"path": "/", "body": 1},
                ]
            )
        part = self.request(within_batch=True)
        headers = part.headers
        # An entry of a history names its user; in Kinto it names the first user of a batch.
        if self.chance(15) and not self.history:
            users = ["alice"] if DEFAULT in self.buckets else ["alice", "bob"]
            headers += (("Authorization", Authorization(self.random.choice(users))),)
        prefix = self.random.choices(["", "/v1"], [80, 20])[0]
        return Request(part.method, part.path, part.query, part.user, headers, part.body, prefix=prefix)
