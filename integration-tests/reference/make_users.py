"""Make an IAM user for each policy document given as an argument, who holds exactly that policy.

The AWS endpoint and the credentials of the caller come from the environment. Prints the new
users' keys as one JSON list, in the order of the arguments.
"""

import json
import sys

import boto3


def main():
    iam = boto3.client("iam")
    keys = []
    for number, policy in enumerate(sys.argv[1:]):
        name = f"millrace-test-{number}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="test", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys.append({"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]})
    json.dump(keys, sys.stdout)


if __name__ == "__main__":
    main()
