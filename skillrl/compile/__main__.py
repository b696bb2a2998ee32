r"""Compiles a config's train step and sampler step for TPUs that are not there, and says what they need.

    python -m skillrl.compile --config=configs/joint.py:model=qwen3-8b --topology=v5p:4x4x4 [--slices=2]
        [--programs=learner.gradient,learner.apply] [--config.learner.micro_rows=32 ...]
    python -m skillrl.compile --table=configs/joint.py      # every model there, as the README has it

Nothing runs: the figures are the compiler's (memory, collectives), counted (FLOPs), or follow from published peaks
(bounds). Exit status 1 where a program does not fit. The last line is one JSON object with all figures.
"""

import json
import os
import sys
from pathlib import Path

# The compiler for TPUs beside a CPU as JAX's own device; several such processes may run at the same time.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
# libtpu asks a machine's metadata for these and complains at length where there are none.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

from absl import app, flags  # noqa: E402

from skillrl import main as run  # noqa: E402

_TOPOLOGY = flags.DEFINE_string("topology", None, "Slice to compile for, e.g. v5p:4x4x4 (sizes in chips).")
_SLICES = flags.DEFINE_integer("slices", 1, "Number of such slices.")
_PROGRAMS = flags.DEFINE_list("programs", [], "Names of programs; all where empty.")
_TABLE = flags.DEFINE_string("table", None, "Config file whose models are all compiled, for the README.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}; write --flag=value")
    from skillrl.compile import session, table

    try:
        if _TABLE.value:
            results = table.print_table(Path(_TABLE.value))
            print(json.dumps({"configs": results}))
            sys.exit(0 if all(result["fits"] for result in results) else 1)
        result = session.compile_config(flags.FLAGS.config, _TOPOLOGY.value, _SLICES.value, _PROGRAMS.value)
    except (ValueError, OSError) as e:
        if flags.FLAGS.debug:
            raise
        sys.exit(f"error: {e}")
    print(json.dumps(result))
    sys.exit(0 if result["fits"] else 1)


def parse(argv: list[str]) -> list[str]:
    """As skillrl.main does; a table takes no config of its own."""
    if any(a.startswith("--table") for a in argv):
        return flags.FLAGS(argv)
    return run.parse(argv)


if __name__ == "__main__":
    flags.mark_flags_as_mutual_exclusive(["config", "table"], required=True)
    app.run(main, flags_parser=parse)
