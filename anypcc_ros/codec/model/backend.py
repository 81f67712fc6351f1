"""Which arithmetic runs the integer network on this machine. All of them give the same integers."""

from __future__ import annotations

import logging

from anypcc_ros.codec.errors import BackendError
from anypcc_ros.codec.kernels import native
from anypcc_ros.codec.model.accelerated import NativeArithmetic
from anypcc_ros.codec.model.integer import IntegerModel
from anypcc_ros.codec.model.network import Arithmetic, ContextModel

_log = logging.getLogger(__name__)


def usable(backend: str) -> str:
    """The backend that one of ``config.BACKENDS`` stands for here. Raises BackendError when it cannot run."""
    if backend in ("auto", "native") and native.available():
        return "native"
    if backend == "native":
        raise BackendError(f"the native backend cannot run: {native.unavailable_reason()}")
    backend = "torch" if backend == "auto" else backend
    try:
        import torch
    except ImportError as error:
        instead = "" if native.available() else f", and there is nothing to replace it: {native.unavailable_reason()}"
        raise BackendError(f"the {backend} backend needs torch (pip install 'anypcc_ros[torch]'){instead}") from error
    if backend == "cuda" and not torch.cuda.is_available():
        raise BackendError("the cuda backend needs a CUDA device that torch can use; there is none")
    return backend


def context_model(model: IntegerModel, backend: str, threads: int) -> ContextModel:
    """The model on a backend of ``config.BACKENDS``; "auto" is native, or torch with a warning where that is missing.

    Raises BackendError when the backend cannot run here.
    """
    found = usable(backend)
    if backend == "auto" and found != "native":
        _log.warning("coding with torch, ten to a hundred times slower: %s", native.unavailable_reason())
    return ContextModel(model.config, _arithmetic(model, found, threads))


def _arithmetic(model: IntegerModel, backend: str, threads: int) -> Arithmetic:
    if backend == "native":
        return NativeArithmetic(model, threads)
    from anypcc_ros.codec.model.reference import TorchArithmetic

    return TorchArithmetic(model, "cuda" if backend == "cuda" else "cpu", threads)
