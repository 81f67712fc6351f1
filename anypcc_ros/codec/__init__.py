"""Bytes to points and back. Knows nothing of ROS, files or training."""
