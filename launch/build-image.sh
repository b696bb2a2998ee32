#!/usr/bin/env bash
# Builds the service's container image.
#   launch/build-image.sh TAG [BASE [PYTHON_VERSION]]     e.g. launch/build-image.sh registry.example/sandbox:1
# PYTHON_VERSION is that of BASE. Needs python3 with pip and a container engine (DOCKER names its client).
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:?usage: launch/build-image.sh TAG [BASE [PYTHON_VERSION]]}
base=${2:-docker.io/library/python:3.12-bookworm} version=${3:-3.12}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
launch/wheels.sh "$context/wheels" "$version"
cp launch/Dockerfile "$context/"
"${DOCKER:-docker}" build --build-arg "BASE=$base" --tag "$tag" "$context"
