#!/usr/bin/env bash
# Measures everything that docs/results.md says of positions, and writes its tables, plots and CSV files. Models are installed
# ones or files; all installed tiers by default. One model with the other codecs takes roughly 15 minutes of CPU, half of them
# for D1 and D2; it runs in as many processes as there are cores, and goes on where it was interrupted.
#
#   bash scripts/results.sh
#   bash scripts/results.sh standard fast my.safetensors
#
# What docs/results/*.csv holds is not measured again: other codecs, D1 and D2, and our models while neither their weights nor
# the codec's code change. --fresh in front of the models measures all of it. A tmc3 (G-PCC) on the PATH joins in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-.venv/bin/python}" # of an environment with the `eval` extra: scripts/setup.sh makes one
SHARED=../shared
resume=(--resume)
if [[ "${1:-}" == --fresh ]]; then
  resume=()
  shift
fi
models=("$@")
if ((${#models[@]} == 0)); then
  for name in standard fast quality; do
    [[ -e "anypcc_ros/models/$name.safetensors" ]] && models+=("$name")
  done
fi

anypcc() { "$PYTHON" -m anypcc_ros.cli "$@"; }

mkdir -p docs/results
anypcc evaluate --suite $SHARED/data/test --peers $SHARED/facts/peers.csv --model "${models[@]}" \
  --group 'KITTI frames 11/14/15=lidar_spinning/zb12138*' \
  --curves '*Ply_11_000000*' '*longdress*' '*ankylosaurus*' '*scene0011_00*' '*biker*' '*niivue__T1*' \
  --csv docs/results/suite.csv --markdown docs/results.md --plots docs/results "${resume[@]}"
anypcc evaluate --stress $SHARED/data/test --model "${models[@]}" --no-distortion \
  --only '*Ply_11_000000*' '*e1_1693393248892823096*' '*soldier*' '*ankylosaurus*' '*scene0706_00*' \
  '*arkit-to-colmap*' '*alexanderTheGreat*' '*niivue__T1*' '*MixedConifer*' \
  --csv docs/results/stress.csv --markdown docs/results.md --plots docs/results "${resume[@]}"
anypcc evaluate --datasets --markdown docs/datasets.md
logs=(runs/*/log.csv)
if [[ -e "${logs[0]}" ]]; then
  anypcc evaluate --training-log "${logs[@]}" --plots docs/results
fi
