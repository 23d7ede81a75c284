"""Convolutions and a matrix product in PyTorch eager, one thread: the yardstick of bench/convolutions.ts.

    python convolutions.py (NCHW | channels_last)

Requests (see bench/_contender.ts):
    {action: "convolution", shape, kernel, outputs, stride, depthwise, phase, seconds, most}
        shape = [n, h, w, c] of the input, phase is "forward" or "forward+backward" (gradients to input and filter)
    {action: "matMul", size, seconds, most}
"""
import sys

import torch
import torch.nn.functional as F

from _protocol import LAYOUTS, serve, times

LAYOUT = sys.argv[1]


def normal(*shape):
    return torch.randn(*shape).to(memory_format=LAYOUTS[LAYOUT])


def convolution(shape, kernel, outputs, stride, depthwise, phase):
    n, h, w, c = shape
    x = normal(n, c, h, w)
    filters = normal(outputs, 1 if depthwise else c, kernel, kernel)
    call = lambda: F.conv2d(x, filters, stride=stride, padding=kernel // 2, groups=c if depthwise else 1)
    dy = torch.randn_like(call())
    if phase == "forward":
        return call

    def both():
        x.grad = filters.grad = None
        call().backward(dy)

    x.requires_grad_()
    filters.requires_grad_()
    return both


def measure(request):
    action, seconds, most = request.pop("action"), request.pop("seconds"), request.pop("most")
    if action == "matMul":
        matrix = torch.randn(request["size"], request["size"])
        call = lambda: matrix @ matrix
    else:
        call = convolution(**request)
    for _ in range(3):
        call()
    return {"version": torch.__version__, "layout": LAYOUT, "milliseconds": times(call, seconds, most)}


serve(measure)
