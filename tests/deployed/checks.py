"""Checks a history: the answers to clients against the table, the monitor, Megaphone and the listener."""

import bisect
import json

MONITOR = "/v1/buckets/monitor/collections/changes"


class Checks:
    """The checks of `histories.py`'s `Run`."""

    async def check(self, client, synced):
        if isinstance(getattr(self.stack.table, "history", None), list):
            self.read_history()
            self.check_times()
            self.check_writes()
            self.check_syncs()
            self.check_polls()
            self.check_events()
        for what, collection, live, since in synced:
            op = await self.send(client, "GET", f"/v1/buckets/main/collections/{collection}/records", keep=False)
            server = {item["id"]: item for item in op["answer"]["data"]}
            if live != server:
                missing = {k: v for k, v in server.items() if live.get(k) != v}
                extra = {k: v for k, v in live.items() if k not in server}
                self.violation("a client is not in sync", f"{what}: has not {missing}, has wrongly {extra}")
        await self.check_monitor_at_rest(client)
        if self.stack.denied:
            self.violation("a permission is missing", str(self.stack.denied))
        for key in self.stack.notes:
            if key.startswith("refused |"):
                self.violation("AWS refuses a request", key)

    def read_history(self):
        """For each record, and for each list, its versions in the order of their commits."""
        self.versions, self.lists, self.monitor, self.by_value = {}, {}, {}, {}
        for n, (at, (pk, sk), item, transaction) in enumerate(self.stack.table.history):
            if pk == "#monitor":
                if sk == "#state":
                    self.read_monitor(n, at, item)
                continue
            if sk == "#timestamp":
                self.lists.setdefault(pk, []).append((n, at, int(item["timestamp"]["N"]), "closed" in item,
                                                      item["generation"]["S"]))
            elif pk.endswith(("#record", "#collection", "#group", "#bucket")):
                live = "deleted" not in item
                data = json.loads(item["data"]["S"]) if live else None
                version = {"n": n, "at": at, "lm": int(item["last_modified"]["N"]), "live": live, "data": data,
                           "parent": item["parent"]["S"], "generation": item["generation"]["S"], "pk": pk, "sk": sk,
                           "transaction": transaction}
                self.versions.setdefault((pk, sk), []).append(version)
                if live and isinstance(data, dict) and "v" in data:
                    self.by_value.setdefault(data["v"], []).append(version)

    def read_monitor(self, n, at, state):
        """The changes that a state of the monitor has and the one before had not. For each collection: when, the collection's
        timestamp, whether it is gone, and the position. An entry's own item has nothing new."""
        for name, entry in state.get("latest", {}).get("M", {}).items():
            bucket, collection = name.split("/")
            position, timestamp, *deleted = entry["L"]
            entries = self.monitor.setdefault(f"/buckets/{bucket}/collections/{collection}", [])
            if not entries or entries[-1][4] != int(position["N"]):
                entries.append((n, at, int(timestamp["N"]), bool(deleted), int(position["N"])))

    def check_times(self):
        for pk, entries in self.lists.items():
            last = 0
            for _, _, timestamp, _, _ in entries:
                if timestamp < last:
                    self.violation("a list's timestamp went back", f"{pk}: {last} then {timestamp}")
                last = timestamp
        seen = {}
        for (pk, sk), versions in self.versions.items():
            if "/p0#" in pk:
                continue
            for version in versions:
                other = seen.setdefault((pk, version["lm"]), sk)
                if other != sk or other == sk and sum(v["lm"] == version["lm"] for v in versions) > 1:
                    self.violation("two objects of a list have one timestamp", f"{pk}: {other} and {sk} at {version['lm']}")
            times = [version["lm"] for version in versions]
            if times != sorted(times):
                self.violation("an object went back", f"{pk} {sk}: {times}")

    @staticmethod
    def key_of(path):
        parts = path.split("?")[0].strip("/").split("/")[1:]
        kind, identifier = parts[-2], parts[-1]
        parent = "/" + "/".join(parts[:-2]) if len(parts) > 2 else ""
        return f"{parent}#{kind[:-1]}", identifier

    def flat(self):
        """Each write, with the writes of batches one by one: (op, method, path, headers, body, status, answer)."""
        for op in self.ops:
            if op["path"] == "/v1/batch":
                requests = op["body"]["requests"]
                answers = (op["answer"] or {}).get("responses") if op["status"] == 200 else None
                for n, request in enumerate(requests):
                    answer = answers[n] if answers else {}
                    status = answer.get("status") if answers else (op["status"] if op["status"] and op["status"] < 500 else None)
                    yield (op, request["method"], request["path"], request["headers"], request.get("body"), status, answer.get("body"))
            elif op["method"] in ("PUT", "PATCH", "POST", "DELETE"):
                status = op["status"]
                yield (op, op["method"], op["path"], op["headers"], op["body"], status, op["answer"])

    def check_writes(self):
        acknowledged = {}
        for op, method, path, headers, body, status, answer in self.flat():
            if path.split("?")[0].endswith("/records") and method == "DELETE" or path.startswith("/v1/batch"):
                continue
            data = (answer or {}).get("data") if isinstance(answer, dict) else None
            value = ((body or {}).get("data") or {}).get("v")
            found = self.by_value.get(value, []) if value else []
            if method == "POST":
                pk = self.key_of(path + "/x")[0]
                sk = data.get("id") if data else ((body or {}).get("data") or {}).get("id")
            else:
                pk, sk = self.key_of(path)
            versions = self.versions.get((pk, sk), [])
            shown = f"{method} {path} {headers} {value} -> {status} {json.dumps(data)[:150] if data else json.dumps(answer)[:200]}"
            if value and method == "POST" and len({(v["pk"], v["sk"]) for v in found}) > 1:
                self.violation("a POST made two records", f"{shown}: {[(v['sk'], v['lm']) for v in found]}")
            if status in (200, 201) and data:
                lm = data.get("last_modified")
                at = [n for n, version in enumerate(versions) if version["lm"] == lm]
                if not at:
                    # A POST or PUT may be answered with the existing object: then nothing was written.
                    self.violation("an acknowledged write is not there", shown)
                    continue
                version, before = versions[at[0]], versions[at[0] - 1] if at[0] else None
                if method == "DELETE" and version["live"] or method != "DELETE" and not version["live"]:
                    self.violation("an acknowledged write is not what was written", f"{shown} {version}")
                wrote = method == "DELETE" or value is None or (version["data"] or {}).get("v") == value
                if method in ("PUT", "PATCH") and not wrote:
                    self.violation("an acknowledged write has other data", f"{shown} {version}")
                if wrote and pk.endswith("#record") and "/p0#" not in pk:
                    acknowledged.setdefault(pk, []).append((op["begin"], op["end"], lm, shown))
                if_match = next((v for k, v in headers.items() if k.lower() == "if-match"), None)
                if if_match and (before is None or f'"{before["lm"]}"' != if_match):
                    self.violation("If-Match did not hold", f"{shown}: before it was {before}")
                if "If-None-Match" in headers and wrote and before is not None and before["live"] and before["parent"] == version["parent"] \
                        and op["path"] != "/v1/batch":
                    self.violation("If-None-Match did not hold", f"{shown}: before it was {before}")
                if value and len([v for v in found if (v["pk"], v["sk"]) == (pk, sk)]) > 1 and method in ("PUT", "POST"):
                    # A PATCH of metadata keeps v. A repeated write shows as two versions with one value.
                    others = [v for v in found if (v["pk"], v["sk"]) == (pk, sk)]
                    if not self.patched(others):
                        self.warn("a write was done twice (and answered once)", f"{shown}: {[v['lm'] for v in others]}")
            elif status is not None and 400 <= status < 500:
                if found and status != 429:
                    self.violation("a refused write took effect", f"{shown}: {found}")
                if_match = next((v for k, v in headers.items() if k.lower() == "if-match"), None)
                if status == 412 and if_match and op["path"] != "/v1/batch":
                    self.check_refusal(op, versions, int(if_match.strip('"')), shown)
                if method == "DELETE" and status in (404, 412) and op["path"] != "/v1/batch":
                    self.check_no_tombstone(op, versions, status, shown)
        # A write that began after another had ended has a later time.
        for pk, entries in acknowledged.items():
            entries.sort(key=lambda entry: entry[1])
            ends, highest, top = [], [], (0, "")
            for begin, end, lm, shown in entries:
                top = max(top, (lm, shown))
                ends.append(end)
                highest.append(top)
            for begin, end, lm, shown in entries:
                n = bisect.bisect_left(ends, begin)
                if n and highest[n - 1][0] > lm:
                    self.violation("times are not in the order of the requests", f"{shown} began after {highest[n - 1]}")

    def warn(self, kind, text):
        self.warnings.setdefault(kind, []).append(text)

    @staticmethod
    def patched(versions):
        return False

    def check_refusal(self, op, versions, expected, shown):
        """A 412 is right if, at some moment within the request, the record was not the one that it named."""
        current, always = None, True
        for n, version in enumerate(versions):
            after = versions[n + 1]["at"] if n + 1 < len(versions) else float("inf")
            if version["at"] <= op["end"] and after >= op["begin"] and version["lm"] != expected:
                always = False
        if not versions:
            always = False
        if always and any(v["lm"] == expected and v["live"] for v in versions):
            self.violation("412 although If-Match held all the time", shown)

    def check_no_tombstone(self, op, versions, status, shown):
        """A refused deletion deleted nothing: each tombstone within its time is another client's. They are counted, because
        it is not certain which other client deleted a record then."""
        within = [v for v in versions if not v["live"] and op["begin"] <= v["at"] <= op["end"]]
        if not within:
            return
        others = [o for o, m, p, *_ in self.flat() if o is not op and o["begin"] <= op["end"] and o["end"] >= op["begin"]
                  and (m == "DELETE" and (p.split("?")[0] == op["path"] or p.split("?")[0] == op["path"].rsplit("/", 1)[0]))]
        if not others:
            self.violation("a deletion was refused and took effect", f"{shown}: tombstone at {within[0]['lm']}")

    def check_syncs(self):
        """Each answer has every version with since < time <= ETag, or a later one of that record."""
        per_list = {}
        for (pk, sk), versions in self.versions.items():
            per_list.setdefault(pk, []).extend((v["lm"], sk, v["live"], v["at"]) for v in versions)
        for entries in per_list.values():
            entries.sort()
        self.checked = 0
        for sync in self.syncs:
            pk = f"/buckets/main/collections/{sync['collection']}#record"
            entries = per_list.get(pk, [])
            since = sync["since"] or 0
            got = {}
            for item in sync["objects"]:
                got[item["id"]] = max(got.get(item["id"], 0), item["last_modified"])
            low = bisect.bisect_right(entries, (since, "\U0010ffff"))
            high = bisect.bisect_right(entries, (sync["etag"], "\U0010ffff"))
            newest = {}
            for lm, sk, live, at in entries[low:high]:
                newest[sk] = (lm, live, at)
            for sk, (lm, live, at) in newest.items():
                self.checked += 1
                if sync["since"] is None and not live:
                    if sk in got and got[sk] <= lm:
                        self.violation("a deleted record is shown", f"{sync['kind']} {sync['collection']} {sk} {lm} {got[sk]}")
                    continue
                if got.get(sk, 0) < lm:
                    # A record that a write moved on while pages were read is later than the ETag and comes next time.
                    later = [v for v in self.versions[(pk, sk)] if v["lm"] > sync["etag"] and v["at"] <= sync["end"]]
                    if later and sk not in got:
                        continue
                    self.violation("a reader misses a write", f"{sync['kind']} of {sync['collection']} (pages of {sync['pages']}) "
                                   f"since {sync['since']} has ETag {sync['etag']} without {sk} of {lm} (live: {live}), committed "
                                   f"{1000 * (at - sync['begin']):.1f} ms after it began, {1000 * (at - sync['end']):.1f} after it ended; "
                                   f"shown: {got.get(sk)}")
        # In successive answers the ETag never goes back.
        ordered = {}
        for sync in sorted(self.syncs, key=lambda sync: sync["end"]):
            ordered.setdefault(sync["collection"], []).append(sync)
        for collection, syncs in ordered.items():
            ends = [sync["end"] for sync in syncs]
            highest, top = [], 0
            for sync in syncs:
                top = max(top, sync["etag"])
                highest.append(top)
            for sync in syncs:
                n = bisect.bisect_left(ends, sync["begin"])
                if n and highest[n - 1] > sync["etag"]:
                    self.violation("a list's ETag went back", f"{collection} {sync['kind']}: {sync['etag']} after {highest[n - 1]}")

    def check_polls(self):
        truth = {}
        for pk, entries in self.lists.items():
            if pk.endswith("#record"):
                truth[pk[:-len("#record")]] = [(at, timestamp) for _, at, timestamp, _, _ in entries]
        polls = sorted(self.polls, key=lambda poll: poll["end"])
        full = [poll for poll in polls if poll["kind"] != "since"]
        for poll in polls:
            for uri, lm in poll["entries"].items():
                known = [timestamp for at, timestamp in truth.get(uri, []) if at <= poll["end"] + .001]
                if lm > max(known, default=0):
                    self.violation("the monitor is ahead", f"{uri}: {lm}, list {max(known, default=0)}")
        ends = [poll["end"] for poll in full]
        states, top = [], {}
        for poll in full:
            top = dict(top)
            for uri, lm in poll["entries"].items():
                top[uri] = max(top.get(uri, 0), lm)
            top["etag"] = max(top.get("etag", 0), poll["etag"])
            states.append(top)
        for poll in full:
            n = bisect.bisect_left(ends, poll["begin"])
            if not n:
                continue
            before = states[n - 1]
            for uri, lm in before.items():
                shown = poll["etag"] if uri == "etag" else poll["entries"].get(uri)
                if shown is None:
                    gone = any(deleted for _, at, _, deleted, _ in self.monitor.get(uri, []) if at <= poll["end"] + .001)
                    if not gone:
                        self.violation("an entry of the monitor vanished", f"{uri} {lm}")
                elif shown < lm:
                    self.violation("the monitor went back", f"{uri}: {lm} then {shown} ({poll['kind']})")
        for poll in polls:
            if poll["kind"] != "since" or poll["since"] is None:
                continue
            for uri, entries in self.monitor.items():
                if not uri.startswith("/buckets/main/"):
                    continue
                within = [(lm, deleted, at) for _, at, lm, deleted, position in entries if poll["since"] < position <= poll["etag"]]
                if not within or within[-1][1] or poll["entries"].get(uri, 0) >= within[-1][0]:
                    continue
                lm, _, at = within[-1]
                if any(position > poll["etag"] and at <= poll["end"] for _, at, _, _, position in entries):
                    continue
                shown = f"{uri} since {poll['since']} ETag {poll['etag']}: {lm}, shown {poll['entries'].get(uri)}"
                self.violation("a poll of the monitor misses a change", f"{shown}, recorded {1000 * (at - poll['begin']):.0f} ms after it began")

    def check_events(self):
        if not self.stack.listeners:
            return
        told, order = {}, {}
        for group, identifier, event in self.stack.events:
            for impacted in event["impacted_records"]:
                new = impacted.get("new") or {}
                told.setdefault((event["resource_name"], new.get("id"), new.get("last_modified")), 0)
                if not event.get("truncated"):
                    told[(event["resource_name"], new.get("id"), new.get("last_modified"))] += 1
            parent = event["uri"]
            order.setdefault(group, []).append((event["id"], event))
        self.events_count = len(self.stack.events)
        for (pk, sk), versions in self.versions.items():
            kind = pk.rsplit("#", 1)[1]
            for version in versions:
                if (kind, sk, version["lm"]) not in told:
                    self.violation("an event is lost", f"{pk} {sk} {version['lm']} live: {version['live']}")
        truth = {(version["pk"].rsplit("#", 1)[1], version["sk"], version["lm"]) for versions in self.versions.values() for version in versions}
        for key in told:
            if key not in truth:
                self.violation("an event of a write that was not committed", str(key))
        # Events of a collection's records follow the order of the commits. Those of one transaction are ordered by action, not by time.
        by_time = {(version["pk"], version["sk"], version["lm"]): version["transaction"]
                   for versions in self.versions.values() for version in versions}
        for group, events in order.items():
            seen, top = set(), {}
            for identifier, event in events:
                if identifier in seen or event["resource_name"] != "record" or "/collections/p0" in event["uri"]:
                    continue
                seen.add(identifier)
                pk = f"/buckets/{event['bucket_id']}/collections/{event['collection_id']}#record"
                for new in [impacted["new"] for impacted in event["impacted_records"] if impacted.get("new")]:
                    this = (new["last_modified"], by_time.get((pk, new["id"], new["last_modified"])))
                    highest = top.get(pk, (0, None))
                    if this[0] < highest[0] and this[1] is not highest[1]:
                        self.violation("events of a list are not in the order of the commits", f"{event['uri']} {identifier}: {this[0]} after {highest[0]}")
                    top[pk] = max(this, highest, key=lambda pair: pair[0])

    async def check_monitor_at_rest(self, client):
        op = await self.send(client, "GET", MONITOR + "/records", keep=False)
        shown = {f"/buckets/{e['bucket']}/collections/{e['collection']}": e["last_modified"] for e in op["answer"]["data"]}
        highest = 0
        for pk, entries in getattr(self, "lists", {}).items():
            uri = pk[:-len("#record")]
            if not pk.startswith("/buckets/main/") or not pk.endswith("#record"):
                continue
            _, _, timestamp, closed, _ = entries[-1]
            if closed and uri in shown:
                self.violation("the monitor shows a deleted collection", uri)
            if not closed and shown.get(uri) != timestamp:
                self.violation("the monitor does not converge", f"{uri}: {shown.get(uri)}, list {timestamp}")
            if not closed:
                highest = max(highest, timestamp)
        last = 0
        for at, target, version in self.stack.megaphone.versions:
            if version < last:
                self.violation("Megaphone went back", f"{version} after {last}")
            last = max(last, version)
        if last < highest:
            self.violation("Megaphone does not converge", f"{last}, highest {highest}")
