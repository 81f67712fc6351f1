"""The ROS 2 nodes: they convert, declare, publish and count. The only part of the package that imports rclpy."""
