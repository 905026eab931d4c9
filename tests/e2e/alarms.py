"""Rings each alarm of a deployed stack, by values of its metric as AWS documents it, and tells which alarms did.

    python tests/e2e/alarms.py STACK

The metrics, their namespaces and dimensions are said here once more, from AWS's pages, so that an alarm that watches what
nobody publishes stays quiet:

    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/metrics-dimensions.html
    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-monitoring.html
"""

import datetime
import json
import sys

import boto3

STACK = sys.argv[1]

# Alarm: namespace, metric, dimension with the resource that it names, a value that rings, one that does not.
LAMBDA, SQS, DYNAMODB, OURS, EVENTS = "AWS/Lambda", "AWS/SQS", "AWS/DynamoDB", "kinto-serverless", "AWS/Events"
DEAD, AGE = "ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"
METRICS = {
    "ChangesLateAlarm": (LAMBDA, "IteratorAge", "FunctionName", "ChangesAggregator", 300_001, 299_000),
    "OutboxLateAlarm": (LAMBDA, "IteratorAge", "FunctionName", "Notifier", 300_001, 299_000),
    "ChangesLostAlarm": (SQS, DEAD, "QueueName", "ChangesDeadLetterQueue", 1, 0),
    "BroadcastsLostAlarm": (SQS, DEAD, "QueueName", "BroadcastDeadLetterQueue", 1, 0),
    "OutboxLostAlarm": (SQS, DEAD, "QueueName", "OutboxDeadLetterQueue", 1, 0),
    "NotificationsLostAlarm": (SQS, DEAD, "QueueName", "NotificationDeadLetterQueue", 1, 0),
    "ResourceChangedLostAlarm": (SQS, DEAD, "QueueName", "ResourceChangedDeadLetterQueue", 1, 0),
    "BroadcastsLateAlarm": (OURS, "DueAge", "FunctionName", "Broadcaster", 901, 899),
    "NotificationsLateAlarm": (OURS, "DueAge", "FunctionName", "Notifier", 901, 899),
    # The emulator knows no missing data, by which these ring on AWS: a value stands for it that nobody publishes there.
    "ChangesNotReadAlarm": (LAMBDA, "PolledEventCount", "EventSourceMappingUUID", "ChangesAggregatorStream", -1, 0),
    "OutboxNotReadAlarm": (LAMBDA, "PolledEventCount", "EventSourceMappingUUID", "NotifierStream", -1, 0),
    "SignaturesNotRefreshedAlarm": (EVENTS, "Invocations", "RuleName", "RefreshSignatures", 0, 1),
    "SweepsFailedAlarm": (EVENTS, "FailedInvocations", "RuleName", "SweepSchedule", 1, 0),
    "BroadcastsNotReadAlarm": (SQS, AGE, "QueueName", "BroadcastQueue", 901, 899),
    "NotificationsNotReadAlarm": (SQS, AGE, "QueueName", "NotificationQueue", 901, 899),
    "ResourceChangedLateAlarm": (SQS, AGE, "QueueName", "ResourceChangedQueue", 86401, 899),
    "ApiErrorsAlarm": (LAMBDA, "Errors", "FunctionName", "Api", 1, 0),
    "ChangesAggregatorErrorsAlarm": (LAMBDA, "Errors", "FunctionName", "ChangesAggregator", 1, 0),
    "BroadcasterErrorsAlarm": (LAMBDA, "Errors", "FunctionName", "Broadcaster", 1, 0),
    "NotifierErrorsAlarm": (LAMBDA, "Errors", "FunctionName", "Notifier", 1, 0),
    "ApiThrottledAlarm": (LAMBDA, "Throttles", "FunctionName", "Api", 1, 0),
    "GatewayErrorsAlarm": ("AWS/ApiGateway", "5xx", "ApiId", "HttpApi", 1, 0),
    "TableReadsThrottledAlarm": (DYNAMODB, "ReadThrottleEvents", "TableName", "Table", 1, 0),
    "TableWritesThrottledAlarm": (DYNAMODB, "WriteThrottleEvents", "TableName", "Table", 1, 0),
    # What the metric filters make of log lines has no dimension.
    "FailedRequestsAlarm": (STACK, "FailedRequests", None, None, 1, 0),
    "PartitionNearlyFullAlarm": (STACK, "PartitionNearlyFull", None, None, 1, 0),
    "SettingsLostAlarm": (STACK, "SettingsLost", None, None, 1, 0),
    "PartitionFullAlarm": (STACK, "PartitionFull", None, None, 1, 0),
    "SignaturesAlarm": (STACK, "Signatures", None, None, 1, 0),
    "NotUnderstoodAlarm": (STACK, "NotUnderstood", None, None, 1, 0),
}

cloudwatch = boto3.client("cloudwatch")
pages = boto3.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=STACK)
resources = {
    resource["LogicalResourceId"]: resource["PhysicalResourceId"]
    for page in pages
    for resource in page["StackResourceSummaries"]
}


def name_of(logical_id):
    """As metrics name it: a queue by the end of its URL."""
    return resources[logical_id].rsplit("/", 1)[-1]


def publish(values_at):
    """One value a minute, for the last five."""
    now = datetime.datetime.now(datetime.timezone.utc)
    for namespace, metric, dimension, resource, *values in METRICS.values():
        if dimension and resource not in resources:
            continue
        dimensions = [{"Name": dimension, "Value": name_of(resource)}] if dimension else []
        data = [
            {
                "MetricName": metric,
                "Dimensions": dimensions,
                "Timestamp": now - datetime.timedelta(minutes=minute),
                "Value": values[values_at],
            }
            for minute in range(5)
        ]
        cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)


def alarms():
    pages = cloudwatch.get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm"])
    by_name = {alarm["AlarmName"]: alarm for page in pages for alarm in page["MetricAlarms"]}
    ids = [logical_id for logical_id in resources if logical_id.endswith("Alarm")]
    return {logical_id: by_name[resources[logical_id]] for logical_id in ids}


def ringing():
    return sorted(logical_id for logical_id, alarm in alarms().items() if alarm["StateValue"] == "ALARM")


there = sorted(alarms())
# The emulator rings by any resource's values.
for logical_id, alarm in alarms().items():
    namespace, metric, dimension, resource, *_ = METRICS[logical_id]
    dimensions = [{"Name": dimension, "Value": name_of(resource)}] if dimension else []
    watched = (alarm["Namespace"], alarm["MetricName"], alarm.get("Dimensions", []))
    assert watched == (namespace, metric, dimensions), (logical_id, watched)
publish(1)
quiet = ringing()
publish(0)
print(json.dumps({"there": there, "rung_without_cause": quiet, "rung": ringing()}))
