"""An export goes to S3 and comes back, in several parts; an export that DynamoDB makes itself comes back too. On an emulator of AWS.

    python tests/moving/s3.py KINTO_SERVERLESS KINTO_LOCAL
"""

import base64
import gzip
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
    target = {"uri": "/buckets/b/collections/c/records/r0", "action": "create", "target": {"data": {"id": "r0", "last_modified": 2000}}}
    lines.append({"history": "/buckets/b", "id": "e", "last_modified": 2001, "data": target, "readers": ["account:a", "account:b"], "replaces": None})
    lines.append({"history": "/buckets/b", "id": "f", "last_modified": 2002})
    with open(file, "w") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)


def create_table(dynamodb):
    attribute = [{"AttributeName": name, "AttributeType": kind} for name, kind in (("pk", "S"), ("sk", "S"), ("last_modified", "N"))]
    pk = {"AttributeName": "pk", "KeyType": "HASH"}
    by_time = {"IndexName": "by_last_modified", "KeySchema": [pk, {"AttributeName": "last_modified", "KeyType": "RANGE"}], "Projection": {"ProjectionType": "ALL"}}
    dynamodb.create_table(
        TableName="kinto", BillingMode="PAY_PER_REQUEST", AttributeDefinitions=attribute, LocalSecondaryIndexes=[by_time],
        KeySchema=[pk, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )


def as_dynamodb_exports(dynamodb, s3, prefix):
    """What `ExportTableToPointInTime` writes, as AWS documents it: items in no order, in compressed files that a manifest names."""
    pages = dynamodb.get_paginator("scan").paginate(TableName="kinto")
    items = [item for page in pages for item in page["Items"]]
    items.reverse()
    binary = lambda value: base64.b64encode(value).decode()  # noqa: E731
    files = []
    for number in range(3):
        lines = "".join(json.dumps({"Item": item}, default=binary) + "\n" for item in items[number::3])
        key = f"{prefix}/data/part{number}.json.gz"
        s3.put_object(Bucket="backups", Key=key, Body=gzip.compress(lines.encode()))
        files.append(json.dumps({"itemCount": len(items[number::3]), "md5Checksum": "", "etag": "", "dataFileS3Key": key}) + "\n")
    s3.put_object(Bucket="backups", Key=f"{prefix}/manifest-files.json", Body="".join(files))
    summary = {"version": "2023-08-01", "exportType": "FULL_EXPORT", "outputFormat": "DYNAMODB_JSON", "itemCount": len(items), "manifestFilesS3Key": f"{prefix}/manifest-files.json"}
    s3.put_object(Bucket="backups", Key=f"{prefix}/manifest-summary.json", Body=json.dumps(summary))
    return summary


def check_dynamodb_export(program, directory, s3, endpoint):
    dynamodb = boto3.client("dynamodb", endpoint_url=endpoint, region_name="us-east-1")
    create_table(dynamodb)
    source = f"{directory}/few.ndjson"
    write(source, 60, 300)
    run(program, "import", source, "--table", "kinto")
    run(program, "verify", source, "--table", "kinto")
    prefix = "kinto/AWSDynamoDB/01700000000000-abcdef"
    summary = as_dynamodb_exports(dynamodb, s3, prefix)
    data = ["--data", f"{directory}/three.db"]
    run(program, "import", "--from-dynamodb-export", f"s3://backups/{prefix}", *data)
    run(program, "verify", source, *data)
    copied = Path(directory, "copied")
    for found in s3.list_objects_v2(Bucket="backups", Prefix=f"{prefix}/")["Contents"]:
        file = copied / found["Key"].removeprefix(f"{prefix}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file("backups", found["Key"], str(file))
    run(program, "verify", "--from-dynamodb-export", copied, *data)
    raised = ["--data", f"{directory}/two.db", "--raise-timestamps"]
    run(program, "import", "--from-dynamodb-export", f"s3://backups/{prefix}", *raised)
    # Not whole, not there, of another form.
    for changed in ({"itemCount": summary["itemCount"] + 1}, {"outputFormat": "ION"}, {"exportType": "INCREMENTAL_EXPORT"}, {"itemCount": "x"}):
        s3.put_object(Bucket="backups", Key=f"{prefix}/manifest-summary.json", Body=json.dumps({**summary, **changed}))
        run(program, "import", "--from-dynamodb-export", f"s3://backups/{prefix}", *data, expected=2)
    s3.put_object(Bucket="backups", Key=f"{prefix}/manifest-summary.json", Body=json.dumps(summary))
    s3.put_object(Bucket="backups", Key=f"{prefix}/data/part1.json.gz", Body=gzip.compress(b'{"Item": {"pk": 1}}'))
    run(program, "import", "--from-dynamodb-export", f"s3://backups/{prefix}", *data, expected=2)
    s3.delete_object(Bucket="backups", Key=f"{prefix}/manifest-summary.json")
    run(program, "import", "--from-dynamodb-export", f"s3://backups/{prefix}", *data, expected=2)
    run(program, "verify", source, *data)
    print(f"{summary['itemCount']} items of an export as DynamoDB makes it")


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
            check_dynamodb_export(program, directory, s3, endpoint)
            assert not s3.list_multipart_uploads(Bucket="backups").get("Uploads")
        print(f"{size} bytes went to S3 and came back")
    finally:
        emulator.terminate()
        emulator.wait()


if __name__ == "__main__":
    main()
