#!/usr/bin/env bash
# Measures everything that docs/rate.md, docs/adaptation.md and docs/experiments.md have a command of scripts/lossy.py,
# splats.py, shared_adaptation.py or adaptation_table.py for, and writes its tables and plots: about 20 minutes of CPU.
#
#   bash scripts/results_lossy.sh            # all of it
#   bash scripts/results_lossy.sh targets    # one of: targets fields centroids thinned curves splats shared tuned
#
# Curves, shared and tuned keep their rows, the latter two in $ROWS, and go on where they were interrupted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-.venv/bin/python}" # of an environment with the `eval` and `torch` extras
ROWS="${ROWS:-/tmp/anypcc_rows}"
DATA=../shared/data
FRAME=$DATA/test/lidar_spinning/isl-org+Open3D-ML__velodyne_004139.npz
SURFACES=(
  $DATA/val/dense_object/libigl+libigl-tutorial-data__armadillo_vox10_d4.npz
  $DATA/val/dense_human/Qinsong-Li+MWP__data_tr_reg_007_vox10_d4.npz
)
SPLATS=(
  $DATA/test/gs/douglas0406+GSHairLoD__iteration_30000_fused.npz
  $DATA/test/gs/playcanvas+engine__splats_biker.compressed.npz
  $DATA/test/gs/sagharborrum+arkit-to-colmap__scene.npz
)

run() {
  case $1 in
    targets) "$PYTHON" scripts/lossy.py targets --sequences ../shared/sequences ;;
    fields | centroids) "$PYTHON" scripts/lossy.py "$1" $FRAME ;;
    thinned) "$PYTHON" scripts/lossy.py thinned "${SURFACES[@]}" ;;
    curves) "$PYTHON" scripts/lossy.py curves --suite $DATA/test ;;
    splats) "$PYTHON" scripts/splats.py "${SPLATS[@]}" ;;
    shared) "$PYTHON" scripts/shared_adaptation.py "$ROWS/shared.csv" --shared ../shared ;;
    tuned) "$PYTHON" scripts/adaptation_table.py "$ROWS/tuned.csv" --suite $DATA/test ;;
    *) echo "no such table: $1" >&2 && exit 2 ;;
  esac
}

mkdir -p "$ROWS"
for name in "${@:-targets fields centroids thinned curves splats shared tuned}"; do
  for table in $name; do run "$table"; done
done
