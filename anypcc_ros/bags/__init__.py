"""Recordings in, recordings out: rosbag2 (MCAP, sqlite3) and ROS 1 bags whose point clouds are compressed. Needs no ROS."""
