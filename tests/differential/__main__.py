"""Sends the same random sequences of requests to real Kinto and to the server at a URL, and compares the answers.

    python tests/differential http://127.0.0.1:8888 [--sequences 5000] [--seed SEED] [--only N] [--all] [--without WHAT]

The first sequence with a difference that is not justified is shrunk, printed, and ends this with a failure. The same
seed makes the same sequences. `kinto` for the URL compares Kinto with itself, which must find nothing.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count

from comparison import Comparison
from generator import BUCKETS, Generator
from justified import justification
from request import Context, Request, smaller
from servers import Kinto, Server

# Two requests to a server are so far apart in seconds that they do not fall into one of its milliseconds.
APART = 0.0015


@dataclass
class Finding:
    """A difference that is not justified, and what led to it."""

    difference: object
    steps: list

    def signature(self):
        """What makes two findings one."""
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
        """Sends a sequence to both servers in step; the first finding, if any."""
        run, start, comparison = f"{next(self.runs):x}", int(time.time() * 1000), Comparison()
        contexts = [Context(side, run, start, comparison.times, comparison.made) for side in (0, 1)]
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
            if any(entry.ends for entry in entries):
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
        """Leaves nothing that a later run could see: what everybody may read is listed to everybody."""
        shown = json.dumps([ours.body for _, _, _, ours in steps])
        for bucket in filter(lambda bucket: f'"{bucket}"' in shown, map(context.resolve, BUCKETS)):
            for user in ("alice", "bob", None):
                sent = context.send(Request("DELETE", f"/buckets/{bucket}", user=user))
                if self.servers[1].send(sent).status == 200:
                    break
        for server in self.servers:
            server.flush()

    def shrink(self, sequence, finding):
        """The same finding from fewer and simpler requests."""
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
    arguments = parser.parse_args()

    with_itself = arguments.url == "kinto"
    ours = Kinto("127.0.0.1") if with_itself else Server(arguments.url)
    differential = Differential(Kinto(ours.host), ours)
    numbers = [arguments.only] if arguments.only is not None else range(arguments.sequences)
    print(f"seed {arguments.seed}, {len(numbers)} sequences", flush=True)
    start = time.monotonic()
    findings = {}
    for number in numbers:
        sequence = Generator(random.Random(f"{arguments.seed}-{number}"), arguments.without).sequence()
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
