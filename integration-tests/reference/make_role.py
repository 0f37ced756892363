"""Make an IAM role with the first policy document, which trusts a user with the second.

The AWS endpoint and the credentials of the caller come from the environment. Prints the role's ARN
and the user's keys as one JSON object.
"""

import json
import sys

import boto3


def document(principal=None, **statement):
    statement["Effect"] = "Allow"
    if principal:
        statement["Principal"] = {"AWS": principal}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def main():
    of_role, of_user = sys.argv[1:]
    iam = boto3.client("iam")
    user = iam.create_user(UserName="millrace-caller")["User"]["Arn"]
    trust = document(principal=user, Action="sts:AssumeRole")
    role = iam.create_role(RoleName="millrace-reader", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName="millrace-reader", PolicyName="test", PolicyDocument=of_role)
    iam.put_user_policy(UserName="millrace-caller", PolicyName="test", PolicyDocument=of_user)
    key = iam.create_access_key(UserName="millrace-caller")["AccessKey"]
    made = {"role_arn": role, "access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main()
