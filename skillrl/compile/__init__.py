"""Compiles a config's programs for TPUs on a machine without any. See __main__.py for the command."""
