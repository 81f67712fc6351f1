"""The data sets of published codecs: their own file formats, and the grids on which their figures were measured.

None of them is shipped or fetched: whoever has a data set names its folder. Each entry says where the quantisation is
documented; where it is not, the entry says so and what is done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anypcc_ros.codec.cloud import PointCloud
from anypcc_ros.codec.errors import FileError
from anypcc_ros.evaluation.document import table
from anypcc_ros.evaluation.meshes import read_obj, sample_surface
from anypcc_ros.evaluation.peers import PeerGrid
from anypcc_ros.evaluation.suite import step_of_grid
from anypcc_ros.files import read_cloud

MESH_SAMPLES = 1_000_000
"""Points sampled from a mesh, as in the preparation scripts of NJUVISION/Unicorn (its README.sh, process mesh2pc)."""


@dataclass(frozen=True)
class Dataset:
    """One published data set.

    ``name``: on the command line. ``patterns``: of the test clouds below the folder, several with "|" between; the first that
    matches anything is used.
    ``read``: a file of it. ``lattice``: coordinates are first rounded to multiples of this, in the file's unit, and count in
    them from then on. ``grids``: step by name, in units of the coordinates that then are; steps of 0 follow from the name
    (14bit: largest extent / 2^14). ``voxelised``: the grids hold for files of integers, others take ``otherwise``.
    ``peak``: of the PSNR, in the same unit; None takes the largest extent. ``published``: bits per point by codec, on ``at``.
    """

    name: str
    title: str
    patterns: tuple[str, ...]
    read: Callable[[Path], PointCloud]
    grids: Mapping[str, float]
    where: str
    licence: str
    format: str
    quantisation: str
    documented: str
    lattice: float = 0.0
    voxelised: bool = False
    otherwise: Mapping[str, float] = field(default_factory=dict)
    peak: float | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    at: str = ""


def _read_voxels(path: Path) -> PointCloud:
    """A file whose coordinates are integers, of whatever type they are stored in, as int32. Raises FileError."""
    cloud = _read_any(path)
    if cloud.xyz.dtype.kind != "i":
        raise FileError(f"{path}: {len(cloud)} points that are not all on the integer grid")
    return cloud


def _read_any(path: Path) -> PointCloud:
    """Positions of a file; as int32 where all of them are integers, which PLY files of voxels store as floats."""
    xyz = _read_npy(path) if path.suffix.lower() == ".npy" else read_cloud(path).finite()[0].xyz
    if xyz.dtype.kind == "f" and len(xyz) and np.array_equal(xyz, np.rint(xyz)) and np.abs(xyz).max() < 2**31:
        return PointCloud(xyz.astype(np.int32))
    return PointCloud(xyz)


def _read_npy(path: Path) -> np.ndarray:
    """(..., 3) positions of any shape, as a network's point map has, or rows that begin with x, y, z."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot read: {error}") from error
    if values.ndim < 2 or values.shape[-1] < 3 or values.dtype.kind not in "fiu":
        raise FileError(f"{path}: shape {values.shape} of {values.dtype}; (..., 3) numbers are needed")
    rows = values.reshape(-1, values.shape[-1])[:, :3]
    rows = rows.astype(np.float32 if values.dtype.kind == "f" and values.dtype.itemsize <= 4 else np.float64)
    return rows[np.isfinite(rows).all(axis=1)]


def _read_kitti(path: Path) -> PointCloud:
    return PointCloud(read_cloud(path).finite()[0].xyz)


