"""Compare deformable convolution in plain PyTorch with loops, numeric gradients and conv2d."""
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gfl_plugin.compat.deform_conv import deform_conv2d

GEOMETRIES = [dict(), dict(stride=(2, 1), padding=(1, 2)), dict(stride=(1, 2), padding=(2, 1), dilation=(2, 1))]
GROUPS = [(1, 1), (2, 1), (1, 2), (2, 4)]  # of the weight, of the offsets


def arguments(geometry, groups=1, offset_groups=1, kernel=(3, 2), size=(7, 6), images=2, spread=2.):
    """Input, offsets, weight, bias and mask in float64, for 4 input and 6 output channels."""
    x, weight = torch.randn(images, 4, *size).double(), torch.randn(6, 4 // groups, *kernel).double()
    out = F.conv2d(x, weight, groups=groups, **geometry).shape[2:]
    samples = offset_groups * kernel[0] * kernel[1]
    offset = spread * torch.randn(images, 2 * samples, *out).double()
    return x, offset, weight, torch.randn(6).double(), torch.rand(images, samples, *out).double()


def pixel(plane, y, x):
    """Interpolate a plane between its four nearest pixels. Pixels outside of it are 0."""
    value, top, left = 0., math.floor(y), math.floor(x)
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            value += plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def by_loops(x, offset, weight, bias, mask, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """Eq. 1 of arXiv:1811.11168, computed one number at a time."""
    (out_channels, per_group, kh, kw), (images, channels) = weight.shape, x.shape[:2]
    offset = offset.reshape(images, -1, kh, kw, 2, *offset.shape[2:])
    mask = mask.reshape(images, -1, kh, kw, *mask.shape[2:])
    channels_of_offsets, channels_of_weights = channels // mask.shape[1], out_channels * per_group // channels
    out = np.zeros((images, out_channels, *mask.shape[4:]))
    for image, o, row, column in np.ndindex(out.shape):
        out[image, o, row, column] = bias[o]
        for k, i, j in np.ndindex(per_group, kh, kw):
            channel = o // channels_of_weights * per_group + k
            group = channel // channels_of_offsets
            dy, dx = offset[image, group, i, j, :, row, column]
            sample = pixel(x[image, channel], row * stride[0] - padding[0] + i * dilation[0] + dy,
                           column * stride[1] - padding[1] + j * dilation[1] + dx)
            out[image, o, row, column] += weight[o, k, i, j] * mask[image, group, i, j, row, column] * sample
    return out


@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('groups, offset_groups', GROUPS)
def test_equals_loops(geometry, groups, offset_groups):
    x, offset, weight, bias, mask = arguments(geometry, groups, offset_groups)
    expected = by_loops(*(t.numpy() for t in (x, offset, weight, bias, mask)), **geometry)
    found = deform_conv2d(x, offset, weight, bias, mask=mask, **geometry)
    assert np.allclose(found.numpy(), expected, atol=1e-12), 'the loops give the same, beyond the borders too'


@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('groups', [1, 2])
def test_without_offsets_it_is_a_convolution(geometry, groups):
    x, offset, weight, bias, mask = (t.float() for t in arguments(geometry, groups))
    expected = F.conv2d(x, weight, bias, groups=groups, **geometry)
    for weighting in (None, torch.ones_like(mask)):
        found = deform_conv2d(x, torch.zeros_like(offset), weight, bias, mask=weighting, **geometry)
        assert torch.allclose(found, expected, atol=1e-5), 'it should equal conv2d'


@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('groups, offset_groups', [(1, 1), (2, 2)])
def test_gradients(geometry, groups, offset_groups):
    leaves = arguments(geometry, groups, offset_groups, kernel=(2, 2), size=(4, 3), images=1, spread=0.7)
    leaves = [t.requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(lambda x, o, w, b, m: deform_conv2d(x, o, w, b, mask=m, **geometry), leaves)


def test_half_precision_and_layout():
    """fp16 rounds values, but not the places that they are read from. Channels-last layout works too."""
    x, offset, weight, bias, mask = (t.float() for t in arguments({}, kernel=(3, 3), size=(300, 300), images=1))
    expected = deform_conv2d(x, offset.half().float(), weight, bias, mask=mask)
    half = [t.half() for t in (x.to(memory_format=torch.channels_last), offset, weight, bias)]
    found = deform_conv2d(*half, mask=mask.half())
    assert found.dtype == torch.half and (found.float() - expected).abs().max() < 0.1
