"""The intentional differences from Kinto 26.5, each with its reason. All others are faults.

The requests of a batch are not judged one by one: a difference in a batch is justified if one of its requests can justify it.
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
    # Returns True if this reason explains a difference between the two answers to a request, as it was sent to ours.
    applies: Callable[..., bool]
    # The servers' contents may differ from then on, so the sequence ends.
    ends: bool = True


def text_of(sent):
    """The whole text of a request, with the requests of a batch."""
    headers = "\n".join(f"{name}: {value}" for name, value in sent.headers.items())
    return f"{sent.url}\n{headers}\n{sent.body.decode(errors='replace')}"


def says(pattern):
    """Justifies requests that contain the pattern."""
    compiled = re.compile(pattern)
    return lambda sent, kinto, ours, difference: compiled.search(text_of(sent)) is not None


def fails(sent, kinto, ours, difference):
    """Justifies requests on which Kinto fails, alone or in a batch."""
    responses = kinto.body.get("responses", []) if isinstance(kinto.body, dict) else []
    return kinto.status >= 500 or any(response["status"] >= 500 for response in responses)


def permissions_etag(sent, kinto, ours, difference):
    return "/permissions" in text_of(sent) and difference.where.endswith("header etag")


def batched(sent, kinto):
    """The method of each request of a batch, and the path of its object: for a POST, the object with the given id.
    Only for a batch that was answered, which is well-formed."""
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
    """Justifies batches that delete an object or a list, and then create it again, use something under it, or list
    all permissions."""
    deleted = []
    for method, path in batched(sent, kinto):
        # Nothing depends on a record.
        anew = "/records/" not in path and path in deleted
        under = any(path.startswith(f"{parent}/") for parent in deleted)
        if anew or under or (deleted and path == "/permissions"):
            return True
        if method == "DELETE":
            deleted.append(path)
    return False


def changes_a_schema(sent, kinto, ours, difference):
    """Justifies batches that use a collection's records before and after they write the collection."""
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
    """Justifies requests with the token from the deletion of a sorted list."""
    parameters = parse_qs(urlsplit(sent.url).query)
    token = parameters.get("_token", [""])[0]
    try:
        return "_sort" in parameters and b'"deletes"' in base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        # No server made it.
        return False


def patches_permissions(sent, kinto, ours, difference):
    """Justifies merge patches with permissions, and the permissions that JSON patches leave."""
    text = text_of(sent)
    merges = "merge-patch" in text and '"permissions"' in text
    return merges or ("json-patch" in text and ".permissions" in difference.where)


def order_of_permissions(sent, kinto, ours, difference):
    """Justifies pages of /permissions, and its answers with a generated id, which begins with another letter in Kinto."""
    is_chance = "_limit=" in sent.url or re.search(r"/[0-9a-f]{8}-[0-9a-f]{4}-", json.dumps(ours.body)) is not None
    return "/permissions" in sent.url and is_chance and difference.where.startswith("body.data")


def details(sent, kinto, ours, difference):
    """Justifies answers that differ only in the parts of the request that they name."""
    return re.search(r"body\.details(\[.*)?$", difference.where) is not None and difference.ours != "(absent)"


def event(field, kinto=None, ours=None):
    """Justifies a field of an event with these values of the servers."""
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
    """Justifies requests for the default bucket that one server refuses with this status, alone or in a batch."""

    def applies(sent, kinto, ours, difference):
        if "/buckets/default" not in text_of(sent):
            return False
        answers = [kinto, ours]
        bodies = [answer.body for answer in answers if isinstance(answer.body, dict)]
        parts = [part["status"] for body in bodies for part in body.get("responses", [])]
        return status in [answer.status for answer in answers] + parts

    return applies


def goes_on(sent, kinto, ours, difference):
    """Justifies times of ours in the future, which an earlier request has set."""
    times = [str(side).strip('"') for side in (difference.kinto, difference.ours)]
    return all(map(str.isdigit, times)) and int(times[1]) - int(times[0]) > 600_000