def _read_rows(path: Path) -> PointCloud:
    """Text with x, y, z and more in every line, as S3DIS rooms; lines that are not numbers (it has some) are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise FileError(f"{path}: cannot read: {error.strerror or error}") from error
    try:
        xyz = np.array([line.split(None, 3)[:3] for line in lines if line], np.float64)
    except ValueError:
        number = re.compile(rb"\s*[-+0-9.eE]+\s+[-+0-9.eE]+\s+[-+0-9.eE]+(\s|$)")
        kept = [line.split(None, 3)[:3] for line in lines if number.match(line)]
        if len(kept) < 0.99 * len(lines):
            raise FileError(f"{path}: {len(lines) - len(kept)} of {len(lines)} lines are not x, y, z") from None
        xyz = np.array(kept, np.float64)
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise FileError(f"{path}: {len(lines)} lines, which do not begin with x, y, z")
    return PointCloud(xyz)


def _read_body(path: Path) -> PointCloud:
    """A voxelised cloud as it is; a mesh sampled, and put on 10 bits: (p - min) / largest extent * 1023, rounded."""
    if path.suffix.lower() != ".obj":
        return _read_voxels(path)
    points = sample_surface(*read_obj(path), MESH_SAMPLES, np.random.default_rng(0))
    extent = float(np.ptp(points, axis=0).max())
    if not extent > 0:
        raise FileError(f"{path}: a mesh without extent")
    return PointCloud(np.rint((points - points.min(axis=0)) / extent * 1023).astype(np.int32))


_ANYPCC = "github.com/Wangkkklll/AnyPcc"
_PLY = "PLY of integer coordinates, stored as float or int"
_RELEASED = "huggingface.co/datasets/wangkkklll/AnyPcc (the paper's test clouds, quantised)"

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "8ivfb", "8i Voxelized Full Bodies v2", ("**/loot*/**/*.ply|**/redandblack*/**/*.ply", "**/*vox10*.ply"),
            _read_voxels, {"native": 1.0},
            where="plenodb.jpeg.org/pc/8ilabs", licence="terms of 8i on that page, for research and standards",
            format=f"{_PLY}, vox10", quantisation="none: integers of 10 bits; tested on redandblack and loot",
            documented=f"{_ANYPCC}, script/test/ucm_u_all.sh (posQ 1)", voxelised=True, peak=1023.0,
            published={"AnyPcc": 0.54, "AnyPcc-U": 0.57, "G-PCC CTC": 0.76, "RENO": 0.70}, at="native",
        ),
        Dataset(
            "mvub", "Microsoft Voxelized Upper Bodies", ("**/ricardo10*/**/*.ply|**/phil10*/**/*.ply", "**/*.ply"),
            _read_voxels, {"native": 1.0},
            where="plenodb.jpeg.org/pc/microsoft", licence="terms of Microsoft on that page, for research",
            format=f"{_PLY}, vox10 (vox9 is there too)", quantisation="none; tested on ricardo10 and phil10 (OctAttention "
            "turns MVUB upright, which AnyPcc does not)",
            documented=f"{_ANYPCC}, script/test/ucm_u_all.sh (posQ 1)", voxelised=True, peak=1023.0,
            published={"AnyPcc": 0.67, "AnyPcc-U": 0.75, "G-PCC CTC": 0.94, "RENO": 1.00}, at="native",
        ),
        Dataset(
            "owlii", "Owlii dynamic human textured meshes, voxelised", ("**/*vox11*/**/*.ply", "**/*vox11*.ply", "**/*.ply"),
            _read_voxels, {"native": 1.0},
            where="mpeg-pcc.org, PCC content database", licence="terms of Owlii on that page, for research and standards",
            format=f"{_PLY}, vox11", quantisation="none: integers of 11 bits; basketball_player, dancer, exercise, model",
            documented=f"{_ANYPCC}, script/test/ucm_u_all.sh (posQ 1)", voxelised=True, peak=2047.0,
        ),
        Dataset(
            "thuman", "THuman2.0", ("**/pcd_0.ply", "**/*.obj", "**/*.ply"), _read_body, {"native": 1.0},
            where=f"github.com/ytrock/THuman2.0-Dataset (meshes), {_RELEASED}", licence="signed agreement, non-commercial",
            format=f"OBJ meshes; or {_PLY}",
            quantisation=f"meshes are sampled by area ({MESH_SAMPLES:,} points, seed 0) and put on 10 bits over the largest "
            "extent; voxelised files are taken as they are",
            documented=f"{_ANYPCC}, README (sampled to 10 bits; how many samples is not said: figures on meshes are not the "
            "paper's to the digit); 1,000,000 as in NJUVISION/Unicorn, data_utils/datasets/README.sh",
            voxelised=True, peak=1023.0,
            published={"AnyPcc": 1.58, "AnyPcc-U": 1.64, "G-PCC CTC": 2.00, "RENO": 1.64}, at="native",
        ),
        Dataset(
            "scannet", "ScanNet v2, test scans", ("scans_test/**/*_vh_clean_2.ply", "**/*_vh_clean_2.ply", "**/*.ply"),
            _read_any, {"20mm": 0.02}, where="github.com/ScanNet/ScanNet", licence="terms of use to be signed, non-commercial",
            format="PLY, float metres, vertices of the mesh `*_vh_clean_2.ply`",
            quantisation="q = round(50 xyz): 20 mm",
            documented=f"{_ANYPCC}, config/val_dataset_all.json (preprocess_scale 50)",
        ),
        Dataset(
            "s3dis", "S3DIS, rooms", ("Area_5*/*/*.txt", "Area_*/*/*.txt", "**/*.txt", "**/*.ply"), lambda path: (
                _read_rows(path) if path.suffix.lower() == ".txt" else _read_any(path)
            ), {"1mm": 0.001}, where=f"buildingparser.stanford.edu/dataset.html, {_RELEASED}",
            licence="form to be signed, non-commercial", format="text, a line `x y z r g b` per point, metres with 3 decimals",
            quantisation="1 mm, in which the files are given; quantised PLY files are taken as they are",
            documented="not documented in the published code", otherwise={"native": 1.0},
            published={"AnyPcc": 10.93, "AnyPcc-U": 10.79, "G-PCC CTC": 10.66, "RENO": 13.06}, at="1mm",
        ),
        Dataset(
            "kitti", "SemanticKITTI / KITTI odometry, sequences 11 to 21",
            ("**/1[1-9]/velodyne/*.bin|**/2[01]/velodyne/*.bin", "**/*.bin"),
            _read_kitti, {"1mm": 1.0, "16mm": 16.0},
            where="cvlibs.net/datasets/kitti, semantic-kitti.org", licence="CC BY-NC-SA 3.0",
            format="raw float32 x, y, z, intensity; metres",
            quantisation="q1 = round(xyz / 1 mm); 16 mm is round(q1 / 16). D1 and D2 are against q1",
            documented=f"{_ANYPCC}, script/test/ucm_u_all.sh (kitti_test_quan, posQ 16); NJUVISION/RENO, dataset.py (rounds "
            "once); 1 mm: NJUVISION/SparsePCGC issue 1",
            lattice=0.001, peak=59700.0,
            published={"AnyPcc": 6.18, "AnyPcc-U": 6.45, "G-PCC CTC": 8.19, "RENO": 7.06}, at="16mm",
        ),
        Dataset(
            "ford", "Ford sequences 02 and 03 of MPEG, 1 mm", ("**/*[Ff]ord_02*.ply|**/*[Ff]ord_03*.ply", "**/*.ply"),
            _read_voxels, {"1mm": 1.0, "16mm": 16.0},
            where=f"mpegfs.int-evry.fr, MPEG-I Part05 (password), {_RELEASED}; two frames in github.com/NJUVISION/RENO",
            licence="terms of MPEG and Ford", format=f"{_PLY}, millimetres, 18 bits",
            quantisation="integers of 1 mm; 16 mm is round(q / 16)",
            documented=f"{_ANYPCC}, script/test/ucm_u_all.sh (posQ 16); NJUVISION/RENO, README and dataset.py",
            voxelised=True, peak=30000.0,
        ),
        Dataset(
            "gs", "3-D Gaussian splats", ("**/quantized/**/*.ply", "**/iteration_30000/point_cloud.ply", "**/*.ply"),
            _read_any, {"14bit": 0.0}, where=f"{_RELEASED}; trained scenes: repo-sam.inria.fr/fungraph/3d-gaussian-splatting",
            licence="of the scenes; Inria's are non-commercial", format="PLY, float x, y, z and the Gaussians' parameters",
            quantisation="trained scenes: largest extent / 2^14; quantised PLY files are taken as they are",
            documented="the paper's test set is quantised already (gs_pcc/testset/quantized, posQ 1), how is not in the code",
            otherwise={"native": 1.0},
            published={"AnyPcc": 11.65, "AnyPcc-U": 11.74, "G-PCC CTC": 14.46, "RENO": 13.89}, at="native",
        ),
        Dataset(
            "vggt", "Points predicted by VGGT or DUSt3R", ("**/*.ply", "**/*.npy", "**/*.npz"),
            _read_any, {"12bit": 0.0}, where=f"{_RELEASED}; or the networks' own output (github.com/facebookresearch/vggt, "
            "github.com/naver/dust3r)", licence="of the images; the networks' weights are non-commercial",
            format="PLY, or .npy point maps of shape (..., 3), or .npz with xyz",
            quantisation="predictions: largest extent / 2^12; quantised PLY files are taken as they are",
            documented="not documented in the published code", otherwise={"native": 1.0},
            published={"AnyPcc": 7.30, "AnyPcc-U": 7.06, "G-PCC CTC": 7.33, "RENO": 8.24}, at="native",
        ),
        Dataset(
            "ct", "Surfaces and voxels of CT volumes", ("**/*.ply", "**/*.npy"), _read_any, {"10bit": 0.0},
            where=_RELEASED, licence="of the volumes", format=f"{_PLY}; or .npy of shape (N, 3)",
            quantisation="integers are taken as they are, others put on largest extent / 2^10",
            documented="not documented in the published code", otherwise={"native": 1.0},
            published={"AnyPcc": 3.18, "AnyPcc-U": 3.08, "G-PCC CTC": 3.23, "RENO": 3.94}, at="native",
        ),
    )
}  # fmt: skip
"""The paper's data sets by the name that ``anypcc evaluate --dataset`` takes. Published: arXiv 2510.20331, lossless."""


