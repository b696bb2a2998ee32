"""python -m skillrl.bench NAME [--help]: NAME is one of BENCHMARKS."""

import os
import sys

# On a GPU the two peers share the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from skillrl.bench import learner, mismatch, sampler, scaling  # noqa: E402

BENCHMARKS = {
    "learner": learner.main,
    "sampler": sampler.main,
    "scaling": scaling.main,
    "mismatch": mismatch.main,
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in BENCHMARKS:
        print(f"error: give the name of a benchmark: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    return BENCHMARKS[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