def first_time(sent, kinto, ours, difference):
    """Justifies the time of a list that begins with an object with a given time."""
    is_near = isinstance(difference.kinto, int) and isinstance(difference.ours, int) and 0 < difference.kinto - difference.ours < 60_000
    return is_near and event("timestamp")(sent, kinto, ours, difference) and '"last_modified": ' in text_of(sent)


def password(sent, kinto, ours, difference):
    return re.search(r"body\..*\.password$", difference.where) is not None and difference.ours == "(absent)"


def tells_readers(sent, kinto, ours, difference):
    """Justifies refusals by a precondition about which ours gives no details."""
    is_told = re.search(r"(body\.details(\..*)?|header (etag|last-modified))$", difference.where, re.IGNORECASE)
    return is_told is not None and difference.ours in (None, "(absent)") and 412 in statuses(kinto)


def statuses(answer):
    """The status of an answer, and those of the answers in a batch."""
    parts = answer.body.get("responses", []) if isinstance(answer.body, dict) else []
    return [answer.status] + [part["status"] for part in parts]


def private(sent, kinto, ours, difference):
    return difference.ours == f"private, {difference.kinto}"


def told_by_user(sent, kinto, ours, difference):
    """Justifies events of batches whose requests have their own credentials."""
    return "/batch" in sent.url and b'"Authorization"' in sent.body and difference.where.startswith("events")


def told_again(sent, kinto, ours, difference):
    return difference.where == "events again"