@dataclass(frozen=True)
class DatasetSource:
    """One file of a data set, known by its name (``dataset``: a key of DATASETS, as functions do not travel well)."""

    dataset: str
    path: Path
    root: Path

    @property
    def file(self) -> str:
        return f"{self.dataset}/{self.path.relative_to(self.root)}"

    @property
    def category(self) -> str:
        return self.dataset

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def peak(self) -> float | None:
        return DATASETS[self.dataset].peak

    def load(self) -> tuple[PointCloud, float]:
        """The cloud in the unit that the data set's grids count in, so its unit is 1. Raises FileError."""
        dataset = DATASETS[self.dataset]
        cloud = dataset.read(self.path)
        if dataset.lattice:
            cloud = PointCloud(np.rint(cloud.xyz.astype(np.float64) / dataset.lattice).astype(np.int32))
        return cloud, 1.0

    def grids(self, cloud: PointCloud, unit: float) -> Sequence[PeerGrid]:
        dataset = DATASETS[self.dataset]
        integers = cloud.xyz.dtype.kind == "i" and not dataset.lattice
        chosen = dataset.otherwise if integers and dataset.otherwise else dataset.grids
        return [PeerGrid(name, step or step_of_grid(name, cloud), len(cloud), 0, {}) for name, step in chosen.items()]


