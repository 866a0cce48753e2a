"""Takes JSON on stdin, gives JSON on stdout; what goes wrong is said on stderr, with exit code 2."""

import json
import statistics
import sys

try:
    numbers = json.load(sys.stdin)["numbers"]
    answer = {"schema": 1, "count": len(numbers), "mean": statistics.fmean(numbers), "largest": max(numbers)}
except (ValueError, KeyError, TypeError) as error:
    print(f'expected {{"numbers": [1, 2, 3]}}: {error!r}', file=sys.stderr)
    sys.exit(2)
print(f"{len(numbers)} numbers", file=sys.stderr)  # a log
print(json.dumps(answer))  # the result
