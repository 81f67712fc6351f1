#!/usr/bin/env bash
# Sets up what is missing (scripts/setup.sh) and runs the tests against the installed package. Arguments go to pytest:
#
#   bash scripts/test.sh                       everything
#   bash scripts/test.sh -k launch -x          what matches, up to the first failure
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

bash scripts/setup.sh
# `pytest`, not `python -m pytest`: the checkout stays off the import path, so what is tested is what users get.
exec "$VENV/bin/pytest" "$@"
