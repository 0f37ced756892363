"""Reads and writes the emulator with boto3 as it is: python boto3_roundtrip.py ENDPOINT."""

import io
import sys
import time

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20


def client(service, endpoint):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 0}),
    )


def expect_error(code, call):
    try:
        call()
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return
    raise AssertionError(f"{code} was expected")


def kinesis(endpoint):
    k = client("kinesis", endpoint)
    k.create_stream(StreamName="py", ShardCount=2)
    k.get_waiter("stream_exists").wait(StreamName="py", WaiterConfig={"Delay": 1})
    records = [{"Data": b"\x00data-%d" % n, "PartitionKey": f"ключ {n}"} for n in range(200)]
    answer = k.put_records(StreamName="py", Records=records)
    assert answer["FailedRecordCount"] == 0, answer
    read = {}
    shards = [s["ShardId"] for p in k.get_paginator("list_shards").paginate(StreamName="py") for s in p["Shards"]]
    assert len(shards) == 2, shards
    for shard in shards:
        iterator = k.get_shard_iterator(
            StreamName="py", ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        page = k.get_records(ShardIterator=iterator)
        assert "date" in page["ResponseMetadata"]["HTTPHeaders"]
        assert page["MillisBehindLatest"] == 0
        for record in page["Records"]:
            age = time.time() - record["ApproximateArrivalTimestamp"].timestamp()
            assert -5 < age < 60, age
            read[record["PartitionKey"]] = record["Data"]
    assert read == {r["PartitionKey"]: r["Data"] for r in records}
    expect_error("ResourceInUseException", lambda: k.create_stream(StreamName="py", ShardCount=1))
    expect_error("ResourceNotFoundException", lambda: k.describe_stream(StreamName="none"))


def dynamodb(endpoint):
    d = client("dynamodb", endpoint)
    d.create_table(
        TableName="python",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    d.get_waiter("table_exists").wait(TableName="python", WaiterConfig={"Delay": 1})
    d.put_item(TableName="python", Item={"pk": {"S": "a"}, "b": {"B": b"\x00\xff"}, "n": {"N": "12"}})
    item = d.get_item(TableName="python", Key={"pk": {"S": "a"}}, ConsistentRead=True)["Item"]
    assert item == {"pk": {"S": "a"}, "b": {"B": b"\x00\xff"}, "n": {"N": "12"}}, item
    expect_error(
        "ConditionalCheckFailedException",
        lambda: d.put_item(
            TableName="python", Item={"pk": {"S": "a"}}, ConditionExpression="attribute_not_exists(pk)"
        ),
    )


def s3(endpoint):
    s = client("s3", endpoint)
    s.create_bucket(Bucket="py-bucket")
    s.put_object(Bucket="py-bucket", Key="dir/a b+ü", Body=b"0123456789", Metadata={"token": "7"})
    got = s.get_object(Bucket="py-bucket", Key="dir/a b+ü", Range="bytes=3-5")
    assert got["Body"].read() == b"345" and got["Metadata"] == {"token": "7"}, got
    listed = s.list_objects_v2(Bucket="py-bucket", Prefix="dir/")
    assert [o["Key"] for o in listed["Contents"]] == ["dir/a b+ü"], listed
    content = bytes(n % 251 for n in range(11 * MIB))
    parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s.upload_fileobj(io.BytesIO(content), "py-bucket", "big", Config=parts)
    fetched = io.BytesIO()
    s.download_fileobj("py-bucket", "big", fetched, Config=parts)
    assert fetched.getvalue() == content
    assert s.head_object(Bucket="py-bucket", Key="big")["ETag"].endswith('-3"')
    expect_error("NoSuchKey", lambda: s.get_object(Bucket="py-bucket", Key="none"))
    expect_error("BucketNotEmpty", lambda: s.delete_bucket(Bucket="py-bucket"))
    presigned = s.generate_presigned_url("get_object", {"Bucket": "py-bucket", "Key": "dir/a b+ü"})
    import urllib.request

    with urllib.request.urlopen(presigned) as answer:
        assert answer.read() == b"0123456789"


if __name__ == "__main__":
    for part in (kinesis, dynamodb, s3):
        part(sys.argv[1])
        print(part.__name__, "ok")
