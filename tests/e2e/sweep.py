"""Makes the stack's sweep schedule fire now, and prints when the item that the run marked will expire.

    python tests/e2e/sweep.py STACK TABLE PK SK

The rule, its target, its permission and its event are the template's. Only the hour is shortened to a minute, which has
passed since the rule was created.
"""

import sys
import time

import boto3

stack, table, pk, sk = sys.argv[1:]
cloudformation, events, dynamodb = (boto3.client(name) for name in ("cloudformation", "events", "dynamodb"))


def expires():
    answer = dynamodb.get_item(TableName=table, Key={"pk": {"S": pk}, "sk": {"S": sk}}, ConsistentRead=True)
    return answer["Item"].get("expires", {}).get("N")


rule = cloudformation.describe_stack_resource(StackName=stack, LogicalResourceId="SweepSchedule")
rule = rule["StackResourceDetail"]["PhysicalResourceId"].rsplit("/", 1)[-1]
assert events.describe_rule(Name=rule)["ScheduleExpression"] == "rate(1 hour)"
assert expires() is None, "nothing is marked before the schedule fires"
events.put_rule(Name=rule, ScheduleExpression="rate(1 minute)")
deadline = time.monotonic() + 150
while (marked := expires()) is None and time.monotonic() < deadline:
    time.sleep(0.5)
events.put_rule(Name=rule, ScheduleExpression="rate(1 hour)")
print(marked or 0)
