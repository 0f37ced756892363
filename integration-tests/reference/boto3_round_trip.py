"""Write and read Kinesis, DynamoDB and S3 through boto3; the endpoint comes from the environment.

Every answer is checked here; the one line printed at the end means that all were right.
"""

import time

import boto3
from botocore.exceptions import ClientError


def refusal(call, **arguments):
    """The error code with which a call is refused."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    raise AssertionError(f"{call} was not refused")


def kinesis():
    client = boto3.client("kinesis")
    client.create_stream(StreamName="boto3", ShardCount=2)
    client.get_waiter("stream_exists").wait(StreamName="boto3", WaiterConfig={"Delay": 1})
    data = [f"record {i} \u00fc".encode() for i in range(200)]
    answer = client.put_records(
        StreamName="boto3",
        Records=[{"Data": each, "PartitionKey": str(i)} for i, each in enumerate(data)],
    )
    assert answer["FailedRecordCount"] == 0, answer

    found = []
    shards = client.list_shards(StreamName="boto3")["Shards"]
    assert len(shards) == 2, shards
    for shard in shards:
        iterator = client.get_shard_iterator(
            StreamName="boto3", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        numbers = []
        for _ in range(50):
            page = client.get_records(ShardIterator=iterator, Limit=30)
            found += [record["Data"] for record in page["Records"]]
            numbers += [int(record["SequenceNumber"]) for record in page["Records"]]
            iterator = page["NextShardIterator"]
            if page["MillisBehindLatest"] == 0 and not page["Records"]:
                break
            time.sleep(0.25)  # five reads a second and shard are allowed
        assert numbers == sorted(set(numbers)), "sequence numbers rise"
    assert sorted(found) == sorted(data)
    missing = refusal(client.describe_stream_summary, StreamName="absent")
    assert missing == "ResourceNotFoundException", missing


def dynamodb():
    client = boto3.client("dynamodb")
    client.create_table(
        TableName="boto3",
        KeySchema=[
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    client.get_waiter("table_exists").wait(TableName="boto3", WaiterConfig={"Delay": 1})
    key = {"pk": {"S": "application#a"}, "sk": {"S": "head"}}
    client.put_item(TableName="boto3", Item=key | {"batch": {"N": "1"}, "blob": {"B": b"\x00\xff"}})
    step = {
        "TableName": "boto3",
        "Key": key,
        "UpdateExpression": "SET #b = :next",
        "ConditionExpression": "#b = :seen",
        "ExpressionAttributeNames": {"#b": "batch"},
        "ExpressionAttributeValues": {":seen": {"N": "1"}, ":next": {"N": "2"}},
    }
    client.update_item(**step)
    assert refusal(client.update_item, **step) == "ConditionalCheckFailedException"
    item = client.get_item(TableName="boto3", Key=key, ConsistentRead=True)["Item"]
    assert item == key | {"batch": {"N": "2"}, "blob": {"B": b"\x00\xff"}}, item
    found = client.query(
        TableName="boto3",
        KeyConditionExpression="pk = :pk AND begins_with(sk, :h)",
        ExpressionAttributeValues={":pk": key["pk"], ":h": {"S": "he"}},
    )
    assert found["Count"] == 1, found


def s3():
    client = boto3.client("s3")
    client.create_bucket(Bucket="boto3-bucket")
    client.put_object(Bucket="boto3-bucket", Key="a/b c", Body=b"hello")
    ranged = client.get_object(Bucket="boto3-bucket", Key="a/b c", Range="bytes=1-3")
    assert ranged["Body"].read() == b"ell"

    upload = client.create_multipart_upload(Bucket="boto3-bucket", Key="large")["UploadId"]
    parts = []
    for number, body in [(1, b"x" * (5 << 20)), (2, b"y")]:
        part = client.upload_part(
            Bucket="boto3-bucket", Key="large", UploadId=upload, PartNumber=number, Body=body
        )
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    assert refusal(client.head_object, Bucket="boto3-bucket", Key="large") == "404"
    client.complete_multipart_upload(
        Bucket="boto3-bucket", Key="large", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert client.head_object(Bucket="boto3-bucket", Key="large")["ContentLength"] == (5 << 20) + 1
    listed = client.list_objects_v2(Bucket="boto3-bucket")["Contents"]
    assert [each["Key"] for each in listed] == ["a/b c", "large"], listed


def main():
    kinesis()
    dynamodb()
    s3()
    print("kinesis, dynamodb, s3: as written")


if __name__ == "__main__":
    main()
