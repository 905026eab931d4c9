"""Restores a table into another by the steps of docs/operations.md, and prints the ARN of its stream.

    python tests/e2e/restore.py TABLE RESTORED
"""

import sys

import boto3

table, restored = sys.argv[1:]
dynamodb = boto3.client("dynamodb")
dynamodb.restore_table_to_point_in_time(SourceTableName=table, TargetTableName=restored, UseLatestRestorableTime=True)
dynamodb.get_waiter("table_exists").wait(TableName=restored, WaiterConfig={"Delay": 1})
stream = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
dynamodb.update_table(TableName=restored, StreamSpecification=stream, DeletionProtectionEnabled=True)
dynamodb.get_waiter("table_exists").wait(TableName=restored, WaiterConfig={"Delay": 1})
dynamodb.update_time_to_live(
    TableName=restored, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"}
)
dynamodb.update_continuous_backups(
    TableName=restored, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
)
print(dynamodb.describe_table(TableName=restored)["Table"]["LatestStreamArn"])
