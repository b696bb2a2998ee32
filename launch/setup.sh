#!/usr/bin/env bash
# Sets up a fresh Debian or Ubuntu machine for one make target: system packages, virtual environment, this project.
#   launch/setup.sh VENV EXTRAS [PIP_REQUIREMENT ...]     e.g. launch/setup.sh .venv cpu,dev,hf torch==2.13.0
# Requirements named after the extras are installed before them. Does nothing when the environment is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=$2
shift 2

want() { # want COMMAND PACKAGE: installs the package when the command is missing
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends "$2" >/dev/null
  else
    echo "setup: '$1' is missing and cannot be installed from here; run: sudo apt-get install $2" >&2
    exit 1
  fi
}
want patch patch # agents apply candidate diffs with it
want git git     # the provenance of checkpoints and exports names the commit
case ",$extras," in *,docker,*)
  # Tests start an engine of their own, for which they must be root; elsewhere they say that they were skipped.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    want dockerd docker.io
    want /usr/bin/python3 python3 # what the tests' image is made of
  fi ;;
esac

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  want python3 python3
  python=python3
fi

stamp="$venv/.ready-$(echo "$extras $* $(cksum <setup.py)" | cksum | cut -d' ' -f1)"
[ -e "$stamp" ] && exit 0
if [ ! -x "$venv/bin/python" ]; then
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ]; then
      apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv >/dev/null
    else
      echo "setup: python's venv module is missing; run: sudo apt-get install python3-venv" >&2
      exit 1
    fi
  fi
  "$python" -m venv "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@" 2> >(grep -v '^WARNING: Location' >&2); }
echo "setup: installing into $venv (a few minutes the first time)"
for requirement in "$@"; do pip install "$requirement"; done
pip install --editable ".[$extras]"
touch "$stamp"
