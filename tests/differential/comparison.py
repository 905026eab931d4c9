"""Compares two answers: parts that must be equal, and parts that must have the same relation to earlier answers."""

import bisect
import json
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, urljoin, urlsplit

from request import list_of

TIMESTAMP = re.compile(r'^"?(\d{10,})"?$')

# The headers that clients act on. Allow and Cache-Control are sets.
PLAIN_HEADERS = ("www-authenticate", "retry-after", "backoff", "total-objects", "total-records")
SET_HEADERS = ("allow", "cache-control")
PRESENCE_HEADERS = ("expires", "alert", "next-page", "etag", "last-modified")


@dataclass
class Answer:
    status: int
    headers: dict
    body: object
    # The events that the listener got for the request.
    events: list = field(default_factory=list)

    @classmethod
    def read(cls, status, headers, content, heard=None):
        try:
            body = json.loads(content) if content else None
        except ValueError:
            body = content.decode(errors="replace")
        return cls(status, {name.lower(): value for name, value in headers}, body, heard.take() if heard else [])

    def __str__(self):
        names = PLAIN_HEADERS + SET_HEADERS + PRESENCE_HEADERS + ("content-type", "location")
        lines = [str(self.status)]
        lines += [f"    {name}: {self.headers[name]}" for name in names if name in self.headers]
        lines += [f"    {json.dumps(self.body, ensure_ascii=False)}"]
        return "\n".join(lines + [f"    heard: {json.dumps(event, ensure_ascii=False)}" for event in self.events])


@dataclass(frozen=True)
class Difference:
    # The place: `status`, `header etag`, `body.data.n`, in a batch preceded by `responses[2].`.
    where: str
    kinto: object
    ours: object

    def __str__(self):
        return f"{self.where}: {self.kinto!r} and {self.ours!r}"


class Times:
    """For each list the timestamps with which both servers mean the same moment, in order.

    Timestamps of different lists have no order, because two requests may fall into one millisecond by chance.
    """

    def __init__(self):
        self.lists = {}

    def seen(self, list, back, side):
        pairs = self.lists.get(list)
        return pairs[-1 - back % len(pairs)][side] if pairs else None

    def same(self, list, kinto, ours):
        """Returns True if the two can be the same moment, given all earlier timestamps. Remembers that they are."""
        pairs = self.lists.setdefault(list, [])
        at = bisect.bisect_left(pairs, (kinto, ours))
        if at < len(pairs) and pairs[at] == (kinto, ours):
            return True
        before, after = pairs[max(at - 1, 0) : at], pairs[at : at + 1]
        if before and not (before[0][0] < kinto and before[0][1] < ours):
            return False
        if after and not (kinto < after[0][0] and ours < after[0][1]):
            return False
        pairs.insert(at, (kinto, ours))
        return True