def dataset_sources(name: str, folder: Path, limit: int = 0) -> list[DatasetSource]:
    """The test clouds of a data set below ``folder``. ``limit``: so many, evenly spread; 0 for all. Raises FileError."""
    dataset = DATASETS[name]
    for pattern in dataset.patterns:
        paths = sorted({path for part in pattern.split("|") for path in folder.glob(part) if path.is_file()})
        if paths:
            break
    else:
        raise FileError(f"{folder}: no {dataset.title}: nothing like {' or '.join(dataset.patterns)}")
    if 0 < limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    return [DatasetSource(name, path, folder) for path in paths]


def remark(name: str) -> str:
    """What was published on a data set, as a sentence."""
    dataset = DATASETS[name]
    if not dataset.published:
        return f"{dataset.title}. The paper's figures for it are not at hand."
    figures = ", ".join(f"{codec} {bpp:.2f}" for codec, bpp in dataset.published.items())
    return f"{dataset.title}. Published (AnyPcc, arXiv 2510.20331) on `{dataset.at}`, bits per point: {figures}."


def datasets_markdown() -> str:
    """A row per data set: where it is, its licence, format, quantisation, and where that is documented."""
    rows = []
    for dataset in DATASETS.values():
        figures = ", ".join(f"{codec} {bpp:.2f}" for codec, bpp in dataset.published.items())
        cells = [dataset.where, dataset.licence, dataset.format, dataset.quantisation, dataset.documented, figures]
        rows.append([f"`{dataset.name}`: {dataset.title}", *cells])
    columns = ["data set", "where", "licence", "format", "quantisation", "documented in", "published bits per point"]
    return table(columns, rows)