JUSTIFIED = [
    Justified("Kinto fails by its own fault; ours refuses the request or carries it out", fails),
    Justified("An id has at most 255 bytes, because of DynamoDB's keys; Kinto's ids have no bound", says("a{256}")),
    Justified(
        "Media types are compared without case (RFC 9110, 8.3.1); Kinto does not do that", says("APPLICATION/JSON")
    ),
    Justified(
        "Kinto takes the list of in_last_modified for one timestamp and refuses every such request",
        says("(in|exclude)_last_modified="),
    ),
    Justified(
        "With Kinto's memory backend contains_ searches the letters of a text; with PostgreSQL it does not",
        says(r"contains_(any_)?(s|n|id|o\.a)="),
    ),
    Justified(
        "Kinto's memory backend ignores the filters before has_, including the one for objects shared with the user; "
        "with PostgreSQL it does not",
        says(r"[?&]has_"),
    ),
    Justified(
        "With Kinto's memory backend true equals 1 in in_ and exclude_; with PostgreSQL it does not",
        says("[?&](in|exclude)_(t|n|o.a)="),
    ),
    Justified(
        "An empty header is refused (If-Match) or ignored (Accept); in Kinto it is the other way round",
        says(r'(?m)^(If-Match|If-None-Match|Accept): *$|"(If-Match|If-None-Match|Accept)": ""'),
    ),
    Justified('Kinto ignores If-Match: "0"', says(r'If-(None-)?Match("?: "?)\\?"0\\?"')),
    Justified(
        "A time of an object is between 0 and a day ahead; Kinto accepts less, true and a patch's false, and stores or "
        "ignores it",
        says(r'"last_modified": (-1|true)[,}]|"/data/last_modified", "value": (-1|true|false)}'),
    ),
    Justified(
        "If several parts are wrong, the first is named in words; Kinto names each error that its schemas find",
        details,
        ends=False,
    ),
    Justified(
        "In Kinto, a user who may write an object only by its bucket cannot change its permissions by a JSON patch",
        says(r'"op": "(remove|test|replace|move|copy)", ("value": [^}]*)?"path": "/permissions'),
    ),
    Justified(
        "A principal is a text; Kinto stores any value that a JSON patch gives",
        says(r'"path": "/permissions/(read|write)", "value": \[(1|"")\]'),
    ),
    Justified(
        "The ETag of /permissions is new each time; Kinto's never changes, even if permissions change",
        permissions_etag,
        ends=False,
    ),
    Justified(
        "A deletion's token may be used again, and deletes the objects that remain after its place. Remembering used "
        "tokens would cost each of these requests a write",
        again_deletes,
    ),
    Justified(
        "The id * is invalid. Kinto's check of permissions takes it for a wildcard, so a user who may do this to any "
        "object of the kind is answered 404",
        says(r"/(bucket|collection|group|record)s/(\*|%2A)[/?\"\n]"),
    ),
    Justified(
        "A sorted deletion continues after the object. In Kinto it continues after the object's tombstone, which has no "
        "fields and the latest time",
        goes_on_after_deletion,
    ),
    Justified(
        "Generated ids decide at random which entries a page of /permissions has, and their order by URI",
        order_of_permissions,
    ),
    Justified(
        "Kinto changes a nested object in place when it merges, and then finds no change to show",
        says(r"(?s)merge-patch.*Response-Behavior|Response-Behavior.*merge-patch"),
    ),
    Justified("A parameter without a name is ignored; Kinto filters by the field without a name", says(r"[?&]=")),
    Justified(
        "A null for a permission that the kind does not have is refused; Kinto ignores it",
        says(r'"permissions": \{[^}]*"(bogus|record:create)": null'),
    ),
    Justified(
        "If a request of a batch fails after a redirect, Kinto answers with the path before it and errno 999",
        says(r'(?s)/batch\n.*"path": "(/v1)?/buckets[^"?]*/["?]'),
    ),
    Justified(
        "An empty or too distant time is refused like an unreadable one, before the preconditions are checked; in Kinto "
        "after them",
        says(r"[?&]_(before|since|to)=(9{13,}|[&\"\n])"),
    ),
    Justified(
        "A filter that is given twice is two filters; in Kinto it is one filter by the list of both, or refused",
        says(r"[?&]([^=&\n]+)=[^\n]*&\1="),
    ),
    Justified("In a batch Kinto finds a parent that an earlier request has deleted", deletes_a_parent),
    Justified(
        "In a batch that has used a collection, Kinto continues with the schema of that moment", changes_a_schema
    ),
    Justified(
        "A merge patch and a JSON patch leave the permissions that they do not name; Kinto removes them if the user may "
        "write only by the bucket",
        patches_permissions,
    ),
    Justified(
        "A method that an endpoint does not have is refused before a default bucket is created for it",
        refused_in_default(405),
    ),
    Justified(
        "In requests for the default bucket, Kinto does not treat a body without a media type as JSON",
        refused_in_default(415),
    ),
    Justified(
        "In Kinto an empty list takes the time of the first look at it; the first object's time may be earlier",
        first_time,
    ),
    Justified(
        "The times of a list continue when its parent was deleted and is created again; Kinto's may go back",
        goes_on,
    ),
    Justified("Kinto changes a nested object in place when it merges, also in `old`", merged_in_place, ends=False),
    Justified("No answer has the hash of a password", password, ends=False),
    Justified(
        "Only users who may read an existing object are shown it, not users who may only create", tells_readers, ends=False
    ),
    Justified("Caches keep an answer to a request with credentials only for its user", private, ends=False),
    Justified(
        "An event has the whole object after the write; Kinto's has only the fields that the answer was to have",
        told_by_behavior,
        ends=False,
    ),
    Justified(
        "A request that meets another's write is decided and told again. Here that is the aggregator's write, which "
        "closes the lists of a deleted bucket",
        told_again,
        ends=False,
    ),
    Justified(
        "An event names its own user; in Kinto it names the first user of a batch, whoever sends the other requests",
        told_by_user,
        ends=False,
    ),
    Justified(
        "If no fields are sent, Kinto changes the object in place, and its event has an `old` without a time",
        event(r"impacted\[\d+\]\.old\.last_modified", kinto="(absent)"),
        ends=False,
    ),
    Justified(
        "No event has the password of an account, hashed or not",
        event(r"impacted\[\d+\]\.(new|old)\.password", ours="(absent)"),
        ends=False,
    ),
]


def justification(sent, kinto, ours, difference):
    """The entry that justifies a difference, if any."""
    return next((entry for entry in JUSTIFIED if entry.applies(sent, kinto, ours, difference)), None)
