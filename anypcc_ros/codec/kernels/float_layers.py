"""Sparse convolutions in float32, forward and backward: training."""

from __future__ import annotations

from anypcc_ros.codec.kernels.library import Array, address_of, call, optional_address
from anypcc_ros.codec.kernels.plans import Plan


def conv_f32(plan: Plan, x: Array, w: Array, bias: Array | None, y: Array, threads: int = 0) -> None:
    """``y = bias + sum over taps k of x[table[:, k]] @ w[k]``, float32.

    ``x`` (n_in, cin), ``w`` (taps, cin, cout), ``bias`` (cout,) or None, ``y`` (n_out, cout) written; cin
    and cout are multiples of 16. The gradient of ``x`` is the same call on ``dy`` with the plan of the
    transposed table and ``w`` transposed per tap; a 3x3x3 neighbour table is its own transpose with ``w``
    flipped along the taps.
    """
    cin, cout = int(w.shape[1]), int(w.shape[2])
    addresses = (
        address_of(x, "x", "float32", (plan.n_in, cin)),
        address_of(w, "w", "float32", (plan.taps, cin, cout)),
        optional_address(bias, "bias", "float32", (cout,)),
        address_of(y, "y", "float32", (plan.n_out, cout)),
    )
    call("conv_f32", plan.handle, *addresses, cin, cout, threads)


def conv_f32_dw(plan: Plan, x: Array, dy: Array, dw: Array, threads: int = 0) -> None:
    """``dw[k] = sum over the pairs of tap k of x[in]^T dy[out]``, float32; ``dw`` (taps, cin, cout) written.

    The same inputs and number of threads give the same bits.
    """
    cin, cout = int(dw.shape[1]), int(dw.shape[2])
    addresses = (
        address_of(x, "x", "float32", (plan.n_in, cin)),
        address_of(dy, "dy", "float32", (plan.n_out, cout)),
        address_of(dw, "dw", "float32", (plan.taps, cin, cout)),
    )
    call("conv_f32_dw", plan.handle, *addresses, cin, cout, threads)
