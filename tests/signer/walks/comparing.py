"""Runs walks on the real signer and on ours, or recorded walks on ours."""

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
    """The file of a private key, and its public key."""
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
    """Runs walks on the real signer, and on ours unless they are only recorded, in several processes.

    Yields each walk, the number of compared answers, and the differences.
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
    """The same from a record, only on local stacks."""
    shares = [(walks[n::processes],) for n in range(processes)]
    yield from in_processes(of_walks, shares, len(walks))


def of_seeds(results, url, seeds, steps, records_only):
    """In a separate process: each walk on the real signer, then on ours."""
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
    """In a separate process: recorded walks on ours."""
    with new_key() as (path, public), local_stack(path) as at:
        for result in at_one(at, public, walks):
            results.put(result)


def at_one(at, public, walks):
    """Runs recorded walks on the local stack at that URL."""
    ours = Ours(at)
    for walked in walks:
        yield walked, *compared(ours, public, walked)


def compared(ours, public, walked):
    """The number of compared answers of ours, and the difference, if any."""
    before = ours.answers
    try:
        replay(ours, public, walked)
    except Difference as difference:
        return ours.answers - before, str(difference)
    return ours.answers - before, None


def in_processes(run, shares, count):
    """The results of `run` for each share, `count` in all, in the order in which they arrive."""
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
    """The first walk in which the spoiled ours differs, and the difference; `None` if there is none."""
    ours = Ours(at, spoil)
    differences = (compared(ours, public, walked)[1] for walked in walks)
    return next(((n, difference) for n, difference in enumerate(differences, 1) if difference), None)
