"""The metric of each alarm of a stack.

The metrics, their namespaces and dimensions are repeated here from AWS's pages, so that an alarm on a metric that
nobody publishes does not ring:

    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/metrics-dimensions.html
    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-monitoring.html
    https://docs.aws.amazon.com/lambda/latest/dg/urls-monitoring.html
    https://docs.aws.amazon.com/scheduler/latest/UserGuide/monitoring-cloudwatch.html
"""

import datetime

# Alarm: namespace, metric, dimension with the resource that it names, a value that rings, one that does not.
LAMBDA, SQS, DYNAMODB, OURS, EVENTS = "AWS/Lambda", "AWS/SQS", "AWS/DynamoDB", "kinto-serverless", "AWS/Events"
DEAD, AGE = "ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"


def metrics(stack):
    return {
        "ChangesLateAlarm": (LAMBDA, "IteratorAge", "FunctionName", "ChangesAggregator", 300_001, 299_000),
        "OutboxLateAlarm": (LAMBDA, "IteratorAge", "FunctionName", "Notifier", 300_001, 299_000),
        "ChangesLostAlarm": (SQS, DEAD, "QueueName", "ChangesDeadLetterQueue", 1, 0),
        "BroadcastsLostAlarm": (SQS, DEAD, "QueueName", "BroadcastDeadLetterQueue", 1, 0),
        "OutboxLostAlarm": (SQS, DEAD, "QueueName", "OutboxDeadLetterQueue", 1, 0),
        "NotificationsLostAlarm": (SQS, DEAD, "QueueName", "NotificationDeadLetterQueue", 1, 0),
        "ResourceChangedLostAlarm": (SQS, DEAD, "QueueName", "ResourceChangedDeadLetterQueue", 1, 0),
        "BroadcastsLateAlarm": (OURS, "DueAge", "FunctionName", "Broadcaster", 901, 899),
        "NotificationsLateAlarm": (OURS, "DueAge", "FunctionName", "Notifier", 901, 899),
        # On AWS missing data ring these, but the emulator does not know missing data. A value stands for it that AWS never publishes.
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
        "FunctionUrlErrorsAlarm": (LAMBDA, "Url5xxCount", "FunctionName", "Api", 1, 0),
        "ExportsFailedAlarm": ("AWS/Scheduler", "InvocationDroppedCount", "ScheduleGroup", "ExportGroup", 1, 0),
        "GatewayErrorsAlarm": ("AWS/ApiGateway", "5xx", "ApiId", "HttpApi", 1, 0),
        "TableReadsThrottledAlarm": (DYNAMODB, "ReadThrottleEvents", "TableName", "Table", 1, 0),
        "TableWritesThrottledAlarm": (DYNAMODB, "WriteThrottleEvents", "TableName", "Table", 1, 0),
        # Metrics that filters make from log lines have no dimension.
        "FailedRequestsAlarm": (stack, "FailedRequests", None, None, 1, 0),
        "PartitionNearlyFullAlarm": (stack, "PartitionNearlyFull", None, None, 1, 0),
        "SettingsLostAlarm": (stack, "SettingsLost", None, None, 1, 0),
        "PartitionFullAlarm": (stack, "PartitionFull", None, None, 1, 0),
        "SignaturesAlarm": (stack, "Signatures", None, None, 1, 0),
        "NotUnderstoodAlarm": (stack, "NotUnderstood", None, None, 1, 0),
    }


def values_of_five_minutes(value, now):
    """One value a minute."""
    minutes = [now - datetime.timedelta(minutes=minute) for minute in range(5)]
    return [{"Timestamp": minute, "Value": value} for minute in minutes]
