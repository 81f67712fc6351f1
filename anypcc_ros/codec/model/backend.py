"""Which arithmetic runs the integer network on this machine. All of them give the same integers."""

from __future__ import annotations

from anypcc_ros.codec.errors import BackendError
from anypcc_ros.codec.model.integer import IntegerModel
from anypcc_ros.codec.model.network import Arithmetic, ContextModel


def context_model(model: IntegerModel, backend: str, threads: int) -> ContextModel:
    """The model on a backend of ``config.BACKENDS``. Raises BackendError when it cannot run here."""
    return ContextModel(model.config, _arithmetic(model, backend, threads))


def _arithmetic(model: IntegerModel, backend: str, threads: int) -> Arithmetic:
    try:
        import torch

        from anypcc_ros.codec.model.reference import TorchArithmetic
    except ImportError as error:
        raise BackendError("the torch backend needs torch") from error
    if backend == "cuda" and not torch.cuda.is_available():
        raise BackendError("the cuda backend needs a CUDA device that torch can use; there is none")
    return TorchArithmetic(model, "cuda" if backend == "cuda" else "cpu", threads)
