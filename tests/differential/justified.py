"""The differences from Kinto 26.5 that are meant, each with its reason. All others are faults.

What a batch holds is not looked into one by one: a difference in the batch is justified when what it holds can be.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Justified:
    reason: str
    # Whether a difference between Kinto's and our answer to a request, as it was sent to us, is this one.
    applies: Callable[..., bool]
    # Whether the servers may hold different things from then on, so that the sequence ends.
    ends: bool = True


def text_of(sent):
    """All that a request says, its batch's requests included."""
    headers = "\n".join(f"{name}: {value}" for name, value in sent.headers.items())
    return f"{sent.url}\n{headers}\n{sent.body.decode(errors='replace')}"


def says(pattern):
    """Of requests in which the pattern is found."""
    compiled = re.compile(pattern)
    return lambda sent, kinto, ours, difference: compiled.search(text_of(sent)) is not None


def fails(sent, kinto, ours, difference):
    """Of requests at which Kinto fails, alone or in a batch."""
    responses = kinto.body.get("responses", []) if isinstance(kinto.body, dict) else []
    return kinto.status >= 500 or any(response["status"] >= 500 for response in responses)


def permissions_etag(sent, kinto, ours, difference):
    return "/permissions" in text_of(sent) and difference.where.endswith("header etag")


def batched(sent, kinto):
    """The method of each request of a batch and the path of what it is about: of a POST, what has the id that it names.
    Only of a batch that was answered, and so is well-formed."""
    if "/batch" not in sent.url or kinto.status != 200:
        return
    batch = json.loads(sent.body)
    for request in batch["requests"]:
        request = {**batch.get("defaults", {}), **request}
        path = request["path"].removeprefix("/v1").partition("?")[0].rstrip("/")
        body = request.get("body")
        data = body.get("data") if isinstance(body, dict) else None
        if request.get("method") == "POST" and isinstance(data, dict) and "id" in data:
            path = f"{path}/{data['id']}"
        yield request.get("method"), path


def deletes_a_parent(sent, kinto, ours, difference):
    """Of batches that delete something, or a list, and make it anew or go on with what is under it or with all
    permissions."""
    deleted = []
    for method, path in batched(sent, kinto):
        # Nothing hangs on a record.
        anew = "/records/" not in path and path in deleted
        under = any(path.startswith(f"{parent}/") for parent in deleted)
        if anew or under or (deleted and path == "/permissions"):
            return True
        if method == "DELETE":
            deleted.append(path)
    return False


def changes_a_schema(sent, kinto, ours, difference):
    """Of batches that go to a collection's records before and after they write the collection."""
    if '"schema"' not in text_of(sent):
        return False
    seen, written = set(), set()
    for method, path in batched(sent, kinto):
        collection, is_under, _ = path.partition("/records")
        if is_under and collection in written:
            return True
        if is_under:
            seen.add(collection)
        elif method in ("PUT", "PATCH", "POST") and collection in seen:
            written.add(collection)
    return False


def again_deletes(sent, kinto, ours, difference):
    return "_token=" in sent.url and kinto.status == 400 and ours.status == 200


def goes_on_after_deletion(sent, kinto, ours, difference):
    """Of requests with the token that the deletion of a sorted list gave."""
    parameters = parse_qs(urlsplit(sent.url).query)
    token = parameters.get("_token", [""])[0]
    try:
        return "_sort" in parameters and b'"deletes"' in base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        # No server made it.
        return False


def patches_permissions(sent, kinto, ours, difference):
    """Of merge patches with permissions, and what JSON patches leave of them."""
    text = text_of(sent)
    merges = "merge-patch" in text and '"permissions"' in text
    return merges or ("json-patch" in text and ".permissions" in difference.where)


def order_of_permissions(sent, kinto, ours, difference):
    """Of pages of /permissions, and of answers that have a generated id, which in Kinto begins with another letter."""
    is_chance = "_limit=" in sent.url or re.search(r"/[0-9a-f]{8}-[0-9a-f]{4}-", json.dumps(ours.body)) is not None
    return "/permissions" in sent.url and is_chance and difference.where.startswith("body.data")


def details(sent, kinto, ours, difference):
    """Of answers that differ only in which parts of the request they name."""
    return re.search(r"body\.details(\[.*)?$", difference.where) is not None and difference.ours != "(absent)"


def event(field, kinto=None, ours=None):
    """Of a field of an event where the servers tell these values."""
    compiled = re.compile(rf"events\[\d+\]\.{field}$")

    def applies(sent, in_kinto, in_ours, difference):
        return (
            compiled.match(difference.where) is not None
            and kinto in (None, difference.kinto)
            and ours in (None, difference.ours)
        )

    return applies


