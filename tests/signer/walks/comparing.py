"""Walks on the real signer and on ours, or those of a record on ours."""

import base64
import contextlib
import multiprocessing
import queue
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from replaying import Difference, replay
from signers import Ours, Real, local_stack
from walking import walk

HERE = Path(__file__).parent


@contextlib.contextmanager
def new_key():
    """The file of a private key to sign with, and the public one that verifies."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(pem)
        file.flush()
        yield file.name, key.public_key()


def public_key(text):
    """The public key in a text: SubjectPublicKeyInfo in Base64."""
    return serialization.load_der_public_key(base64.b64decode(text))


def on_both(seeds, steps, processes, records_only=False):
    """Walks on the real one, and on ours unless they are only to be recorded, in several processes.

    Yields each walk, how many answers were compared, and what differs.
    """
    sys.path.insert(0, str(HERE.parents[1] / "moving"))
    from postgres import Postgres

    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        shares = []
        for n in range(processes):
            postgres.maintain(f"CREATE DATABASE walks{n}")
            shares.append((postgres.url(f"walks{n}"), seeds[n::processes], steps, records_only))
        yield from in_processes(of_seeds, shares, len(seeds))


def of_record(walks, processes=1):
    """The same from a record, on local stacks alone."""
    shares = [(walks[n::processes],) for n in range(processes)]
    yield from in_processes(of_walks, shares, len(walks))


def of_seeds(results, url, seeds, steps, records_only):
    """In a process of its own: each walk on the real one, then on ours."""
    with new_key() as (path, public):
        real = Real(url, path)
        if records_only:
            for seed in seeds:
                results.put((walk(real, public, seed, steps), 0, None))
            return
        with local_stack(path) as at:
            ours = Ours(at)
            for seed in seeds:
                walked = walk(real, public, seed, steps)
                results.put((walked, *compared(ours, public, walked)))


def of_walks(results, walks):
    """In a process of its own: the walks of a record on ours."""
    with new_key() as (path, public), local_stack(path) as at:
        for result in at_one(at, public, walks):
            results.put(result)


def at_one(at, public, walks):
    """The walks of a record on the local stack at that URL."""
    ours = Ours(at)
    for walked in walks:
        yield walked, *compared(ours, public, walked)


def compared(ours, public, walked):
    """How many answers of ours were compared, and what differs; without a difference, none."""
    before = ours.answers
    try:
        replay(ours, public, walked)
    except Difference as difference:
        return ours.answers - before, str(difference)
    return ours.answers - before, None


def in_processes(run, shares, count):
    """The results of `run` for each share, `count` in all, as they come."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=run, args=(results, *share)) for share in shares]
    for process in processes:
        process.start()
    for _ in range(count):
        yield next_of(results, processes)
    for process in processes:
        process.join()


def next_of(results, processes):
    while True:
        try:
            return results.get(timeout=1)
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise SystemExit("a process failed, see above") from None


def found_with(spoil, at, public, walks):
    """In which of the walks ours, spoiled, differs first, and in what; in none."""
    ours = Ours(at, spoil)
    differences = (compared(ours, public, walked)[1] for walked in walks)
    return next(((n, difference) for n, difference in enumerate(differences, 1) if difference), None)
