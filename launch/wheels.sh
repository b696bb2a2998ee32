#!/usr/bin/env bash
# Collects the wheels of the service and of all that it needs, and pip's own, for a machine without network.
#   launch/wheels.sh DIRECTORY PYTHON_VERSION     e.g. launch/wheels.sh wheels 3.11
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?usage: launch/wheels.sh DIRECTORY PYTHON_VERSION} version=${2:?usage: launch/wheels.sh DIRECTORY PYTHON_VERSION}
python=${PYTHON:-python3}
mkdir -p "$target"
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
# From a copy: a build leaves folders in its source.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cp -r setup.py pyproject.toml README.md LICENSE sandbox_service skillrl "$source/"
pip wheel --no-deps --wheel-dir "$target" "$source"
machine=$(uname -m)
pip download --only-binary=:all: --dest "$target" --python-version "$version" \
  --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
  --find-links "$target" pip "$(echo "$target"/skillrl-*.whl)[docker,metrics]"