class Comparison:
    """Compares the answers of a run one by one."""

    def __init__(self, aliases=None):
        self.times = Times()
        self.made = []
        # Ids by their names in requests.
        self.aliases = aliases or {}

    def compare(self, path, kinto, ours):
        """All differences between the answers to a request for `path`."""
        self.list = list_of(path)
        self.found = []
        self._answers("", kinto, ours)
        self._events(kinto.events, ours.events)
        return self.found

    def _differ(self, where, kinto, ours):
        self.found.append(Difference(where, kinto, ours))

    def _answers(self, prefix, kinto, ours):
        if kinto.status != ours.status:
            self._differ(f"{prefix}status", kinto.status, ours.status)
            return
        # Only a created object has an id that was not sent.
        self.makes_ids = kinto.status == 201
        for name in PLAIN_HEADERS:
            if kinto.headers.get(name) != ours.headers.get(name):
                self._differ(f"{prefix}header {name}", kinto.headers.get(name), ours.headers.get(name))
        for name in SET_HEADERS:
            sets = [set(re.split(r",\s*", side.headers.get(name, ""))) for side in (kinto, ours)]
            if name == "cache-control":
                # Ours tells caches what to do with every answer, and with a 304 as with the 200. Kinto says nothing for
                # most answers (docs/decisions/019-caches.md).
                if kinto.status == 304 and sets[0] == {""}:
                    continue
                sets[1] -= {"private"}
                if sets[1] == {"no-store"}:
                    sets[1] = {""}
            if sets[0] != sets[1]:
                self._differ(f"{prefix}header {name}", kinto.headers.get(name), ours.headers.get(name))
        for name in PRESENCE_HEADERS:
            if name == "expires" and kinto.status == 304:
                continue
            if (name in kinto.headers) != (name in ours.headers):
                self._differ(f"{prefix}header {name}", kinto.headers.get(name), ours.headers.get(name))
        if 300 <= kinto.status < 400:
            # Clients ignore the text that a redirect shows to people.
            kinto.body = ours.body = None
        types = [side.headers.get("content-type", "").split(";")[0] for side in (kinto, ours)]
        if types[0] != types[1] and (kinto.body or ours.body):
            self._differ(f"{prefix}header content-type", *types)
        # A history's tag is the time of its latest entry, or earlier (docs/decisions/024-history.md).
        if "etag" in kinto.headers and "etag" in ours.headers and not self.list.endswith("/history"):
            self._timestamp(
                f"{prefix}header etag", self.list, *(side.headers["etag"].strip('"') for side in (kinto, ours))
            )
            for side in (kinto, ours):
                self._last_modified(prefix, side)
        for name in ("location", "next-page"):
            if name in kinto.headers and name in ours.headers:
                self._url(f"{prefix}header {name}", kinto.headers[name], ours.headers[name])
        if isinstance(kinto.body, dict) and isinstance(ours.body, dict) and "responses" in kinto.body:
            self._responses(kinto.body["responses"], ours.body.get("responses"))
        else:
            self._body(f"{prefix}body", kinto.body, ours.body)

    def _last_modified(self, prefix, side):
        """Last-Modified is the second of the ETag."""
        text, etag = side.headers.get("last-modified"), side.headers["etag"].strip('"')
        if text and etag.isdigit() and parsedate_to_datetime(text).timestamp() != int(etag) // 1000:
            self._differ(f"{prefix}header last-modified", text, etag)

    def _responses(self, kinto, ours):
        if not isinstance(ours, list) or len(kinto) != len(ours):
            return self._differ("responses", kinto, ours)
        for index, (a, b) in enumerate(zip(kinto, ours)):
            self.list = list_of(a["path"])
            self._value(f"responses[{index}].path", a["path"], b.get("path"))
            sides = [Answer(s["status"], {n.lower(): v for n, v in s["headers"].items()}, s["body"]) for s in (a, b)]
            # In Kinto's batch, an answer without a body has an empty text.
            for side in sides:
                side.body = side.body or None
            self._answers(f"responses[{index}].", *sides)

    def _events(self, kinto, ours):
        """The listeners must have got the same events in the same order."""
        self.makes_ids = False
        payloads = [[event["payload"] for event in side] for side in (kinto, ours)]
        kinds = [[(payload["action"], payload["resource_name"]) for payload in side] for side in payloads]
        if len(kinds[1]) > len(kinds[0]) > 0 and kinds[1] == kinds[0] * (len(kinds[1]) // len(kinds[0])):
            # The last question before the commit shows what was written.
            self._differ("events again", *kinds)
            kinds[1], ours = kinds[0], ours[-len(kinto) :]
        if kinds[0] != kinds[1]:
            return self._differ("events", *kinds)
        for index, (a, b) in enumerate(zip(kinto, ours)):
            self.list = self._plain(list_of(a["payload"]["uri"]))
            a, b = ({**side, "payload": dict(side["payload"])} for side in (a, b))
            times = (side["payload"].pop("timestamp") for side in (a, b))
            self._timestamp(f"events[{index}].timestamp", self.list, *times)
            self._value(f"events[{index}]", a, b)

    def _plain(self, uri):
        for alias, id in self.aliases.items():
            uri = uri.replace(id, alias)
        return uri

    def _body(self, where, kinto, ours):
        if isinstance(kinto, dict) and isinstance(ours, dict) and "errno" in kinto:
            # The servers' texts differ.
            kinto, ours = ({k: v for k, v in body.items() if k not in ("message", "info")} for body in (kinto, ours))
            for body in (kinto, ours):
                if isinstance(body.get("details"), list):
                    body["details"] = sorted({(d.get("location"), d.get("name") or "") for d in body["details"]})
        self._value(where, kinto, ours)

    def _value(self, where, kinto, ours):
        key = where.rsplit(".", 1)[-1]
        if type(kinto) is not type(ours):
            self._differ(where, kinto, ours)
        elif isinstance(kinto, dict):
            if "uri" in kinto and "target" in kinto and "target" in ours:
                # An entry of a history: its target has a time of the target's list, and the server makes date and id.
                kinto, ours = dict(kinto), dict(ours)
                of, self.list = self.list, list_of(kinto["uri"])
                self._value(f"{where}.target", kinto.pop("target"), ours.pop("target"))
                self.list = of
            if "action" in kinto and "resource_name" in kinto or self.list.endswith("/history"):
                kinto, ours = ({n: v for n, v in side.items() if n not in ("id", "date")} for side in (kinto, ours))
            for name in kinto.keys() | ours.keys():
                if name not in kinto or name not in ours:
                    self._differ(f"{where}.{name}", kinto.get(name, "(absent)"), ours.get(name, "(absent)"))
                elif name == "permissions":
                    self._permissions(f"{where}.{name}", kinto[name], ours[name])
                else:
                    self._value(f"{where}.{name}", kinto[name], ours[name])
        elif isinstance(kinto, list | tuple):
            if len(kinto) != len(ours):
                return self._differ(where, kinto, ours)
            for index, (a, b) in enumerate(zip(kinto, ours)):
                self._value(f"{where}[{index}]", a, b)
        elif key == "last_modified" and isinstance(kinto, int):
            self._timestamp(where, self.list, kinto, ours)
        elif key == "schema" and isinstance(kinto, int):
            # A record has the timestamp of the collection whose schema validated it.
            self._timestamp(where, list_of(self.list.removesuffix("/records")), kinto, ours)
        elif isinstance(kinto, str):
            self._text(where, kinto, ours)
        elif kinto != ours:
            self._differ(where, kinto, ours)

    def _permissions(self, where, kinto, ours):
        """Principals and permissions are sets."""
        if isinstance(kinto, dict) and isinstance(ours, dict):
            sets = [
                {name: sorted(who) for name, who in side.items() if isinstance(who, list)} for side in (kinto, ours)
            ]
            self._value(where, *sets)
        elif isinstance(kinto, list) and isinstance(ours, list):
            self._value(where, sorted(kinto), sorted(ours))
        else:
            self._value(where, kinto, ours)

    def _text(self, where, kinto, ours):
        """Ids made by the servers are equal if the same request made them."""
        if where.endswith("data.id") and self.makes_ids and kinto != ours:
            self.made.append((kinto, ours))
        texts = [kinto, ours]
        for number, pair in enumerate(self.made):
            texts = [text.replace(id, f"<made {number}>") for text, id in zip(texts, pair)]
        if texts[0] != texts[1]:
            self._differ(where, kinto, ours)

    def _timestamp(self, where, of, kinto, ours):
        try:
            same = self.times.same(of, int(kinto), int(ours))
        except ValueError:
            same = kinto == ours
        if not same:
            self._differ(where, kinto, ours)

    def _url(self, where, kinto, ours):
        # Ours are relative if the settings name no host.
        a, b = urlsplit(kinto), urlsplit(urljoin(kinto, ours))
        self._value(where, f"{a.scheme}://{a.netloc}{a.path}", f"{b.scheme}://{b.netloc}{b.path}")
        queries = [
            sorted((n, v) for n, v in parse_qsl(url.query, keep_blank_values=True) if n != "_token") for url in (a, b)
        ]
        if [name for name, _ in queries[0]] != [name for name, _ in queries[1]]:
            return self._differ(where, kinto, ours)
        for (name, x), (_, y) in zip(*queries):
            times = TIMESTAMP.match(x), TIMESTAMP.match(y)
            if all(times):
                self._timestamp(where, self.list, times[0][1], times[1][1])
            else:
                self._text(f"{where} {name}", x, y)
