"""`anypcc bag compress --adapt`: the adaptation is in the bag's folder, and whoever reads the bag finds it there."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("rosbags", reason="needs the bags extra")
pytest.importorskip("torch", reason="tuning needs torch")

from recordings import write_rosbag2

from anypcc_ros.bags.errors import DIFFERENT
from anypcc_ros.cli import main
from anypcc_ros.codec.model.adaptations import load_adaptation


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_an_adapted_bag_is_smaller_and_restores_by_itself(golden, tmp_path, capsys, storage) -> None:
    original = str(write_rosbag2(tmp_path / "original", storage, clouds=12))
    plain, small, back = (tmp_path / name for name in ("plain", "small", "back"))
    model = ["--model", str(golden / "tiny.safetensors"), "--step", "0.05", "--jobs", "1", "--quiet"]
    assert main(["bag", "compress", original, str(plain), *model]) == 0
    assert main(["bag", "compress", original, str(small), *model, "--adapt"]) == 0
    (file,) = small.glob("*.apad")
    assert file.stem == load_adaptation(file).hash
    sizes = [sum(f.stat().st_size for f in folder.iterdir()) for folder in (plain, small)]
    assert sizes[1] < sizes[0] or storage == "sqlite3"  # whose pages are larger than what is saved
    reading = ["--model-dir", str(golden), "--jobs", "1", "--quiet"]
    assert main(["bag", "verify", original, str(small), *reading]) == 0
    assert main(["bag", "restore", str(small), str(back), *reading]) == 0
    # Elsewhere it has to be named.
    shutil.move(file, tmp_path / "scene.apad")
    capsys.readouterr()
    assert main(["bag", "verify", original, str(small), *reading]) == DIFFERENT
    assert load_adaptation(tmp_path / "scene.apad").hash in capsys.readouterr().out
    assert main(["bag", "verify", original, str(small), *reading, "--adaptation", str(tmp_path / "scene.apad")]) == 0
