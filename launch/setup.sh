#!/usr/bin/env bash
# Sets up a fresh Debian or Ubuntu machine for one make target: system packages, virtual environment, this project.
#   launch/setup.sh VENV EXTRAS [PIP_REQUIREMENT ...]     e.g. launch/setup.sh .venv cpu,dev,hf torch==2.13.0
# Requirements named after the extras are installed before them. Does nothing when the environment is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 extras=$2
shift 2

install() { # install WHAT PACKAGE: through the distribution where permitted
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends "$2" >/dev/null
  else
    echo "setup: $1 is missing and cannot be installed from here; run: sudo apt-get install $2" >&2
    exit 1
  fi
}
want() { # want COMMAND PACKAGE: installs the package when the command is missing
  command -v "$1" >/dev/null || install "'$1'" "$2"
}
suits() { # suits PYTHON: whether it is there and of a version that this project runs on
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
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

make_venv() {
  local python="" candidate name clear=""
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
    if [ -n "$candidate" ] && suits "$candidate"; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    want python3 python3
    python=python3
  fi
  if ! suits "$python"; then
    echo "setup: this needs Python 3.11, 3.12 or 3.13, and '$python' is $("$python" --version 2>&1); run:" \
      "sudo apt-get install python3.11 python3.11-venv, or name another one with PYTHON=/path/to/python" >&2
    exit 1
  fi
  name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip' 2>/dev/null || install "$name's venv module" "$name-venv"
  # Of a python that was too old, or is no longer there.
  if [ -e "$venv/pyvenv.cfg" ]; then clear=--clear; fi
  "$python" -m venv $clear "$venv"
}

stamp="$venv/.ready-$(echo "$extras $* $(cksum <setup.py)" | cksum | cut -d' ' -f1)"
if ! suits "$venv/bin/python"; then
  make_venv
fi
[ -e "$stamp" ] && exit 0
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@" 2> >(grep -v '^WARNING: Location' >&2); }
echo "setup: installing into $venv (a few minutes the first time)"
for requirement in "$@"; do pip install "$requirement"; done
pip install --editable ".[$extras]"
touch "$stamp"
