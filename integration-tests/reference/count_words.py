"""Count the words of all lines of the files named on the command line; print one JSON object.

A word is what stands between two single spaces of a line; a line ends with LF or CR LF, the last
one may end without. This is the reference for Millrace's word count, so it shares nothing with it.
"""

import collections
import json
import sys


def main():
    counts = collections.Counter()
    for path in sys.argv[1:]:
        with open(path, "rb") as file:
            for line in file.read().split(b"\n"):
                if line:
                    counts.update(line.removesuffix(b"\r").decode("utf-8").split(" "))
    json.dump(counts, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
