"""Clips are calibrated on values from everywhere in a tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import spos_quant as sq
from spos_quant.sampling_stride import stride


@given(st.integers(1, 10**6), st.integers(1, 20_000))
def test_a_stride_takes_enough_and_meets_every_remainder_of_every_side(count, wanted):
    step = stride(count, wanted)
    assert step >= max(1, count // wanted)
    assert len(range(0, count, step)) >= min(wanted, count) // 4
    sides = [side for side in (2, 3, 4, 7, 8, 32) if count % side == 0 and len(range(0, count, step)) >= side]
    for side in sides:
        assert set(np.arange(0, count, step)[:side] % side) == set(range(side))


@pytest.mark.parametrize("side", [8, 16, 32])
def test_clips_are_not_calibrated_on_the_image_border_only(side):
    """Images that are dark at the border have the same clips as images that are bright everywhere."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4 * side * side, 3))
    everywhere = torch.rand(256, 4, side, side)
    inside = 0.01 * everywhere
    inside[..., 2:-2, 2:-2] = everywhere[..., 2:-2, 2:-2]
    clips = []
    for x in (everywhere, inside):
        supernet = sq.quantize(net, x[:2], bits=[(8, 8)], keep_float=["2"], calibrate=[x])
        (quantizer,) = supernet.input_quantizers()
        clips.append(quantizer.clip(8).item())
    assert clips[1] == pytest.approx(clips[0], rel=0.1)