def told_by_behavior(sent, kinto, ours, difference):
    return "Response-Behavior" in text_of(sent) and event(r"(uris|impacted).*")(sent, kinto, ours, difference)


def merged_in_place(sent, kinto, ours, difference):
    return "merge-patch" in text_of(sent) and event(r"impacted\[\d+\]\.old\..*")(sent, kinto, ours, difference)


def refused_in_default(status):
    """Of requests for the default bucket that one of the servers refuses so, alone or in a batch."""

    def applies(sent, kinto, ours, difference):
        if "/buckets/default" not in text_of(sent):
            return False
        answers = [kinto, ours]
        bodies = [answer.body for answer in answers if isinstance(answer.body, dict)]
        parts = [part["status"] for body in bodies for part in body.get("responses", [])]
        return status in [answer.status for answer in answers] + parts

    return applies


def goes_on(sent, kinto, ours, difference):
    """Of times of ours that are those of a future that a request before has set."""
    times = [str(side).strip('"') for side in (difference.kinto, difference.ours)]
    return all(map(str.isdigit, times)) and int(times[1]) - int(times[0]) > 600_000


def first_time(sent, kinto, ours, difference):
    """Of the time of a list that begins with an object of a time of its own."""
    is_near = isinstance(difference.kinto, int) and isinstance(difference.ours, int) and 0 < difference.kinto - difference.ours < 60_000
    return is_near and event("timestamp")(sent, kinto, ours, difference) and '"last_modified": ' in text_of(sent)


def password(sent, kinto, ours, difference):
    return re.search(r"body\..*\.password$", difference.where) is not None and difference.ours == "(absent)"


def tells_readers(sent, kinto, ours, difference):
    """Of refusals by a precondition that ours tells nothing of but themselves."""
    is_told = re.search(r"(body\.details(\..*)?|header (etag|last-modified))$", difference.where, re.IGNORECASE)
    return is_told is not None and difference.ours in (None, "(absent)") and 412 in statuses(kinto)


def statuses(answer):
    """The status of an answer, and of those in a batch."""
    parts = answer.body.get("responses", []) if isinstance(answer.body, dict) else []
    return [answer.status] + [part["status"] for part in parts]


def private(sent, kinto, ours, difference):
    return difference.ours == f"private, {difference.kinto}"


def told_by_user(sent, kinto, ours, difference):
    """Of events of batches whose requests have credentials of their own."""
    return "/batch" in sent.url and b'"Authorization"' in sent.body and difference.where.startswith("events")


def told_again(sent, kinto, ours, difference):
    return difference.where == "events again"


