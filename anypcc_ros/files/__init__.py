"""Point cloud files: .ply .pcd .npz .bin .las .laz to PointCloud and back.

Coordinates keep the file's own type: float32 and float64 stay, integers become int32 or int64. What a file says besides
the position of a point is kept in ``PointCloud.fields`` under the file's own names and in its order. Colours are one field:
``rgb`` (N, 3) where the file has red, green and blue, and packed into 32 bits as they are in a PCD or a ROS message; either
form is written as the format has it. plyfile and laspy are imported when a file needs them.
"""

from anypcc_ros.files.clouds import READABLE, WRITABLE, check_format, read_cloud, unit_of, write_cloud
from anypcc_ros.files.output import atomic_write, check_output

__all__ = ["READABLE", "WRITABLE", "atomic_write", "check_format", "check_output", "read_cloud", "unit_of", "write_cloud"]
