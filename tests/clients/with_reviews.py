"""Uses reviews by kinto-http for Python: `with_reviews.py URL`, where URL ends in /v1."""

import sys

from checking import check, refused
from kinto_http import Client

URL = sys.argv[1]
alice = Client(server_url=URL, auth=("alice", "secret"), bucket="main-workspace", collection="news")
bob = alice.clone(auth=("bob", "secret"))
reader = alice.clone(auth=None, bucket="main")


def source():
    return alice.get_collection()["data"]


def published():
    return {record["id"]: record["n"] for record in reader.get_records()}


signer = alice.server_info()["capabilities"]["signer"]
check("the server says what it publishes", signer["resources"][0]["destination"]["bucket"] == "main")
alice.create_bucket(permissions={"write": [bob.server_info()["user"]["id"]]})
alice.create_collection()
reviewers = signer["reviewers_group"].format(collection_id="news")
alice.patch_group(id=reviewers, data={"members": [bob.server_info()["user"]["id"]]})

alice.create_record(id="one", data={"n": 1})
alice.request_review(message="please")
check("a review is requested", source()["status"] == "to-review" and source()["last_editor_comment"] == "please")
check("who requested cannot approve", refused(403, alice.approve_changes))
bob.decline_changes(message="no")
check("it is declined", source()["status"] == "work-in-progress" and source()["last_reviewer_comment"] == "no")
alice.request_review(message="again")
bob.approve_changes()
check("it is approved", source()["status"] == "signed" and published() == {"one": 1})
alice.update_record(data={"id": "one", "n": 2})
alice.create_record(id="two", data={"n": 2})
alice.rollback_changes(message="never mind")
check("it is taken back", source()["status"] == "signed")
check("nothing is left of it", {record["id"]: record["n"] for record in alice.get_records()} == {"one": 1})
