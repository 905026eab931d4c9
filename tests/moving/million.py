"""Measures an import of many records from PostgreSQL into a file of the local stack, and a second import that changes nothing.

    python tests/moving/million.py KINTO_SERVERLESS [--records 1000000] [--most-memory 200]

The records have 300 bytes each and a permission of their creator, as Kinto writes them. The system counts CPU time and peak memory (RSS) of
the process, so a busy machine does not change them. It does change the elapsed time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from sides import HOST, SETTINGS, storage

from postgres import Postgres
from servers import Kinto

COLLECTION = "/buckets/b/collections/c{}"
# The number of records of a collection.
PART = 250_000
FILL = """
ALTER TABLE objects DISABLE TRIGGER ALL;
INSERT INTO objects SELECT 'b', '', 'bucket', now() AT TIME ZONE 'UTC', '{{}}', false;
INSERT INTO objects SELECT 'c' || n, '/buckets/b', 'collection', now() AT TIME ZONE 'UTC' + n * interval '1 ms', '{{}}', false FROM generate_series(0, {parts} - 1) AS n;
INSERT INTO objects SELECT md5(n::text), '/buckets/b/collections/c' || n / {part}, 'record', timestamp '2020-01-01' + n * interval '1 ms',
    jsonb_build_object('title', 'record ' || n, 'n', n, 'tags', jsonb_build_array('a', 'b', n % 7), 'text', repeat(md5(n::text), 6)), false
    FROM generate_series(0, {count} - 1) AS n;
INSERT INTO access_control_entries SELECT '/buckets/b/collections/c' || n / {part} || '/records/' || md5(n::text), 'write',
    'basicauth:' || repeat(md5((n % 50)::text), 2) FROM generate_series(0, {count} - 1) AS n;
"""


def measured(*command):
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--most-memory", type=int, default=200)
    arguments = parser.parse_args()
    count = arguments.records
    with tempfile.TemporaryDirectory() as directory, Postgres(directory) as postgres:
        url, data = postgres.url("kinto"), f"{directory}/table.db"
        kinto = Kinto(HOST, {**SETTINGS, **storage(url)})
        for backend in kinto.backends:
            backend.initialize_schema()
        postgres.execute(FILL.format(count=count, part=PART, parts=-(-count // PART)), "kinto")
        print(f"{count} records in PostgreSQL, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
        too_much = []
        for what in ("import", "import", "verify"):
            elapsed, processor, memory, said = measured(arguments.program, what, url, "--data", data)
            print(f"{what}: {count / processor:.0f} a CPU second ({processor:.1f} s), {elapsed:.1f} s elapsed, {memory:.0f} MB at most", flush=True)
            print("  " + said.strip().splitlines()[-1], flush=True)
            too_much += [memory] if memory > arguments.most_memory else []
        if too_much:
            sys.exit(f"more than {arguments.most_memory} MB")


if __name__ == "__main__":
    main()
