"""Flags: python -m skillrl.main --config=configs/NAME.py[:argument] --workdir=DIR [--config.field=value ...]"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/tiny.py", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same folder goes on where it stopped.")
_DEBUG = flags.DEFINE_bool("debug", False, "Log everything, and show the stack of an error.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; write --flag=value")
    from sandbox_service.client import SandboxError
    from skillrl import setup

    logging.set_verbosity(logging.DEBUG if _DEBUG.value else logging.WARNING)
    config, workdir = _CONFIG.value, Path(_WORKDIR.value).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        if config.program == "rl":
            from skillrl import train as program
        elif config.program == "sft":
            from skillrl import sft as program
        else:
            raise setup.ConfigError(f"program={config.program!r}; one of rl, sft")
        program.run(config, workdir)
    except (SandboxError, ValueError, OSError, RuntimeError) as e:
        if _DEBUG.value:
            raise
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
