"""Rings each alarm of a deployed stack, by values of its metric under AWS's documented name, and prints which alarms rang.

    python tests/e2e/alarms.py STACK

metrics.py has their metrics.
"""

import datetime
import json
import sys

import boto3
from metrics import metrics, values_of_five_minutes

STACK = sys.argv[1]
METRICS = metrics(STACK)

cloudwatch = boto3.client("cloudwatch")
pages = boto3.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=STACK)
resources = {
    resource["LogicalResourceId"]: resource["PhysicalResourceId"]
    for page in pages
    for resource in page["StackResourceSummaries"]
}


def name_of(logical_id):
    """The name in metrics: for a queue the end of its URL."""
    return resources[logical_id].rsplit("/", 1)[-1]


def publish(values_at):
    """One value a minute, for the last five."""
    now = datetime.datetime.now(datetime.timezone.utc)
    for namespace, metric, dimension, resource, *values in METRICS.values():
        if dimension and resource not in resources:
            continue
        dimensions = [{"Name": dimension, "Value": name_of(resource)}] if dimension else []
        data = values_of_five_minutes(values[values_at], now)
        data = [{"MetricName": metric, "Dimensions": dimensions, **one} for one in data]
        cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)


def alarms():
    pages = cloudwatch.get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm"])
    by_name = {alarm["AlarmName"]: alarm for page in pages for alarm in page["MetricAlarms"]}
    ids = [logical_id for logical_id in resources if logical_id.endswith("Alarm")]
    return {logical_id: by_name[resources[logical_id]] for logical_id in ids}


def ringing():
    return sorted(logical_id for logical_id, alarm in alarms().items() if alarm["StateValue"] == "ALARM")


there = sorted(alarms())
# In the emulator the values of any resource ring the alarm.
for logical_id, alarm in alarms().items():
    namespace, metric, dimension, resource, *_ = METRICS[logical_id]
    dimensions = [{"Name": dimension, "Value": name_of(resource)}] if dimension else []
    watched = (alarm["Namespace"], alarm["MetricName"], alarm.get("Dimensions", []))
    assert watched == (namespace, metric, dimensions), (logical_id, watched)
publish(1)
quiet = ringing()
publish(0)
print(json.dumps({"there": there, "rung_without_cause": quiet, "rung": ringing()}))
