#!/usr/bin/env bash
# Every measurement of docs/performance.md that needs no ROS: tables, CSV and figures into a folder. On a quiet machine
# with two cores it takes about twenty minutes; a tmc3 (G-PCC) on the PATH is measured beside the others.
#
#   bash scripts/benchmark.sh [FOLDER]          (default: build/benchmark)
#
# Variables: DATA, the folder of test clouds (default ../shared/data/test); MODELS (default: all installed ones); PYTHON
# (default: that of .venv); REPEATS (default 10); GROWTH=0 leaves out the growth, the longest part, FRAMES=0 the long run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DATA=${DATA:-../shared/data/test}
PYTHON=${PYTHON:-.venv/bin/python}
REPEATS=${REPEATS:-10}
OUT=${1:-build/benchmark}
LIDAR="$DATA/lidar_spinning/zb12138+OctAttention__Ply_11_000000.npz"
BODY="$DATA/dense_human/mauriceqch+pcc_attr_folding__longdress_vox10_1300.npz"
mkdir -p "$OUT"
MODELS=${MODELS:-$("$PYTHON" -c 'from anypcc_ros.codec.model import store; print(*store.installed())')}
flags=()
for model in $MODELS; do flags+=(--model "$model"); done

benchmark() {  # NAME ARGUMENTS...: into NAME.md, NAME.csv and NAME.png
  echo "== $1"
  "$PYTHON" -m anypcc_ros.cli benchmark "${@:2}" --markdown "$OUT/$1.md" --csv "$OUT/$1.csv" --plot "$OUT/$1.png"
}

benchmark lidar "$LIDAR" --step 0.016 --step 0.001 --threads 1 --threads 2 --repeats "$REPEATS" "${flags[@]}"
# Few repeats: Draco alone takes most of a minute each time.
benchmark body "$BODY" --step 1 --threads 1 --threads 2 --repeats "$((REPEATS < 3 ? REPEATS : 3))" "${flags[@]}"
if [[ ${FRAMES:-1000} != 0 ]]; then
  echo "== frames"
  "$PYTHON" -m anypcc_ros.cli benchmark "$LIDAR" --step 0.016 --frames "${FRAMES:-1000}" --model "${MODELS%% *}" --markdown "$OUT/frames.md"
fi
if [[ ${GROWTH:-1} != 0 ]]; then
  benchmark growth "$LIDAR" --step 0.016 --growth --repeats 3 "${flags[@]}"
fi
echo "== start-up and size"
"$PYTHON" - <<'END' | tee "$OUT/start.md"
import subprocess, sys
code = "import sys, time; t = time.perf_counter(); from anypcc_ros import CodecConfig, Encoder; "
code += "Encoder(CodecConfig(backend=sys.argv[1])); print(f'{time.perf_counter() - t:.2f} s')"
for backend in ("native", "torch"):
    runs = [subprocess.run([sys.executable, "-c", code, backend], capture_output=True, text=True) for _ in range(3)]
    print(f"encoder ready, {backend} backend:", runs[-1].stdout.strip() or runs[-1].stderr.strip().splitlines()[-1])
END
du -sh "$("$PYTHON" -c 'import sys; print(sys.prefix)')"
