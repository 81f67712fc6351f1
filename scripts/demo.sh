#!/usr/bin/env bash
# Real LiDAR frames through an encoder node and a decoder node over real DDS: four processes, a player, the two nodes
# and a checker that compares every cloud with what came back. Sets up what that needs first (scripts/setup.sh, 0.4 GB).
#
#   bash scripts/demo.sh                   32 000 points (Ruby Plus) at the sensor's 10 Hz
#   bash scripts/demo.sh --large           120 000 points (OS2-128), at whatever rate this machine holds
#   bash scripts/demo.sh --large --live    the same with the parameters of config/live.yaml, which two cores hold at 10 Hz
#
# Options: --frames N (100), --rate HZ (10), --step METRES (0.01), --model NAME (standard), --calibrate WHEN (auto),
#          --live (config/live.yaml in place of these three), --positions-only (all other fields are dropped),
#          --bag PATH and --topic NAME (another rosbag2 bag), --output FOLDER (demo_output).
# Exit status: 0 if every cloud that came back was exact on its grid, and some did.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

frames=100 rate=10 step=0.01 model=standard calibrate=auto live='' fields=() positions_only=() bag=sample/lidar topic=/rubyplus/points output=demo_output
while (($#)); do
  case $1 in
    --large) topic=/os2_128/points; shift ;;
    --live) live=config/live.yaml; shift ;;
    --positions-only) fields=(-p "fields:=['*=drop']") positions_only=(--positions-only); shift ;;
    --frames | --rate | --step | --model | --calibrate | --bag | --topic | --output)
      declare "${1#--}=${2:?$1 needs a value}"; shift 2 ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
  esac
done

# Without torch and what tests need, unless they are there already.
grep -qs '^test ' "$VENV/anypcc_setup/dependencies" || export LIGHT=1
bash scripts/setup.sh
mkdir -p "$output"

# A ROS network of its own on this machine alone, so that two demos, or a robot, do not meet.
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=$((RANDOM % 100 + 1)) ROS_LOG_DIR=$PWD/$output/log
# Shared memory for clouds of megabytes; Jazzy reads the first name, Kilted the second.
export FASTRTPS_DEFAULT_PROFILES_FILE=$PWD/resource/fastdds_large_messages.xml
export FASTDDS_DEFAULT_PROFILES_FILE=$FASTRTPS_DEFAULT_PROFILES_FILE

processes=()
stop() {
  trap - EXIT
  kill -TERM "${processes[@]}" 2>/dev/null || true
  wait "${processes[@]}" 2>/dev/null || true
}
trap stop EXIT
trap 'exit 130' INT TERM

# A report after every frame, so that the checker can print each frame's own encoding and decoding time.
# One thread each: four processes share the machine, and threads that wait for a core only cost time.
every_frame=(--ros-args -p diagnostics_period:=0.0 -p threads:=1)
codec=(-p "step:=$(printf '%#.12g' "$step")" -p "model:=$model" -p "calibrate:=$calibrate")
if [[ $live ]]; then
  codec=(--params-file "$live")
  step=$(sed -n 's/^ *step: *\([0-9.]*\).*/\1/p' "$live")
fi
"$VENV/bin/encoder_node" "${every_frame[@]}" "${codec[@]}" "${fields[@]}" & processes+=($!)
"$VENV/bin/decoder_node" "${every_frame[@]}" & processes+=($!)
"$VENV/bin/python" scripts/demo/player.py "$bag" --topic "$topic" --rate "$rate" --frames "$frames" & processes+=($!)

"$VENV/bin/python" scripts/demo/checker.py --step "$step" --frames "$frames" "${positions_only[@]}" \
  --picture "$output/before_after.png" & processes+=($!)

status=0
wait $! || status=$?
stop
exit "$status"