JUSTIFIED = [
    Justified("Kinto fails by a fault of its own; ours refuses the request or does what was asked", fails),
    Justified("An id is at most 255 bytes long, which DynamoDB's keys ask for; Kinto's have no bound", says("a{256}")),
    Justified(
        "Media types are compared without case (RFC 9110, 8.3.1), which Kinto does not", says("APPLICATION/JSON")
    ),
    Justified(
        "Kinto takes the list of in_last_modified for a timestamp and refuses them all",
        says("(in|exclude)_last_modified="),
    ),
    Justified(
        "Kinto's memory backend lets contains_ look into the letters of a text; on PostgreSQL it does not",
        says(r"contains_(any_)?(s|n|id|o\.a)="),
    ),
    Justified(
        "Kinto's memory backend forgets the filters before has_, what is shared with the user among them; on PostgreSQL "
        "it does not",
        says(r"[?&]has_"),
    ),
    Justified(
        "To Kinto's memory backend true is 1 in in_ and exclude_; on PostgreSQL it is not",
        says("[?&](in|exclude)_(t|n|o.a)="),
    ),
    Justified(
        "An empty header is refused (If-Match) or says nothing (Accept); in Kinto it is the other way round",
        says(r'(?m)^(If-Match|If-None-Match|Accept): *$|"(If-Match|If-None-Match|Accept)": ""'),
    ),
    Justified('Kinto takes If-Match: "0" for none', says(r'If-(None-)?Match("?: "?)\\?"0\\?"')),
    Justified(
        "A time of an object is between 0 and a day ahead; Kinto takes less, true and a patch's false, and stores or "
        "ignores it",
        says(r'"last_modified": (-1|true)[,}]|"/data/last_modified", "value": (-1|true|false)}'),
    ),
    Justified(
        "Of several things that are wrong the first is named, in words; Kinto names what its schemas find, one by one",
        details,
        ends=False,
    ),
    Justified(
        "Who may write an object by its bucket alone does not get at its permissions with a JSON patch in Kinto",
        says(r'"op": "(remove|test|replace|move|copy)", ("value": [^}]*)?"path": "/permissions'),
    ),
    Justified(
        "A principal is a text; Kinto stores what a JSON patch gives",
        says(r'"path": "/permissions/(read|write)", "value": \[(1|"")\]'),
    ),
    Justified(
        "The ETag of /permissions is new each time; Kinto's never changes, whatever is granted meanwhile",
        permissions_etag,
        ends=False,
    ),
    Justified(
        "A deletion's token may be used again, and deletes what is left behind its place: to remember which were used "
        "would cost each of these requests a write",
        again_deletes,
    ),
    Justified(
        "The id * is no valid one; Kinto's check of permissions takes it for a wildcard, so that who may do it to any "
        "object of the kind is told 404",
        says(r"/(bucket|collection|group|record)s/(\*|%2A)[/?\"\n]"),
    ),
    Justified(
        "A sorted deletion goes on behind the object; in Kinto behind its tombstone, which has no field but a time "
        "later than all",
        goes_on_after_deletion,
    ),
    Justified(
        "Which of the entries a page of /permissions has, and their order by URI, is chance where ids were generated",
        order_of_permissions,
    ),
    Justified(
        "Kinto changes a nested object in place when it merges, and then finds no change in it to show",
        says(r"(?s)merge-patch.*Response-Behavior|Response-Behavior.*merge-patch"),
    ),
    Justified("A parameter without a name is ignored; Kinto filters by the field without a name", says(r"[?&]=")),
    Justified(
        "A null for a permission that the kind does not have is refused; Kinto overlooks it",
        says(r'"permissions": \{[^}]*"(bogus|record:create)": null'),
    ),
    Justified(
        "When a request of a batch fails after a redirect Kinto tells the path from before it and errno 999",
        says(r'(?s)/batch\n.*"path": "(/v1)?/buckets[^"?]*/["?]'),
    ),
    Justified(
        "A time that is empty or too far off is refused as one that cannot be read, before the preconditions; in Kinto "
        "after them",
        says(r"[?&]_(before|since|to)=(9{13,}|[&\"\n])"),
    ),
    Justified(
        "A filter that is given twice is two filters; Kinto's is one by the list of both, or refused",
        says(r"[?&]([^=&\n]+)=[^\n]*&\1="),
    ),
    Justified("In a batch Kinto finds a parent that an earlier request has deleted", deletes_a_parent),
    Justified(
        "In a batch that has looked at a collection Kinto goes on with the schema that it had then", changes_a_schema
    ),
    Justified(
        "A merge patch and a JSON patch leave the permissions that they do not name; Kinto takes them away where who "
        "patches writes by the bucket alone",
        patches_permissions,
    ),
    Justified(
        "A method that an endpoint does not have is refused before a default bucket is made for it",
        refused_in_default(405),
    ),
    Justified(
        "Kinto forgets that a body without a media type is JSON on its way to the default bucket",
        refused_in_default(415),
    ),
    Justified(
        "An empty list of Kinto's takes the time at which it is first looked at, behind which the first object's may lie",
        first_time,
    ),
    Justified(
        "The times of a list go on when its parent was deleted and is made anew; Kinto's may go back",
        goes_on,
    ),
    Justified("Kinto changes a nested object in place when it merges, in `old` too", merged_in_place, ends=False),
    Justified("The hash of a password is in no answer", password, ends=False),
    Justified(
        "What is there is told to those alone who may read it, not to who may only create", tells_readers, ends=False
    ),
    Justified("An answer to who shows credentials is kept for them alone", private, ends=False),
    Justified(
        "An event has the whole object after the write; Kinto's what the answer was asked to have of it",
        told_by_behavior,
        ends=False,
    ),
    Justified(
        "A request that meets another's write is decided and told again; here the aggregator's, which closes the lists "
        "of a deleted bucket",
        told_again,
        ends=False,
    ),
    Justified(
        "An event names who did what it tells of; in Kinto a batch's first user, whoever sends its other requests",
        told_by_user,
        ends=False,
    ),
    Justified(
        "Kinto changes the object in place where nothing is sent for it, and tells an `old` without its time",
        event(r"impacted\[\d+\]\.old\.last_modified", kinto="(absent)"),
        ends=False,
    ),
    Justified(
        "The password of an account is not told, hashed or not",
        event(r"impacted\[\d+\]\.(new|old)\.password", ours="(absent)"),
        ends=False,
    ),
]


def justification(sent, kinto, ours, difference):
    """The entry that a difference falls under, if any."""
    return next((entry for entry in JUSTIFIED if entry.applies(sent, kinto, ours, difference)), None)
