"""The fused class loss in Triton: one pass reads the logits, writes their gradient and sums the loss.

One kernel does the background, another the difference at the positives. Each program writes the sum of its own block.
These sums are added in a fixed order, so equal inputs give equal bits.
"""
from typing import Optional, Union

import torch
import triton
import triton.language as tl
from torch import Tensor

from .closed_form import ClassTargets, ClosedForm, DenseMap

BLOCK, WARPS = 4096, 8  # logits of a program: 16 a thread, loaded 16 bytes at a time
SLOTS = 256  # positives of a program


def sum_triton(form: ClosedForm, m: DenseMap, at: ClassTargets, weight: Optional[Tensor],
               slope_scale: Union[Tensor, float]) -> Tensor:
    """The sum of the loss over one map, fp64. It writes ``slope_scale`` times the gradient to the map's buffer."""
    x, count, slots = m.x, m.x.numel(), at.score.numel()
    cells, classes = x.shape[1:] if m.by_channel else reversed(x.shape[1:])
    step = classes if m.by_channel else 1
    blocks, more = triton.cdiv(count, BLOCK), triton.cdiv(slots, SLOTS)
    sums = x.new_empty(blocks + more, dtype=torch.float32)
    if not isinstance(slope_scale, Tensor):
        slope_scale = x.new_full((), slope_scale, dtype=torch.float32)
    weight, image, label, cell, score, valid = (t if t is None else t.contiguous() for t in (weight, *at))
    with torch.cuda.device_of(x):
        if blocks:
            _sum_background[(blocks, )](
                x, m.buffer, weight, slope_scale, sums, count, cells, classes * cells, step,
                GAMMA=float(form.gamma), ALPHA=float(form.alpha), BLOCK=BLOCK, num_warps=WARPS)
        if more:
            _correct_positives[(more, )](
                x, m.buffer, weight, slope_scale, sums[blocks:], image, label, cell, valid, score, slots,
                classes, classes * cells, 1 if m.by_channel else cells, step, cells,
                GAMMA=float(form.gamma), ALPHA=float(form.alpha), BETA=float(form.beta), A=float(form.factor[0]),
                B=float(form.factor[1]), SLOTS=SLOTS,
                LIMIT=torch.finfo(x.dtype).max if x.dtype == torch.float16 else float('inf'))
    return sums.sum(dtype=torch.float64)


@triton.jit
def _power(base, EXPONENT: tl.constexpr):
    """base^EXPONENT for base >= 0."""
    if EXPONENT == 0:
        result = tl.full(base.shape, 1.0, tl.float32)
    elif EXPONENT == 1:
        result = base
    elif EXPONENT == 2:
        result = base * base
    else:
        result = tl.exp2(EXPONENT * tl.log2(base))
    return result


@triton.jit
def _sigmoids(x):
    """sigma(x), 1 - sigma(x) and softplus(x), each to its last digits.

    Keep this under about 30 instructions per logit, or arithmetic takes longer than memory.
    """
    e = tl.exp(-tl.abs(x))
    inverse = tl.rsqrt((1 + e) * (2 + e))  # squared it is 1 / (...), cheaper than a full-precision division
    inverse = inverse * inverse
    near = (2 + e) * inverse  # sigma(|x|)
    far = e * near
    # log(1 + e) = 2 artanh(t) with t = e / (2 + e) <= 1/3; the omitted terms are below the rounding.
    t = e * (1 + e) * inverse
    s = t * t
    series = 1 + s * (1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9 + s * (1 / 11 + s * (1 / 13))))))
    return tl.where(x >= 0, near, far), tl.where(x >= 0, far, near), tl.maximum(x, 0) + 2 * t * series


@triton.jit
def _background(sigma, rest, softplus, GAMMA: tl.constexpr):
    """B = sigma^gamma softplus(x), and its derivative sigma^(gamma + 1) + gamma (1 - sigma) B."""
    power = _power(sigma, GAMMA)
    loss = power * softplus
    return loss, power * sigma + GAMMA * rest * loss


@triton.jit
def _sum_background(x_at, gradient_at, weight_at, scale_at, sums_at, count, cells_of_image, numbers_of_image, step,
                    GAMMA: tl.constexpr, ALPHA: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    index = tl.arange(0, BLOCK)
    inside = index < count - first
    x = tl.load(x_at + first + index, mask=inside, other=-float('inf')).to(tl.float32)  # adds nothing
    sigma, rest, softplus = _sigmoids(x)
    loss, slope = _background(sigma, rest, softplus, GAMMA)
    if weight_at is not None:
        i = first + index
        w = tl.load(weight_at + i // numbers_of_image * cells_of_image + i // step % cells_of_image, mask=inside,
                    other=0)
        loss, slope = w * loss, w * slope
    scale = ALPHA * tl.load(scale_at)
    tl.store(gradient_at + first + index, (scale * slope).to(gradient_at.dtype.element_ty), mask=inside)
    tl.store(sums_at + tl.program_id(0), ALPHA * tl.sum(loss))


@triton.jit
def _correct_positives(x_at, gradient_at, weight_at, scale_at, sums_at, image_at, label_at, cell_at, valid_at,
                       target_at, count, classes, image_stride, label_stride, cell_stride, cells_of_image,
                       GAMMA: tl.constexpr, ALPHA: tl.constexpr, BETA: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
                       SLOTS: tl.constexpr, LIMIT: tl.constexpr):
    slot = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    valid = slot < count
    if valid_at is not None:
        valid = valid & (tl.load(valid_at + slot, mask=valid, other=0) != 0)
    label = tl.load(label_at + slot, mask=valid, other=0)
    valid = valid & (label >= 0) & (label < classes)  # any other label counts as background
    y = tl.load(target_at + slot, mask=valid, other=0).to(tl.float32)
    image = tl.load(image_at + slot, mask=valid, other=0)
    cell = tl.load(cell_at + slot, mask=valid, other=0)
    position = image * image_stride + label * label_stride + cell * cell_stride
    x = tl.load(x_at + position, mask=valid, other=0).to(tl.float32)

    sigma, rest, softplus = _sigmoids(x)
    background, background_slope = _background(sigma, rest, softplus, GAMMA)
    distance = y - sigma
    cross_entropy = softplus - x * y
    power = (A + B * y) * _power(tl.abs(distance), BETA)
    turn = distance + BETA * sigma * rest * cross_entropy / tl.where(distance == 0, 1.0, distance)
    loss = tl.where(y > 0, power * cross_entropy, ALPHA * background)
    slope = tl.where(y > 0, tl.where(distance == 0, 0.0, -power * turn), ALPHA * background_slope)
    change = loss - ALPHA * background
    if weight_at is not None:
        w = tl.load(weight_at + image * cells_of_image + cell, mask=valid, other=0)
        change, slope = w * change, w * slope
    slope = tl.load(scale_at) * slope
    slope = tl.where(slope > LIMIT, LIMIT, tl.where(slope < -LIMIT, -LIMIT, slope))  # NaN stays
    tl.store(gradient_at + position, slope.to(gradient_at.dtype.element_ty), mask=valid)
    tl.store(sums_at + tl.program_id(0), tl.sum(tl.where(valid, change, 0.0)))
