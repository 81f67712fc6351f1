# Sourced by the scripts beside it: from the checkout's root, with nothing of another ROS or Python environment around.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
# The ROS wheels leak their library path into child processes, and a sourced /opt/ros has paths of its own; another
# installation's libraries must not be loaded here.
unset LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH \
  ROS_DISTRO RMW_IMPLEMENTATION
