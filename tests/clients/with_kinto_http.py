"""Uses a server by kinto-http for Python: `with_kinto_http.py URL`, where URL ends in /v1."""

import sys
from uuid import uuid4

from checking import check, refused
from kinto_http import Client, KintoBatchException
from kinto_http.patch_type import JSONPatch, MergePatch

URL = sys.argv[1]
alice = Client(server_url=URL, auth=("alice", "secret"), bucket=f"python-{uuid4()}", collection="articles")
bob = alice.clone(server_url=URL, auth=("bob", "secret"))
nobody = alice.clone(server_url=URL, auth=None)


def ids(records):
    return [record["id"] for record in records]


info = alice.server_info()
check("the server knows the user", info["user"]["id"].startswith("basicauth:"))
bob_id = bob.server_info()["user"]["id"]

bucket = alice.create_bucket(data={"title": "Of Python"})
check("a bucket is created with its data", bucket["data"]["title"] == "Of Python")
check("who creates may write", bucket["permissions"]["write"] == [info["user"]["id"]])
check("a safe creation of what exists is refused", refused(412, alice.create_bucket))
check("if_not_exists takes what exists", alice.create_bucket(if_not_exists=True)["data"] == bucket["data"])
check("the bucket is listed", alice.bucket_name in ids(alice.get_buckets()))
check("a bucket's data is merged", alice.patch_bucket(data={"n": 1})["data"]["title"] == "Of Python")
check("a bucket's data is replaced", "title" not in alice.update_bucket(data={"n": 2})["data"])

alice.create_collection()
check("the collection is listed", ids(alice.get_collections()) == ["articles"])
check("a collection is updated", alice.update_collection(data={"sort": "n"})["data"]["sort"] == "n")

record = alice.create_record(id="one", data={"n": 1, "tags": {"a": 1, "b": 2}})["data"]
check("a record is created", record["id"] == "one" and record["n"] == 1)
check("a record is read", alice.get_record(id="one")["data"] == record)
posted = alice.create_record(data={"n": 2})["data"]
check("a record gets an id", len(posted["id"]) == 36)
check("the records' timestamp is the latest record's", alice.get_records_timestamp() == str(posted["last_modified"]))
updated = alice.update_record(data={**record, "n": 10})["data"]
check("a record is updated", updated["n"] == 10 and updated["last_modified"] > record["last_modified"])
check("an update of what changed meanwhile is refused", refused(412, lambda: alice.update_record(data=record)))
check(
    "a deletion of what changed meanwhile is refused",
    refused(412, lambda: alice.delete_record(id="one", if_match=record["last_modified"])),
)
patched = alice.patch_record(id="one", data={"title": "One"})["data"]
check("a patch keeps the other fields", (patched["n"], patched["title"]) == (10, "One"))
merged = alice.patch_record(id="one", changes=MergePatch(data={"tags": {"a": None, "c": 3}}))["data"]
check("a merge patch goes deep and removes", merged["tags"] == {"b": 2, "c": 3})
operations = JSONPatch(
    [
        {"op": "add", "path": "/data/list", "value": [1]},
        {"op": "add", "path": "/data/list/0", "value": 0},
        {"op": "remove", "path": "/data/title"},
        {"op": "add", "path": f"/permissions/read/{bob_id}"},
    ]
)
patched = alice.patch_record(id="one", changes=operations)
check("a JSON patch is applied", patched["data"]["list"] == [0, 1] and "title" not in patched["data"])
check("a JSON patch grants", patched["permissions"]["read"] == [bob_id])

check("the user to whom a record is shared reads it", bob.get_record(id="one")["data"] == patched["data"])
check("and no other", refused(403, lambda: bob.get_record(id=posted["id"])))
check("and sees it alone in the list", ids(bob.get_records()) == ["one"])
check("and may not write it", refused(403, lambda: bob.patch_record(id="one", data={"n": 0})))
check("who is nobody may not read", refused(401, nobody.get_records))

alice.create_group(id="editors", data={"members": [bob_id]})
check("a group has its members", alice.get_group(id="editors")["data"]["members"] == [bob_id])
check("the group is listed", ids(alice.get_groups()) == ["editors"])
group = f"/buckets/{alice.bucket_name}/groups/editors"
check(
    "membership is a principal",
    group in bob.clone(server_url=URL, auth=("bob", "secret")).server_info()["user"]["principals"],
)
alice.patch_collection(permissions={"record:create": [group], "read": ["system.Everyone"]})
check("a member may do what the group may", bob.create_record(id="of-bob")["data"]["id"] == "of-bob")
check("who is nobody may read now", len(nobody.get_records()) == 3)
alice.update_group(id="editors", data={"members": []})
check("who left the group may no more", refused(403, lambda: bob.create_record(id="other")))
check("a group is deleted", alice.delete_group(id="editors")["deleted"])

with alice.batch() as batch:
    for n in range(30):
        batch.create_record(id=f"r{n:02}", data={"n": n, "even": n % 2 == 0})
results = batch.results()
check("a batch of more than the maximum is sent in parts", [r["data"]["n"] for r in results] == list(range(30)))
try:
    with alice.batch() as batch:
        batch.patch_record(id="r00", data={"n": 100})
        batch.create_record(id="r01", data={"n": 0})
        batch.delete_record(id="missing")
    check("a batch tells its failures", False)
except KintoBatchException as error:
    statuses = [e.response.status_code for e in error.exceptions]
    check("a batch tells its failures", statuses == [412, 404])
check("and keeps what went well", alice.get_record(id="r00")["data"]["n"] == 100)

check("all pages are followed", len(alice.get_records(_limit=7, pages=float("inf"))) == 33)
check("one page has its size", len(alice.get_records(_limit=7)) == 7)
pages = list(alice.get_paginated_records(_limit=10))
check("pages come one after the other", [len(page["data"]) for page in pages] == [10, 10, 10, 3])
check(
    "records are filtered and sorted", ids(alice.get_records(even="true", lt_n=7, _sort="-n")) == ["r06", "r04", "r02"]
)
check("some fields are read", set(alice.get_records(_fields="n", _limit=1)[0]) == {"id", "last_modified", "n"})

before = alice.get_records_timestamp()
check(
    "nothing is new",
    refused(304, lambda: alice.get_records(if_none_match=before)) or alice.get_records(_since=before) == [],
)
deleted = alice.delete_record(id="r02")
check("a record is deleted", deleted["deleted"] and refused(404, lambda: alice.get_record(id="r02")))
check("what is gone may be deleted again", alice.delete_record(id="r02", if_exists=True) is None)
check("a tombstone tells of the deletion", alice.get_records(_since=f'"{before}"') == [deleted])
check("records are deleted", len(alice.delete_records()) == 32 and alice.get_records() == [])
check(
    "permissions are listed",
    any(
        entry["uri"] == f"/buckets/{alice.bucket_name}" and "write" in entry["permissions"]
        for entry in alice.get_permissions()
    ),
)
check("a collection is deleted", alice.delete_collection()["deleted"])
check("collections are deleted", alice.delete_collections() == [])
check("a bucket is deleted", alice.delete_bucket()["deleted"])
check("and is gone", refused(403, alice.get_bucket))
