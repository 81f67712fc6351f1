#!/usr/bin/env bash
# Sets up what is missing (scripts/setup.sh), checks lint and types, and runs the tests against the installed package.
# With arguments, which go to pytest, the tests alone:
#
#   bash scripts/test.sh                       everything
#   bash scripts/test.sh -k launch -x          what matches, up to the first failure
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

bash scripts/setup.sh
if (($# == 0)); then
  "$VENV/bin/ruff" check
  "$VENV/bin/mypy"
fi
# `pytest`, not `python -m pytest`: the checkout stays off the import path, so what is tested is what users get.
exec "$VENV/bin/pytest" "$@"
