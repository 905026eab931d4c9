"""Exports to S3 in several parts and imports it again; imports an export made by DynamoDB too. It uses an emulator of AWS.

    python tests/moving/s3.py KINTO_SERVERLESS KINTO_LOCAL
"""

import base64
import gzip
import hashlib
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


def as_dynamodb_exports(dynamodb, s3, export):
    """The files that `ExportTableToPointInTime` writes. No emulator makes them.

    Names and fields are those of AWS's page "DynamoDB table export output format"
    (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html), where the documented `md5Checksum` and `etag` of a
    file show that the former is the MD5 of the stored object: an object of one part has the MD5 of its MD5 as its `ETag`. Files
    `.md5`, which that page calls `.checksum`, and files of partitions without items follow others' descriptions of AWS's exports.
    """
    prefix = f"kinto/AWSDynamoDB/{export}"
    pages = dynamodb.get_paginator("scan").paginate(TableName="kinto")
    items = [item for page in pages for item in page["Items"]]
    items.reverse()
    binary = lambda value: base64.b64encode(value).decode()  # noqa: E731
    files = []
    for number in range(5):
        some = items[number::3] if number < 3 else []
        lines = ["".join(json.dumps({"Item": item}, default=binary) + "\n" for item in half) for half in (some[:7], some[7:])]
        # gzip files of several members, of none, and an empty file.
        body = b"".join(gzip.compress(half.encode()) for half in lines) if number < 4 else b""
        key = f"{prefix}/data/{number}bafybeiczss3yxay3o4abn.json.gz"
        s3.put_object(Bucket="backups", Key=key, Body=body)
        md5 = hashlib.md5(body).digest()
        file = {"itemCount": len(some), "md5Checksum": base64.b64encode(md5).decode(), "etag": f"{hashlib.md5(md5).hexdigest()}-1", "dataFileS3Key": key}
        files.append(json.dumps(file) + "\n")
    summary = {
        "version": "2023-08-01", "exportArn": f"arn:aws:dynamodb:us-east-1:123456789012:table/kinto/export/{export}",
        "startTime": "2026-11-04T07:28:34.028Z", "endTime": "2026-11-04T07:33:43.897Z", "exportTime": "2026-11-04T07:28:34.028Z",
        "tableArn": "arn:aws:dynamodb:us-east-1:123456789012:table/kinto", "tableId": "12345a12-abcd-123a-ab12-1234abc12345",
        "s3Bucket": "backups", "s3Prefix": "kinto", "s3SseAlgorithm": "AES256", "s3SseKmsKeyId": None,
        "manifestFilesS3Key": f"{prefix}/manifest-files.json", "billedSizeBytes": 0, "itemCount": len(items),
        "outputFormat": "DYNAMODB_JSON", "exportType": "FULL_EXPORT",
    }
    s3.put_object(Bucket="backups", Key=f"{prefix}/_started", Body=b"")
    for name, text in (("files", "".join(files)), ("summary", json.dumps(summary))):
        s3.put_object(Bucket="backups", Key=f"{prefix}/manifest-{name}.json", Body=text)
        s3.put_object(Bucket="backups", Key=f"{prefix}/manifest-{name}.md5", Body=base64.b64encode(hashlib.md5(text.encode()).digest()))
    return summary, files


def check_dynamodb_export(program, directory, s3, endpoint):
    dynamodb = boto3.client("dynamodb", endpoint_url=endpoint, region_name="us-east-1")
    create_table(dynamodb)
    source = f"{directory}/few.ndjson"
    write(source, 60, 300)
    run(program, "import", source, "--table", "kinto")
    run(program, "verify", source, "--table", "kinto")
    export = "01700000000000-a1b2c3d4"
    prefix = f"kinto/AWSDynamoDB/{export}"
    summary, files = as_dynamodb_exports(dynamodb, s3, export)
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
    # Incomplete, missing, of another format.
    def refused(*expected):
        command = [program, "import", "--from-dynamodb-export", f"s3://backups/{prefix}", *data]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and all(text in done.stderr for text in expected), done

    def put(name, body):
        s3.put_object(Bucket="backups", Key=f"{prefix}/{name}", Body=body)

    for changed, *expected in (
        ({"itemCount": summary["itemCount"] + 1}, "items, but the manifest says"), ({"outputFormat": "ION"}, "ION"), ({"itemCount": "x"}, "manifest-summary"),
        ({"exportType": "INCREMENTAL_EXPORT", "outputView": "NEW_AND_OLD_IMAGES", "exportFromTime": "2026-11-04T07:28:34.028Z"}, "INCREMENTAL_EXPORT", "FULL_EXPORT"),
    ):
        put("manifest-summary.json", json.dumps({**summary, **changed}))
        refused(*expected)
    # As before incremental exports existed.
    put("manifest-summary.json", json.dumps({name: value for name, value in summary.items() if name != "exportType"} | {"version": "2020-06-30"}))
    run(program, "verify", "--from-dynamodb-export", f"s3://backups/{prefix}", *data)
    first = json.loads(files[0])
    for changed, expected in (({"md5Checksum": "sQMSpEILNgoQmarvDFonGQ=="}, "MD5"), ({"itemCount": 1}, "items, but the manifest says 1")):
        put("manifest-files.json", json.dumps({**first, **changed}) + "\n" + "".join(files[1:]))
        refused(expected)
    put("manifest-files.json", "".join(files[1:]))
    refused("items, but the manifest says")
    body = gzip.compress(b'{"Item": {"pk": 1}}')
    file = {**first, "itemCount": 1, "md5Checksum": base64.b64encode(hashlib.md5(body).digest()).decode()}
    put(first["dataFileS3Key"].removeprefix(f"{prefix}/"), body)
    put("manifest-files.json", json.dumps(file) + "\n")
    refused()
    s3.delete_object(Bucket="backups", Key=f"{prefix}/manifest-summary.json")
    refused()
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
