"""One version, one set of pins, one build: what is declared agrees, and what is installed is all there."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import xml.etree.ElementTree
import zipfile
from pathlib import Path

import pytest

from anypcc_ros.codec.kernels import native

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_XML = xml.etree.ElementTree.parse(ROOT / "package.xml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROS_PACKAGES = {
    "rclpy",
    "sensor_msgs",
    "std_msgs",
    "diagnostic_msgs",
    "rcl_interfaces",
    "builtin_interfaces",
    "launch",
    "launch_ros",
}


def imports(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in it; anypcc_ros.msg counts as such."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.split(".")[0] for name in names} | {"anypcc_ros.msg"} & names


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


# What is declared


def test_the_version_is_that_of_package_xml():
    assert "version" in PROJECT["dynamic"]
    try:
        installed = importlib.metadata.version("anypcc_ros")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed by pip")
    assert installed == PACKAGE_XML.findtext("version")


def test_every_requirement_is_pinned_exactly_once():
    pins = [line.split("#")[0].strip() for line in (ROOT / "requirements" / "constraints.txt").read_text().splitlines()]
    pins = [pin for pin in pins if pin]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in pins), pins
    pinned = [pin.split("==")[0].lower().replace("_", "-") for pin in pins]
    assert len(pinned) == len(set(pinned))
    extras = PROJECT["optional-dependencies"]
    needed = requirement_names(
        PROJECT["dependencies"] + [item for extra, items in extras.items() if extra != "cuda" for item in items]
    )
    assert needed - {"anypcc-ros"} <= set(pinned), "named in pyproject.toml, not in requirements/constraints.txt"
    assert "==" not in " ".join(PROJECT["dependencies"]), "exact versions stand in requirements/ alone"


@pytest.mark.parametrize("name", ["ros-jazzy.txt", "ros-kilted.txt"])
def test_the_ros_wheels_are_pinned(name):
    lines = [line for line in (ROOT / "requirements" / name).read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z_-]+(\[[a-z]+\])?==[0-9.]+", line) for line in lines), lines


def test_package_xml_names_what_the_nodes_and_the_launch_file_import():
    declared = {
        element.text for kind in ("depend", "exec_depend", "buildtool_depend") for element in PACKAGE_XML.iterfind(kind)
    }
    imported = set().union(*map(imports, [*(ROOT / "anypcc_ros" / "nodes").glob("*.py"), ROOT / "launch" / "codec.launch.py"]))
    assert imported & ROS_PACKAGES <= declared
    run_by_others = {"rosidl_default_runtime", "ament_cmake", "ament_cmake_python", "rosidl_default_generators"}
    assert {name for name in declared if not name.startswith("python3-")} - run_by_others <= imported
    for library in requirement_names(PROJECT["dependencies"]) - {"constriction", "safetensors"}:  # not known to rosdep
        assert f"python3-{library}" in declared


def test_only_the_nodes_know_of_ros():
    for file in (ROOT / "anypcc_ros").rglob("*.py"):
        if "nodes" not in file.relative_to(ROOT).parts:
            assert not imports(file) & {*ROS_PACKAGES, "anypcc_ros.msg"}, file


BELOW = {
    "codec": {"adaptation"},  # by name, where --adapt-steps asks for the tuner
    "optional": {"codec"},
    "pointcloud2": {"codec"},
    "files": {"codec", "optional"},
    "command_line": {"codec", "files"},
    "training": {"codec", "command_line", "files", "optional"},
    "adaptation": {"codec", "command_line", "files", "optional", "training"},
    "nodes": {"codec", "msg", "pointcloud2"},
    "bags": {
        "adaptation",
        "codec",
        "command_line",
        "evaluation",
        "files",
        "optional",
        "pointcloud2",
    },  # its report has pictures
    "evaluation": {"bags", "codec", "command_line", "files", "optional", "pointcloud2", "training"},  # also of messages in bags
}
"""What each part of the package may import of the others: README.md, "How it works"."""


def named(file: Path) -> set[str]:
    """The modules that a file imports, or names as text for a later import."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.replace(".", "").isidentifier():
            found.add(node.value)
    return found


@pytest.mark.parametrize("part", sorted(BELOW))
def test_imports_run_one_way(part):
    package = ROOT / "anypcc_ros"
    files = [package / f"{part}.py"] if (package / f"{part}.py").exists() else (package / part).rglob("*.py")
    modules = set().union(*map(named, files))
    others = {module.split(".")[1] for module in modules if module.startswith("anypcc_ros.")} - {part, ""}
    assert others == BELOW[part]


# What is installed


def installed_files() -> list[str]:
    """What pip has installed, below the environment's prefix; empty where it has not."""
    prefix = Path(sys.prefix).resolve()
    files = [Path(file.locate()).resolve() for file in importlib.metadata.files("anypcc_ros") or []]
    return sorted(str(file.relative_to(prefix)) for file in files if file.is_relative_to(prefix))


def test_the_installation_is_complete():
    pytest.importorskip("anypcc_ros.msg", reason="needs ROS 2")
    names = "\n".join(installed_files())
    if not names:
        pytest.skip("not installed by pip")
    for wanted in (
        r"^lib/python[0-9.]+/site-packages/anypcc_ros/msg/_compressed_cloud\.py$",
        r"^lib/python[0-9.]+/site-packages/anypcc_ros/models/standard\.safetensors$",
        r"^lib/python[0-9.]+/site-packages/anypcc_ros/codec/kernels/libanypcc_kernels\.so$",
        r"^lib/libanypcc_ros__rosidl_typesupport_fastrtps_c\.so$",
        r"^lib/anypcc_ros/encoder_node$",
        r"^lib/anypcc_ros/decoder_node$",
        r"^share/anypcc_ros/launch/codec\.launch\.py$",
        r"^share/anypcc_ros/config/codec\.yaml$",
        r"^share/anypcc_ros/resource/fastdds_large_messages\.xml$",
        r"^share/anypcc_ros/package\.xml$",
        r"^share/anypcc_ros/msg/CompressedCloud\.msg$",
        r"^share/ament_index/resource_index/packages/anypcc_ros$",
    ):
        assert re.search(wanted, names, re.MULTILINE), wanted


NOT_INSTALLED = ("*.pyc", "*.so", ".clang-format", "*.msg")
"""What lies in the package's folder of a checkout, besides its sources: built, or for those who change them."""


def test_the_source_distribution_is_complete(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "-d", tmp_path]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("anypcc_ros", "cmake", "config", "launch", "msg", "requirements", "resource")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    needed = {str(path.relative_to(ROOT)) for path in files if not any(map(path.match, NOT_INSTALLED))}
    assert (
        needed | {"msg/CompressedCloud.msg", "setup.py", "pyproject.toml", "package.xml", "CMakeLists.txt", "LICENSE"} <= packed
    )


def test_what_ros2_run_would_start_starts():
    """The executables where launch and `ros2 run` look for them, under the name of the package."""
    pytest.importorskip("anypcc_ros.msg", reason="needs ROS 2")
    folder = Path(sysconfig.get_path("data"), "lib", "anypcc_ros")
    if not folder.is_dir():
        pytest.skip("not installed by pip")
    for name in ("encoder_node", "decoder_node", "anypcc"):
        assert os.access(folder / name, os.X_OK), name
    environment = {**os.environ, "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])}
    shown = subprocess.run([folder / "anypcc", "--version"], env=environment, capture_output=True, text=True, check=True)
    assert importlib.metadata.version("anypcc_ros") in shown.stdout


@pytest.fixture(scope="module")
def without_ros(tmp_path_factory):
    """A copy of the source and an environment that has what a build needs, and nothing of ROS."""
    for tool in ("setuptools", "cmake", "ninja", "pip"):
        pytest.importorskip(tool, reason="the build runs without downloading anything")
    folder = tmp_path_factory.mktemp("without_ros")
    ignored = shutil.ignore_patterns(
        ".*", "build", "install", "log", "sample", "test", "docs", "demo_output", "*.so", "__pycache__"
    )
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "build_tools.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, folder / "source"


def build_wheel(python: Path, source: Path, **environment: str) -> tuple[list[str], str]:
    """The names in the wheel, and everything that was printed."""
    target = source.parent / "wheels"
    shutil.rmtree(target, ignore_errors=True)
    command = [python, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation", "-w", target, source]
    clean = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "PYTHONPATH")}
    done = subprocess.run(list(map(str, command)), env=clean | environment, capture_output=True, text=True)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist(), printed


def test_without_ros_there_is_the_library_with_its_kernels(without_ros):
    names, _ = build_wheel(*without_ros)
    assert "anypcc_ros/codec/kernels/libanypcc_kernels.so" in names
    assert "anypcc_ros/models/standard.safetensors" in names
    assert "anypcc_ros/cli.py" in names
    assert not [name for name in names if "/msg/" in name or "rosidl" in name]
    assert not [name for name in names if name.endswith((".cpp", ".hpp", ".c", "CMakeLists.txt"))]


ROUND_TRIP = """
import sys
import numpy as np
import anypcc_ros
from anypcc_ros import CodecConfig, Decoder, Encoder, PointCloud
from anypcc_ros.codec.errors import BackendError

xyz = np.random.default_rng(0).normal(0, 5, (5000, 3)).astype(np.float32)
cloud = PointCloud(xyz, {"ring": np.arange(5000, dtype=np.uint16)})
data = Encoder(CodecConfig(step=0.01, backend="native")).encode(cloud)
decoded = Decoder().decode(data)
assert len(decoded) == 5000 and sorted(decoded.fields["ring"]) == list(range(5000))
try:
    Encoder(CodecConfig(backend="torch"))
except BackendError as error:
    print(error)
assert "torch" not in sys.modules or sys.modules["torch"] is None
"""


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """An environment with what pyproject.toml calls for without extras, and nothing else."""
    folder = tmp_path_factory.mktemp("without_torch")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in requirement_names(PROJECT["dependencies"]):
        for file in {Path(file.parts[0]) for file in importlib.metadata.files(name) or [] if ".." not in file.parts}:
            (site / file).symlink_to(Path(importlib.metadata.distribution(name).locate_file(file)))
    return folder / "bin" / "python"


@pytest.mark.skipif(not native.available(), reason=str(native.unavailable_reason()))
def test_without_torch_the_codec_codes(without_torch, tmp_path):
    """Also where the library stands beside another directory of the package than the imported one."""
    place = native.library_path()
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "PYTHONPATH")}
    (tmp_path / "anypcc_ros").symlink_to(
        place.parents[2]
    )  # alone: beside an installed package stands all else that is installed
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run([without_torch, "-c", ROUND_TRIP], env=environment, capture_output=True, text=True, cwd=place.anchor)
    assert done.returncode == 0, done.stderr
    assert "pip install 'anypcc_ros[torch]'" in done.stdout


def test_the_nodes_run_without_torch():
    pytest.importorskip("anypcc_ros.msg", reason="needs ROS 2")
    code = "import sys; sys.modules['torch'] = None; "  # as if it were not installed
    code += "import rclpy; from anypcc_ros.nodes import decoder_node, encoder_node; rclpy.init(); "
    code += "nodes = encoder_node.EncoderNode(), decoder_node.DecoderNode(); [node.destroy_node() for node in nodes]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stderr


def test_a_node_without_ros_says_what_it_needs(without_ros):
    python, source = without_ros
    code = "import sys; sys.modules['rclpy'] = sys.modules['sensor_msgs'] = None; "  # as if they were not installed
    code += "from anypcc_ros.nodes.start import encoder_node; sys.exit(encoder_node())"
    done = subprocess.run([python, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the nodes need ROS 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_compiler_there_is_the_library_and_a_word_of_it(without_ros):
    names, printed = build_wheel(*without_ros, CXX="no-such-compiler")
    assert "anypcc_ros/codec/codec.py" in names
    assert not [name for name in names if name.endswith(".so")]
    assert "WITHOUT the native kernels" in printed
