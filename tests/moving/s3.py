"""An export goes to S3 and comes back, in several parts; on an emulator of AWS.

    python tests/moving/s3.py KINTO_SERVERLESS KINTO_LOCAL
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import boto3
from sides import run


def write(file, count, length):
    """An export by hand."""
    lines = [{"kinto-serverless": "export", "version": 1}]
    write_permission = {"write": ["account:a"]}
    lines.append({"uri": "/buckets/b", "last_modified": 1000, "data": {}, "permissions": write_permission})
    lines.append({"uri": "/buckets/b/collections/c", "last_modified": 1000, "data": {}, "permissions": write_permission})
    for number in range(count):
        uri = f"/buckets/b/collections/c/records/r{number}"
        lines.append({"uri": uri, "last_modified": 2000 + number, "data": {"text": chr(97 + number % 26) * length}, "permissions": {}})
    lines.append({"uri": "/buckets/b/collections/c/records/gone", "last_modified": 9000})
    with open(file, "w") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)


def main():
    program = sys.argv[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    emulator = subprocess.Popen(
        [Path(sys.executable).with_name("ministack")],
        env={**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        s3.create_bucket(Bucket="backups")
        with tempfile.TemporaryDirectory() as directory:
            source, url = f"{directory}/source.ndjson", "s3://backups/kinto/today.ndjson"
            write(source, 120, 300_000)
            run(program, "import", source, "--data", f"{directory}/one.db")
            run(program, "export", url, "--data", f"{directory}/one.db")
            size = s3.head_object(Bucket="backups", Key="kinto/today.ndjson")["ContentLength"]
            assert size > 33_000_000, size
            run(program, "import", url, "--data", f"{directory}/two.db")
            for data in ("one", "two"):
                run(program, "verify", source, "--data", f"{directory}/{data}.db")
            run(program, "verify", url, "--data", f"{directory}/two.db")
            missing = subprocess.run([program, "import", "s3://backups/none", "--data", f"{directory}/two.db"], capture_output=True, text=True)
            assert missing.returncode == 2 and "NoSuchKey" in missing.stderr, missing
            assert not s3.list_multipart_uploads(Bucket="backups").get("Uploads")
        print(f"{size} bytes went to S3 and came back")
    finally:
        emulator.terminate()
        emulator.wait()


if __name__ == "__main__":
    main()
