"""Prints KPL aggregates made by aws-kinesis-agg, an implementation that is not ours.

One JSON object a line: the aggregate in hex, and the user records that went into it as
[partition key, explicit hash key or null, payload in hex]. The same program prints the same lines.
"""

import json
import random

from aws_kinesis_agg.aggregator import RecordAggregator

LARGEST = 2**128 - 1


def cases():
    """Lists of (partition key, explicit hash key or none, payload)."""
    yield [("one", None, b"payload")]
    yield [("a", None, b""), ("a", None, b"\x00\xff"), ("b", None, "läuft ✓".encode())]
    yield [("schlüssel ✓", "0", b"first"), ("k" * 256, str(LARGEST), b"last")]
    yield [("same", str(hash_key), b"x") for hash_key in (1, 2, 1, LARGEST // 2)]
    # An aggregate within an aggregate is a payload like any other.
    yield [("outer", None, aggregate([("inner", None, b"payload")])), ("b", None, b"b")]
    yield [(f"key-{n % 37}", None, f"record {n}".encode()) for n in range(10_000)]
    dice = random.Random(1)
    for _ in range(100):
        count = dice.randint(1, 50)
        yield [
            (
                "".join(dice.choices("abcäöü ", k=dice.randint(1, 9))),
                dice.choice([None, str(dice.randint(0, LARGEST))]),
                dice.randbytes(dice.randint(0, 300)),
            )
            for _ in range(count)
        ]


def aggregate(records):
    """The bytes of one aggregate of these records."""
    aggregator = RecordAggregator()
    for partition_key, hash_key, data in records:
        full = aggregator.add_user_record(partition_key, data, hash_key)
        assert full is None, "the records do not fit in one aggregate"
    return aggregator.clear_and_get().get_contents()[2]


def main():
    for records in cases():
        print(
            json.dumps(
                {
                    "aggregate": aggregate(records).hex(),
                    "records": [[key, hash_key, data.hex()] for key, hash_key, data in records],
                }
            )
        )


if __name__ == "__main__":
    main()
