"""Sends the same random sequences of requests to real Kinto and to the server at a URL, and compares the answers.

    python tests/differential http://127.0.0.1:8888 [--sequences 5000] [--seed SEED] [--only N] [--all] [--without WHAT]
        [--events PORT] [--history]

With `--events PORT` the sequences write more, and the events of each request are compared too. Our listener is a
webhook at that port, told before the commit. Set the server for it as in `tests/it/clients.rs`.

With `--history` both have the plugin `kinto.plugins.history`, and histories and snapshots are read between the writes.

The first sequence with an unjustified difference is shrunk and printed, and the program fails. The same
seed makes the same sequences. With `kinto` as the URL, Kinto is compared with itself, which must find nothing.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count

import events
from comparison import Comparison
from generator import Generator
from justified import deletes_a_parent, justification, text_of
from request import Context, Request, default_bucket, smaller
from servers import Kinto, Server
from values import BUCKETS, DEFAULT

# Seconds between two requests to a server, so that they do not fall into one of its milliseconds.
APART = 0.0015


@dataclass
class Finding:
    """An unjustified difference, and the requests that led to it."""

    difference: object
    steps: list

    def signature(self):
        """Equal for two findings of the same kind."""
        sent, kinto, ours = self.steps[-1][1:]
        where = "".join("#" if c.isdigit() else c for c in self.difference.where)
        kind = [part for part in sent.url.split("?")[0].split("/")[2:] if part][::2]
        return (sent.method, "/".join(kind), len(sent.url.split("/")) % 2, where, kinto.status, ours.status)

    def __str__(self):
        lines = [str(self.difference)]
        for request, sent, kinto, ours in self.steps:
            lines.append(f"\n{request.user or 'nobody'}: {sent}")
        return "\n".join([*lines, f"\nKinto: {kinto}", f"\nOurs: {ours}"])


class Differential:
    def __init__(self, kinto, ours):
        self.servers = (kinto, ours)
        self.runs = count(int(time.time() * 1000))
        self.requests = 0
        self.justified = Counter()
        self.previous = 0.0

    def run(self, sequence):
        """Sends a sequence to both servers in step. Returns the first finding, if any."""
        run = f"{next(self.runs):x}"
        comparison = Comparison({DEFAULT: default_bucket(f"alice-{run}")})
        contexts = [Context(side, run, 0, comparison.times, comparison.made) for side in (0, 1)]
        # After a flush, Kinto's list of buckets gets its first time at the first look: the run begins after it.
        self.answers([context.send(Request("GET", "/buckets")) for context in contexts])
        time.sleep(APART)
        for context in contexts:
            context.start = int(time.time() * 1000)
        steps = []
        finding = self.follow(sequence, contexts, comparison, steps)
        self.clean(contexts[1], steps)
        return finding

    def follow(self, sequence, contexts, comparison, steps):
        for request in sequence:
            sent = [context.send(request) for context in contexts]
            if None in sent:
                continue
            kinto, ours = self.answers(sent)
            steps.append((request, sent[1], kinto, ours))
            self.requests += 1
            path = contexts[0].resolve(request.path) if not request.follows else sent[0].url.split("/", 3)[3]
            entries = []
            for difference in comparison.compare("/" + path.lstrip("/"), kinto, ours):
                entry = justification(sent[1], kinto, ours, difference)
                if not entry:
                    return Finding(difference, steps)
                entries.append(entry)
                self.justified[entry.reason] += 1
            # At the end of a batch, Kinto removes what the batch deleted, including objects created again there.
            if any(entry.ends for entry in entries) or deletes_a_parent(sent[1], kinto, ours, None):
                break
            for context, answer in zip(contexts, (kinto, ours)):
                context.next_page = answer.headers.get("next-page", context.next_page)
        return None

    def answers(self, sent):
        time.sleep(max(0.0, self.previous + APART - time.monotonic()))
        answers = [server.send(part) for server, part in zip(self.servers, sent)]
        self.previous = time.monotonic()
        return answers

    def clean(self, context, steps):
        """Removes everything that a later run could see: objects that everybody may read are listed to everybody."""
        shown = json.dumps([ours.body for _, _, _, ours in steps])
        buckets = [bucket for bucket in map(context.resolve, BUCKETS) if f'"{bucket}"' in shown]
        if any(f"/buckets/{DEFAULT}" in text_of(sent) for _, sent, _, _ in steps):
            buckets.append(DEFAULT)
        for bucket in buckets:
            self.delete(context, f"/buckets/{bucket}")
        if any("/accounts" in text_of(sent) for _, sent, _, _ in steps):
            # Objects that a user made before having an account are out of reach for the account.
            for user in ("alice", "bob"):
                self.delete(context, f"/accounts/{user}-{context.run}")
            for bucket in buckets:
                self.delete(context, f"/buckets/{bucket}")
        for server in self.servers:
            server.flush()

    def delete(self, context, path):
        for user in ("alice", "bob", None):
            sent = context.send(Request("DELETE", path, user=user))
            if self.servers[1].send(sent).status == 200:
                break

    def shrink(self, sequence, finding):
        """The same finding with fewer and simpler requests."""
        signature = finding.signature()

        def still(candidate):
            nonlocal sequence, finding
            found = self.run(candidate)
            if found and found.signature() == signature:
                sequence, finding = candidate, found
                return True
            return False

        size = len(sequence) // 2
        while size:
            at = 0
            while at < len(sequence):
                if not still(sequence[:at] + sequence[at + size :]):
                    at += size
            size //= 2
        for at in range(len(sequence)):
            while any(still(sequence[:at] + [less] + sequence[at + 1 :]) for less in smaller(sequence[at])):
                pass
        return finding


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--seed", default=f"{random.SystemRandom().randrange(2**32):08x}")
    parser.add_argument("--only", type=int, help="the number of the one sequence to send")
    parser.add_argument("--all", action="store_true", help="go on and list all findings, one of each sort")
    parser.add_argument("--without", action="append", default=[], help="a sort of request not to generate")
    parser.add_argument("--events", type=int, metavar="PORT", help="the port of the webhook that is told of all writes")
    parser.add_argument("--history", action="store_true", help="read histories and snapshots too")
    arguments = parser.parse_args()

    with_itself = arguments.url == "kinto"
    if arguments.events:
        ours = Server(arguments.url, events.Webhook(arguments.events))
        kinto = Kinto(ours.host, events.SETTINGS, events.KINTO)
    else:
        settings = {"kinto.includes": "kinto.plugins.history"} if arguments.history else None
        ours = Kinto("127.0.0.1", settings) if with_itself else Server(arguments.url)
        kinto = Kinto(ours.host, settings)
    differential = Differential(kinto, ours)
    numbers = [arguments.only] if arguments.only is not None else range(arguments.sequences)
    print(f"seed {arguments.seed}, {len(numbers)} sequences", flush=True)
    start = time.monotonic()
    findings = {}
    for number in numbers:
        randomness = random.Random(f"{arguments.seed}-{number}")
        sequence = Generator(
            randomness, arguments.without, writes=bool(arguments.events), history=arguments.history
        ).sequence()
        finding = differential.run(sequence)
        if finding:
            signature = finding.signature()
            if signature not in findings:
                finding = differential.shrink(sequence, finding)
                findings[signature] = [0, finding, number]
                print(f"\n==== --seed {arguments.seed} --only {number}\n{finding}", flush=True)
            findings[signature][0] += 1
            if not arguments.all:
                sys.exit(1)
    print(
        f"\n{differential.requests} requests in {time.monotonic() - start:.0f} s, {len(findings)} sorts of differences"
    )
    for reason, times in differential.justified.most_common():
        print(f"{times:6} times: {reason}")
    for signature, (times, _, number) in sorted(findings.items(), key=lambda item: -item[1][0]):
        print(f"{times:6} {signature} --only {number}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
