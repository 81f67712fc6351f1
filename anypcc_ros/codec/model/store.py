"""Installed models: those shipped in ``anypcc_ros/models``, and those of a folder that the user names."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from anypcc_ros.codec.errors import ModelFileError, ModelNotFoundError
from anypcc_ros.codec.model.integer import IntegerModel, load_model

SHIPPED = Path(__file__).resolve().parents[2] / "models"
SUFFIX = ".safetensors"


def installed(extra: str = "") -> dict[str, str]:
    """Name to hash of every installed model; ``extra`` is a further folder to look into."""
    return {path.stem: _stored_hash(path) for path in _files(extra)}


def by_name(name: str) -> IntegerModel:
    """The installed model of that name, or the model in the file if the name ends in .safetensors.

    Raises ModelNotFoundError, ModelFileError; the latter for another file as well.
    """
    path = Path(name) if name.endswith(SUFFIX) else SHIPPED / f"{name}{SUFFIX}"
    if not os.path.isfile(path):  # which, other than Path.is_file, raises nothing where it must not look
        if os.path.isfile(name):
            raise ModelFileError(f"{name}: the file of a model is called *{SUFFIX}")
        raise ModelNotFoundError(name, installed())
    return _load(path, path.stat().st_mtime_ns)


def by_hash(digest: str, extra: str = "") -> IntegerModel:
    """The installed model of that identity. Raises ModelNotFoundError, ModelFileError."""
    for path in _files(extra):
        if _stored_hash(path) == digest:
            return _load(path, path.stat().st_mtime_ns)
    raise ModelNotFoundError(digest, installed(extra))


def _files(extra: str) -> list[Path]:
    folders = [SHIPPED, *([Path(extra)] if extra else [])]
    return [path for folder in folders for path in sorted(folder.glob(f"*{SUFFIX}"))]


@lru_cache(maxsize=8)
def _load(path: Path, modified: int) -> IntegerModel:
    return load_model(path)


def _stored_hash(path: Path) -> str:
    """The hash a file states; it is verified when the model is loaded."""
    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("hash", ""))
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file ({error})") from error
