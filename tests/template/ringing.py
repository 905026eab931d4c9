"""Rings each alarm of a template in the emulator, by values of its metric under AWS's documented name.

It deploys no stack. It only creates the alarms, with the names of the resources as dimensions. tests/e2e rings the alarms of a
deployed stack; this rings those that such a stack does not have.
"""

import contextlib
import datetime
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "e2e"))

from metrics import metrics, values_of_five_minutes  # noqa: E402

STACK = "kinto"


@contextlib.contextmanager
def emulator():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"}
    program = Path(sys.executable).with_name("ministack")
    process = subprocess.Popen([program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        url = f"http://127.0.0.1:{port}"
        yield boto3.client("cloudwatch", endpoint_url=url, region_name="us-east-1", **keys)
    finally:
        process.terminate()
        process.wait()


def name_of(part):
    """The logical id of a resource, or the text."""
    if not isinstance(part, dict):
        return part
    name = part.get("Ref") or part["Fn::GetAtt"][0]
    return STACK if name == "AWS::StackName" else name


def rung(resources):
    """Three sets of alarms: those that ring by a harmless value, those that ring by a harmful one, and all."""
    alarms = {name: part["Properties"] for name, part in resources.items() if part["Type"] == "AWS::CloudWatch::Alarm"}
    with emulator() as cloudwatch:
        for name, alarm in alarms.items():
            kept = {key: alarm[key] for key in alarm if key not in ("AlarmActions", "OKActions", "Dimensions", "Namespace")}
            dimensions = [{"Name": one["Name"], "Value": name_of(one["Value"])} for one in alarm.get("Dimensions", [])]
            namespace = name_of(alarm["Namespace"])
            cloudwatch.put_metric_alarm(AlarmName=name, Dimensions=dimensions, Namespace=namespace, **kept)
        found = []
        for at in (1, 0):
            now = datetime.datetime.now(datetime.timezone.utc)
            for name in alarms:
                namespace, metric, dimension, resource, *values = metrics(STACK)[name]
                dimensions = [{"Name": dimension, "Value": resource}] if dimension else []
                data = values_of_five_minutes(values[at], now)
                data = [{"MetricName": metric, "Dimensions": dimensions, **one} for one in data]
                cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)
            pages = cloudwatch.get_paginator("describe_alarms").paginate()
            states = [alarm for page in pages for alarm in page["MetricAlarms"]]
            found.append(sorted(alarm["AlarmName"] for alarm in states if alarm["StateValue"] == "ALARM"))
    return (*found, sorted(alarms))
