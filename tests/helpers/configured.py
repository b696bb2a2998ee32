"""Configs of the tests."""

from ml_collections import ConfigDict

from configs import eval as eval_config
from configs import tiny


def changed(config: ConfigDict, **values) -> ConfigDict:
    """The config with some fields replaced; section__key=value."""
    for name, value in values.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    return config


def smoke(**values) -> ConfigDict:
    """The small training run's."""
    return changed(tiny.get_config("smoke"), **values)


def evaluation(arg: str = "suite=all,tiny", **values) -> ConfigDict:
    return changed(eval_config.get_config(arg), **values)
