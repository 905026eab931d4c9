"""Errors in AWS's form."""

PREFIX = "com.amazonaws.dynamodb.v20120810#"


class AwsError(Exception):
    def __init__(self, code, message, status=400, **more):
        super().__init__(code, message)
        self.code, self.message, self.status, self.more = code, message, status, more

    def body(self, prefix=PREFIX):
        return {"__type": prefix + self.code, "message": self.message, "Message": self.message, **self.more}


THROTTLED = AwsError("ProvisionedThroughputExceededException", "The level of configured provisioned throughput for the table was exceeded")
