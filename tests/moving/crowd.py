"""Asks a Kinto on PostgreSQL, or the stack, by several processes at once. Each has its own Kinto and connection."""

import multiprocessing
import os

from sides import HOST, ask, is_meant, publishing

from servers import Kinto, Server

# The number of questions that a process gets at once.
SHARE = 500
# The sides that this process has opened, by their URLs.
sides = {}


def side(url):
    if url not in sides:
        sides.clear()
        sides[url] = Server(url) if url.startswith("http") else Kinto(HOST, publishing(url))
    return sides[url]


def answer(share):
    url, questions = share
    server = side(url)
    return [(question, ask(server, question)) for question in questions]


def compare(share):
    url, answers = share
    server = side(url)
    return [finding for question, before in answers if (finding := difference(question, before, ask(server, question)))]


def difference(question, before, after):
    if before != after and not is_meant(question[1], before, after):
        return f"{question}\n  before: {before}\n  after:  {after}"


class Crowd:
    def __init__(self, processes=None):
        # Forked processes would share the connections of this process's Kinto.
        self.pool = multiprocessing.get_context("spawn").Pool(processes or os.cpu_count())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.terminate()
        self.pool.join()

    def each(self, work, url, items):
        shares = ((url, items[start : start + SHARE]) for start in range(0, len(items), SHARE))
        for done in self.pool.imap(work, shares):
            yield from done

    def answers(self, url, questions):
        """The answer to each question."""
        return dict(self.each(answer, url, questions))

    def differences(self, url, answers):
        """The questions that the other side answers differently."""
        return self.each(compare, url, list(answers.items()))
