"""Make an IAM user who holds exactly the policy document given as the first argument.

The AWS endpoint and the credentials of the caller come from the environment. Prints the new
user's keys as one JSON object.
"""

import json
import sys

import boto3


def main():
    iam = boto3.client("iam")
    iam.create_user(UserName="millrace-test")
    iam.put_user_policy(UserName="millrace-test", PolicyName="test", PolicyDocument=sys.argv[1])
    key = iam.create_access_key(UserName="millrace-test")["AccessKey"]
    keys = {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}
    json.dump(keys, sys.stdout)


if __name__ == "__main__":
    main()
