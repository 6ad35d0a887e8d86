"""Time and memory of two functions, and the table that compares them.

Two functions are called in turn, A B A B ..., and a ratio is the median over neighbouring pairs. A machine that slows
down for a while then slows down both.
"""
import statistics
import time
from typing import Callable, List, NamedTuple, Sequence, Tuple

import torch

WARM_UP = 2  # rounds that do not count


class Pairs(NamedTuple):
    """Seconds of each round."""
    ours: List[float]
    theirs: List[float]


class Row(NamedTuple):
    """One comparison.

    Attributes:
        name: What was measured.
        ours: The plugin's median.
        theirs: MMDetection's median.
        unit: The unit of both medians.
        ratio: How many times faster, or smaller, the plugin is.
        spread: The range of the ratio over the middle half of the pairs.
    """
    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    spread: Tuple[float, float]


def table(rows: Sequence[Row]) -> str:
    """Rows as text."""
    lines = [f'{"":58}{"ours":>10}{"mmdet":>10}       {"ratio":>7}   middle half']
    for row in rows:
        lines.append(f'{row.name:58}{row.ours:10.4g}{row.theirs:10.4g} {row.unit:5} {row.ratio:7.2f}   '
                     f'{row.spread[0]:.2f} .. {row.spread[1]:.2f}')
    return '\n'.join(lines)


def in_turn(ours: Callable, theirs: Callable, rounds: int, device: str) -> Pairs:
    """Call two functions in turn and return the seconds of each call."""
    pairs = Pairs([], [])
    for index in range(rounds + WARM_UP):
        for function, times in ((ours, pairs.ours), (theirs, pairs.theirs)):
            start = _now(device)
            function()
            end = _now(device)
            if index >= WARM_UP:
                times.append(end - start)
    return pairs


def _now(device: str) -> float:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def on_device(function: Callable, device: str) -> Callable:
    """Leave out the host's part of a function: on a GPU, capture its kernels and replay them without gaps."""
    if not device.startswith('cuda'):
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles the kernels and loads the libraries before the capture
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def compare_times(name: str, pairs: Pairs, per: float = 1.0, unit: str = 'ms') -> Row:
    """The row of two functions' times, as milliseconds or as ``per`` images a second."""
    ratios = sorted(b / a for a, b in zip(*pairs))
    quarter = len(ratios) // 4
    ours, theirs = (statistics.median(times) for times in pairs)
    values = (1e3 * ours, 1e3 * theirs) if unit == 'ms' else (per / ours, per / theirs)
    return Row(name, *values, unit, statistics.median(ratios), (ratios[quarter], ratios[-1 - quarter]))


def compare_memory(name: str, ours: float, theirs: float) -> Row:
    """The row of two numbers of bytes."""
    ratio = theirs / ours
    return Row(name, ours / 1e6, theirs / 1e6, 'MB', ratio, (ratio, ratio))


def peak_memory(function: Callable, device: str) -> int:
    """The most bytes of tensors that a call holds at once, not counting those that were held before it."""
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak
