"""metadata.yaml of a rosbag2 directory: read, and written anew for a bag whose topics and counts have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from anypcc_ros.bags.contents import QOS, TYPE_HASH, Topic
from anypcc_ros.bags.errors import CorruptBagError, UnsupportedBagError

FILE_NAME = "metadata.yaml"
ROOT = "rosbag2_bagfile_information"
LATEST = 9
"""Newest version of the format (ROS 2 Jazzy). From it on, QoS profiles are lists with words in place of texts with numbers."""

_LATCHED = """\
- history: {history}
  depth: 1
  reliability: {reliability}
  durability: {durability}
  deadline: {{sec: 9223372036, nsec: 854775807}}
  lifespan: {{sec: 9223372036, nsec: 854775807}}
  liveliness: {liveliness}
  liveliness_lease_duration: {{sec: 9223372036, nsec: 854775807}}
  avoid_ros_namespace_conventions: false"""


def load_yaml(text: str, path: Path) -> Any:
    """Raises CorruptBagError, which names ``path``."""
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise CorruptBagError(f"{path}: not YAML: {error}") from error


def dump_yaml(value: object) -> str:
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.width = 1 << 20  # a type's hash stays on its line
    yaml.representer.ignore_aliases = lambda _: True
    out = StringIO()
    yaml.dump(value, out)
    return out.getvalue()


def read_metadata(folder: Path) -> dict[str, Any]:
    """What stands under the root of metadata.yaml. Raises CorruptBagError, UnsupportedBagError, OSError."""
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptBagError(f"{path}: not UTF-8 text: {error}") from error
    loaded = load_yaml(text, path)
    metadata = loaded.get(ROOT) if isinstance(loaded, dict) else None
    if not isinstance(metadata, dict):
        raise CorruptBagError(f"{path}: has no {ROOT}")
    version, storage = metadata.get("version"), metadata.get("storage_identifier")
    if not isinstance(version, int) or version > LATEST:
        raise UnsupportedBagError(f"{path}: version {version!r}; 1 to {LATEST} are known")
    if storage not in ("mcap", "sqlite3"):
        raise UnsupportedBagError(f"{path}: storage {storage!r}; mcap and sqlite3 are known")
    mode, form = compression_of(metadata)
    if mode not in ("", "message", "file") or (mode and form != "zstd"):
        raise UnsupportedBagError(f"{path}: compression {form!r} of mode {mode!r}; zstd by message or file is known")
    files = metadata.get("relative_file_paths")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise CorruptBagError(f"{path}: relative_file_paths is not a list of names")
    return metadata


def compression_of(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Mode ("", "message", "file") and format ("zstd") of rosbag2's own compression."""
    mode = str(metadata.get("compression_mode") or "").lower()
    return ("" if mode == "none" else mode), str(metadata.get("compression_format") or "")


def stated_counts(metadata: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Messages by topic, as the metadata has them."""
    counts: dict[str, int] = {}
    try:
        for item in metadata.get("topics_with_message_count") or []:
            name = item["topic_metadata"]["name"]
            counts[name] = counts.get(name, 0) + int(item["message_count"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptBagError(f"{path / FILE_NAME}: topics_with_message_count is not a list of topics: {error!r}") from error
    return counts


class Summary:
    """Counts what is written, for the metadata of the new bag."""

    def __init__(self) -> None:
        self.counts: dict[Topic, int] = {}
        self.start: int | None = None
        self.end = 0

    def add_topic(self, topic: Topic) -> None:
        self.counts.setdefault(topic, 0)

    def add_message(self, topic: Topic, log_time: int) -> None:
        self.counts[topic] = self.counts.get(topic, 0) + 1
        self.start = log_time if self.start is None else min(self.start, log_time)
        self.end = max(self.end, log_time)

    @property
    def messages(self) -> int:
        return sum(self.counts.values())

    def metadata(self, source: Mapping[str, Any], storage: str, file: str, compression: str) -> dict[str, Any]:
        """All of metadata.yaml below its root.

        What ``source``, the metadata of the original bag, has besides the usual is kept, its version and
        with it the form of the QoS profiles, too.
        """
        start = {"nanoseconds_since_epoch": 0 if self.start is None else self.start}
        duration = {"nanoseconds": 0 if self.start is None else self.end - self.start}
        version = max(source["version"], 5) if "version" in source else _version_for(self.counts)
        written: dict[str, Any] = {
            "version": version,
            "storage_identifier": storage,
            "duration": duration,
            "starting_time": start,
            "message_count": self.messages,
            "topics_with_message_count": [
                {"topic_metadata": _topic_metadata(topic, version), "message_count": count}
                for topic, count in self.counts.items()
            ],
            "compression_format": "zstd" if compression else "",
            "compression_mode": compression.upper(),
            "relative_file_paths": [file],
            "files": [{"path": file, "starting_time": start, "duration": duration, "message_count": self.messages}],
        }
        if version >= 6:
            written["custom_data"] = None
        if version >= 8:
            written["ros_distro"] = "unknown"
        unknown_here = {key for key, value in written.items() if value in (None, "unknown")}
        return written | {key: value for key, value in source.items() if key not in written or key in unknown_here}


def _topic_metadata(topic: Topic, version: int) -> dict[str, Any]:
    qos: Any = topic.described(QOS)
    if version >= 9:
        qos = _profiles(qos)
    described = {
        "name": topic.name,
        "type": topic.type,
        "serialization_format": topic.encoding,
        "offered_qos_profiles": qos,
    }
    return described | ({"type_description_hash": topic.described(TYPE_HASH)} if version >= 7 else {})


def _profiles(text: str) -> list[Any]:
    profiles = YAML(typ="safe").load(text) if text.strip() else []
    return profiles if isinstance(profiles, list) else []


def _version_for(topics: Iterable[Topic]) -> int:
    """8 where a QoS profile is written with numbers, as rosbag2 did up to there; otherwise the newest."""
    return LATEST - 1 if any(_has_numbers(topic.described(QOS)) for topic in topics) else LATEST


def _has_numbers(qos: str) -> bool:
    """Whether a QoS profile is written with numbers, or is none at all."""
    try:
        profiles = _profiles(qos)
    except YAMLError:
        return True
    return any(isinstance(profile, dict) and isinstance(profile.get("history"), int) for profile in profiles)


def latched(version: int | None, beside: str = "") -> str:
    """The QoS profile of a latched topic: reliable, the last message kept for those who come later (transient local).

    ``version``: of the bag's metadata, if it has any; otherwise it is written like the profile ``beside``.
    """
    if _has_numbers(beside) if version is None else version < LATEST:
        return _LATCHED.format(history=1, reliability=1, durability=1, liveliness=1)
    return _LATCHED.format(history="keep_last", reliability="reliable", durability="transient_local", liveliness="automatic")
