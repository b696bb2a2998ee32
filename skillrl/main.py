"""Flags: python -m skillrl.main --config=configs/NAME.py[:argument] [--workdir=DIR] [--config.field=value ...]"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/tiny.py", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, by default runs/NAME of the config; the same folder goes on where it stopped."
)
_DEBUG = flags.DEFINE_bool("debug", False, "Log everything, and show the stack of an error.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}; write --flag=value")
    from sandbox_service.client import SandboxError
    from skillrl import limits

    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem
    folder = _WORKDIR.value or f"runs/{name}"
    if "://" in folder:
        sys.exit(
            f"error: --workdir={folder} is no folder of this machine; mount the bucket (gcsfuse, s3fs) and "
            "give the path where it is mounted"
        )
    logging.set_verbosity(logging.DEBUG if _DEBUG.value else logging.WARNING)
    config, workdir = _CONFIG.value, Path(folder).resolve()
    try:
        if config.program == "rl":
            from skillrl import train as program
        elif config.program == "sft":
            from skillrl import sft as program
        elif config.program == "exam":
            from skillrl import exam as program
        else:
            raise limits.ConfigError(f"program={config.program!r}; one of rl, sft, exam")
        limits.check(config)
        workdir.mkdir(parents=True, exist_ok=True)
        program.run(config, workdir)
    except (SandboxError, ValueError, OSError, RuntimeError) as e:
        if _DEBUG.value:
            raise
        sys.exit(f"error: {e}")


def parse(argv: list[str]) -> list[str]:
    """absl's parsing, with one clear line about a config that cannot be had."""
    try:
        rest = flags.FLAGS(argv)
        _ = _CONFIG.value.program  # a file that could not be loaded says so now
        return rest
    except (flags.Error, AttributeError, KeyError, OSError) as e:
        if "--debug" in argv:
            raise
        sys.exit(f"error: {_explained(e, argv)}")


def _explained(error: Exception, argv: list[str]) -> str:
    text = error
    while isinstance(text, AttributeError | KeyError):
        text = text.args[0]
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if not isinstance(error, AttributeError | KeyError):
        # A config file's own error comes with its stack; the error is the last line.
        return lines[-1].removeprefix("ValueError: ")
    key = lines[0].strip("'\"")
    given = next((a for a in argv if key in a.partition("=")[0].split(".")), " ".join(argv[1:]))
    hint = lines[1] if len(lines) > 1 else "the keys and their meaning stand in configs/common.py"
    return f"unknown config key in {given}; {hint}"


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=parse)
