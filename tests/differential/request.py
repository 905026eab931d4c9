"""A generated request. Parts that depend on a server's answers have names, and are filled in when it is sent."""

import base64
import hashlib
import hmac
import json
import re
import uuid
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

# The secret of both servers, so that a user has the same id on both.
USERID_HMAC_SECRET = "local"
# Stands in every id for the number of the run, since runs share no objects.
RUN = "RUN"


@dataclass(frozen=True)
class Seen:
    """A timestamp from the answers of a list: the latest, or the one `back` steps before it."""

    list: str
    back: int = 0


@dataclass(frozen=True)
class At:
    """This many milliseconds after the start of the run."""

    offset: int


@dataclass(frozen=True)
class Made:
    """An id that the server made."""

    index: int


@dataclass(frozen=True)
class Principal:
    """The user id of a user."""

    user: str


@dataclass(frozen=True)
class Authorization:
    """The credentials of another user than the request's."""

    user: str


@dataclass(frozen=True)
class Text:
    """The concatenation of parts."""

    parts: tuple

    def __init__(self, *parts):
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True)
class Request:
    method: str
    path: object
    query: tuple = ()
    user: str | None = "alice"
    headers: tuple = ()
    # JSON, raw bytes, or nothing.
    body: object = None
    # For a batch: its requests, its defaults and the rest of its body.
    batch: tuple | None = None
    defaults: object = None
    # True follows the latest Next-Page instead of the path.
    follows: bool = False
    # A batch accepts paths without /v1.
    prefix: str = "/v1"


@dataclass
class Sent:
    """A request as one of the servers gets it."""

    method: str
    url: str
    headers: dict
    body: bytes

    def __str__(self):
        lines = [f"{self.method} {self.url}"]
        lines += [f"    {name}: {value}" for name, value in self.headers.items() if name != "Authorization"]
        lines += [f"    {self.body.decode(errors='replace')}"] if self.body else []
        return "\n".join(lines)


@dataclass
class Context:
    """The values that fill in a request for one of the servers."""

    side: int
    run: str
    start: int
    times: object
    made: list
    next_page: str | None = None

    def resolve(self, value):
        """The value with all names in it filled in."""
        match value:
            case Seen(of, back):
                return self.times.seen(self.resolve(of), back, self.side) or self.start
            case At(offset):
                return self.start + offset
            case Made(index):
                return self.made[index % len(self.made)][self.side] if self.made else "none-made"
            case Principal(user):
                return user_id(f"{user}-{self.run}")
            case Authorization(user):
                return authorization(f"{user}-{self.run}")
            case Text(parts):
                return "".join(str(self.resolve(part)) for part in parts)
            case str():
                return value.replace(RUN, self.run)
            case dict():
                return {self.resolve(key): self.resolve(item) for key, item in value.items()}
            case list() | tuple():
                return [self.resolve(item) for item in value]
        return value

    def send(self, request):
        """The request for this server; `None` if there is no page to follow."""
        headers = {name: self.resolve(text) for name, text in request.headers}
        if request.user:
            headers["Authorization"] = authorization(f"{request.user}-{self.run}")
        body = b""
        if request.batch is not None:
            headers.setdefault("Content-Type", "application/json")
            body = json.dumps(self.batch(request)).encode()
        elif isinstance(request.body, bytes):
            body = request.body
        elif request.body is not None:
            headers.setdefault("Content-Type", "application/json")
            body = json.dumps(self.resolve(request.body)).encode()
        if request.follows:
            if not self.next_page:
                return None
            return Sent(request.method, self.next_page, headers, body)
        return Sent(request.method, request.prefix + self.target(request), headers, body)

    def target(self, request):
        query = [(name, self.resolve(value)) for name, value in request.query]
        path = quote(self.resolve(request.path), safe="/*:@%")
        return path + ("?" + urlencode(query) if query else "")

    def batch(self, request):
        content = {"requests": [self.part(part) for part in request.batch]}
        if request.defaults is not None:
            content["defaults"] = self.resolve(request.defaults)
        return content

    def part(self, request):
        """A request of a batch. A value that is not a `Request` is sent unchanged."""
        if not isinstance(request, Request):
            return self.resolve(request)
        part = {"path": request.prefix + self.target(request)}
        if request.method != "GET":
            part["method"] = request.method
        if request.headers:
            part["headers"] = {name: self.resolve(text) for name, text in request.headers}
        if request.body is not None and not isinstance(request.body, bytes):
            part["body"] = self.resolve(request.body)
        return part


def user_id(name):
    message = f"{name}:secret".encode()
    return "basicauth:" + hmac.new(USERID_HMAC_SECRET.encode(), message, hashlib.sha256).hexdigest()


def default_bucket(name):
    """The id of a user's default bucket."""
    digest = hmac.new(USERID_HMAC_SECRET.encode(), user_id(name).encode(), hashlib.sha256).hexdigest()
    return str(uuid.UUID(digest[:32]))


def authorization(name):
    return "Basic " + base64.b64encode(f"{name}:secret".encode()).decode()


def list_of(path):
    """The list whose timestamps the answers at this path show: the path itself, or the list of the object."""
    path = re.sub(r"/snapshot(/collections/[^/]*)@[^/]*$", r"\1/records", path)
    segments = re.sub(r"^/v1(?=/|$)", "", path.split("?")[0]).strip("/").split("/")
    return "/" + "/".join(segments if len(segments) % 2 else segments[:-1])


def smaller(request):
    """Variants of a request that are simpler, the simplest first."""
    if request.batch:
        for index in range(len(request.batch)):
            yield replace(request, batch=request.batch[:index] + request.batch[index + 1 :])
        if request.defaults is not None:
            yield replace(request, defaults=None)
    for index in range(len(request.query)):
        yield replace(request, query=request.query[:index] + request.query[index + 1 :])
    for index in range(len(request.headers)):
        yield replace(request, headers=request.headers[:index] + request.headers[index + 1 :])
    if isinstance(request.body, dict):
        if request.body:
            yield replace(request, body=None)
        for key, value in request.body.items():
            yield replace(request, body={k: v for k, v in request.body.items() if k != key})
            if isinstance(value, dict):
                for inner in value:
                    less = {k: v for k, v in value.items() if k != inner}
                    yield replace(request, body={**request.body, key: less})
    if isinstance(request.body, list):
        for index in range(len(request.body)):
            yield replace(request, body=request.body[:index] + request.body[index + 1 :])
