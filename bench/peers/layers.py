"""Normalization-activation layers in PyTorch, eager and compiled, one thread: the yardstick of bench/layers.ts.

    python layers.py (eager | compile) (NCHW | channels_last)

Requests (see bench/_contender.ts), with layer = {name, nodes, groups} and shape = [n, h, w, c]:
    {action: "check", layer, shape, inputs, outputs}   writes y, dx, dv0, dv1, dgamma, dbeta (NHWC, float32) to the file `outputs`
    {action: "time", layer, shape, inputs, phase, seconds, most}   phase is "forward" or "forward+backward"
    {action: "copy", shape, seconds, most}   one copy of a tensor: the memory-bandwidth floor
`inputs` is a file of float32: x, dy [n, h, w, c], v0, v1, gamma, beta [c].

The published layers are written as a PyTorch user would write them; any other graph goes through an interpreter of the 15 primitives
(conventions: tests/golden/evonorm/README.md, section 2). `check` compares the two where both exist.
"""
import sys
import time

import numpy
import torch

from _protocol import LAYOUTS, serve, times

EPSILON = 1e-5
MOMENTUM = 0.1
MODE, LAYOUT = sys.argv[1:3]

# A new shape is a new graph: kernels for dynamic shapes would be slower than what a user gets who trains at one shape.
torch._dynamo.config.automatic_dynamic_shapes = False
torch._dynamo.config.cache_size_limit = 10_000


def per_channel(vector):
    return vector.view(1, -1, 1, 1)


def instance_variance(x):
    return x.var(dim=(2, 3), unbiased=False, keepdim=True)


def instance_rms(x):
    return (x.square().mean(dim=(2, 3), keepdim=True) + EPSILON).sqrt()


def grouped(x, groups, moment):
    """moment over the pixels and channels of each group, [n, c, 1, 1]."""
    n, c, h, w = x.shape
    values = moment(x.reshape(n, groups, c // groups, h, w), (2, 3, 4))
    return values.expand(n, groups, c // groups, 1, 1).reshape(n, c, 1, 1)


def group_std(x, groups):
    return (grouped(x, groups, lambda t, dims: t.var(dim=dims, unbiased=False, keepdim=True)) + EPSILON).sqrt()


def group_rms(x, groups):
    return (grouped(x, groups, lambda t, dims: t.square().mean(dim=dims, keepdim=True)) + EPSILON).sqrt()


def batch_std(x, running_variance):
    variance = x.var(dim=(0, 2, 3), unbiased=False)
    with torch.no_grad():
        running_variance.lerp_(variance.detach(), MOMENTUM)
    return per_channel((variance + EPSILON).sqrt())


NATURAL = {
    "EvoNorm-B0": lambda x, v1, groups, running: x / torch.maximum(batch_std(x, running), x * per_channel(v1) + (instance_variance(x) + EPSILON).sqrt()),
    "EvoNorm-B1": lambda x, v1, groups, running: x / torch.maximum(batch_std(x, running), (x + 1) * instance_rms(x)),
    "EvoNorm-B2": lambda x, v1, groups, running: x / torch.maximum(batch_std(x, running), instance_rms(x) - x),
    "EvoNorm-S0": lambda x, v1, groups, running: x * torch.sigmoid(per_channel(v1) * x) / group_std(x, groups),
    "EvoNorm-S1": lambda x, v1, groups, running: torch.nn.functional.silu(x) / group_std(x, groups),
    "EvoNorm-S2": lambda x, v1, groups, running: torch.nn.functional.silu(x) / group_rms(x, groups),
}

UNARY = {
    "Neg": torch.neg,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Exp": torch.exp,
    "Log": lambda a: torch.sign(a) * torch.log(a.abs() + EPSILON),
    "Abs": torch.abs,
    "Square": torch.square,
    "Sqrt": lambda a: torch.sign(a) * torch.sqrt(a.abs() + EPSILON),
}

BINARY = {"Add": torch.add, "Mul": torch.mul, "Max": torch.maximum}

AXES = {"bwh": (0, 2, 3), "whc": (1, 2, 3), "wh": (2, 3)}


def safe_divide(a, b):
    return a / torch.where(b >= 0, b.clamp(min=EPSILON), b.clamp(max=-EPSILON))


def active_nodes(nodes):
    needed = {3 + len(nodes)}
    for index in range(3 + len(nodes), 3, -1):
        if index in needed:
            needed.update(nodes[index - 4]["inputs"])
    return needed


def interpreter(nodes):
    """The graph as a function of (x, v0, v1, groups); values keep the extents that they need, by broadcasting."""
    needed = active_nodes(nodes)
    steps = [(4 + k, node) for k, node in enumerate(nodes) if 4 + k in needed]

    def mean(value, axes, groups):
        if axes != "whc/g":
            return value.mean(dim=AXES[axes], keepdim=True)
        if value.shape[1] == 1:  # the same for all channels
            return value.mean(dim=(2, 3), keepdim=True)
        return grouped(value, groups, lambda t, dims: t.mean(dim=dims, keepdim=True))

    def variance(value, axes, groups):
        if axes != "whc/g":
            return value.var(dim=AXES[axes], unbiased=False, keepdim=True)
        if value.shape[1] == 1:
            return value.var(dim=(2, 3), unbiased=False, keepdim=True)
        return grouped(value, groups, lambda t, dims: t.var(dim=dims, unbiased=False, keepdim=True))

    def run(x, v0, v1, groups):
        values = {0: x, 1: x.new_zeros(1, 1, 1, 1), 2: per_channel(v0), 3: per_channel(v1)}
        safe = set()  # at least sqrt(EPSILON) whatever the inputs
        for index, node in steps:
            op, (a, *rest) = node["op"], node["inputs"]
            value = values[a]
            if op == "mean":
                values[index] = mean(value, node["axes"], groups)
            elif op == "rms":
                values[index] = (mean(value.square(), node["axes"], groups) + EPSILON).sqrt()
            elif op == "std":
                values[index] = (variance(value, node["axes"], groups) + EPSILON).sqrt()
            elif op == "Div":
                values[index] = value / values[rest[0]] if rest[0] in safe else safe_divide(value, values[rest[0]])
            elif op in BINARY:
                values[index] = BINARY[op](value, values[rest[0]])
            else:
                values[index] = UNARY[op](value)
            if op in ("rms", "std") or (op == "Max" and not safe.isdisjoint(node["inputs"])):
                safe.add(index)
        return values[3 + len(nodes)]

    return run


def layer_function(layer, natural):
    """y(x, v0, v1, gamma, beta, running) at the full shape."""
    groups, nodes = layer["groups"], layer["nodes"]
    graph = None if natural else interpreter(nodes)
    form = NATURAL[layer["name"]] if natural else None

    def run(x, v0, v1, gamma, beta, running):
        z = form(x, v1, groups, running) if natural else graph(x, v0, v1, groups)
        y = z * per_channel(gamma) + per_channel(beta)
        # The next convolution reads whole tensors: a result that is the same over some axes is written out.
        return y if y.shape == x.shape else y.expand(x.shape).contiguous(memory_format=LAYOUTS[LAYOUT])

    return run


class Case:
    """One layer at one shape with its inputs."""

    def __init__(self, layer, shape, inputs, natural=None, mode=MODE):
        n, h, w, c = shape
        flat = torch.from_numpy(numpy.fromfile(inputs, dtype=numpy.float32))
        size = n * h * w * c
        image = lambda t: t.view(n, h, w, c).permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[LAYOUT])
        self.x, self.dy = image(flat[:size]), image(flat[size : 2 * size])
        self.vectors = list(flat[2 * size :].clone().split(c))
        for leaf in [self.x, *self.vectors]:
            leaf.requires_grad_()
        self.running = torch.ones(c)
        if natural is None:
            natural = layer["name"] in NATURAL
        self.function = layer_function(layer, natural)
        if mode == "compile":
            self.function = torch.compile(self.function, dynamic=False)

    def forward(self):
        with torch.no_grad():
            return self.function(self.x, *self.vectors, self.running)

    def both(self):
        y = self.function(self.x, *self.vectors, self.running)
        return y, torch.autograd.grad(y, [self.x, *self.vectors], self.dy, allow_unused=True)


def flat_outputs(case):
    y, gradients = case.both()
    image = lambda t: t.detach().permute(0, 2, 3, 1).reshape(-1)
    dx, *rest = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, [case.x, *case.vectors])]
    return torch.cat([image(y), image(dx), *rest]).numpy()


def warm_up():
    """The first compilation of a process loads the compiler: not part of any layer's compile time."""
    x = torch.ones(8, requires_grad=True)
    torch.compile(lambda t: (t * torch.sigmoid(t)).sum())(x).backward()


if MODE == "compile":
    warm_up()

cases = {}


def case_of(request):
    """The case of a request, compiled at first sight; the last one is kept, for the rounds that follow."""
    key = (request["layer"]["name"], *request["shape"])
    if key not in cases:
        cases.clear()
        torch._dynamo.reset()
        cases[key] = Case(request["layer"], request["shape"], request["inputs"])
    return cases[key]


def check(request):
    case = case_of(request)
    start = time.perf_counter()
    values = flat_outputs(case)
    first = 1e3 * (time.perf_counter() - start)
    case.forward()
    values.tofile(request["outputs"])
    answer = {"firstMilliseconds": first, "bothMilliseconds": 1e3 * (time.perf_counter() - start), "naturalDifference": 0}
    if MODE == "eager" and request["layer"]["name"] in NATURAL:
        generic = flat_outputs(Case(request["layer"], request["shape"], request["inputs"], natural=False))
        answer["naturalDifference"] = float(numpy.linalg.norm(values - generic) / numpy.linalg.norm(generic))
    return answer


def measure(request):
    case = case_of(request)
    call = case.forward if request["phase"] == "forward" else case.both
    call()
    return {
        "version": torch.__version__,
        "layout": LAYOUT,
        "milliseconds": times(call, request["seconds"], request["most"]),
    }


def copy(request):
    source = torch.randn(request["shape"])
    target = torch.empty_like(source)
    target.copy_(source)
    return {"milliseconds": times(lambda: target.copy_(source), request["seconds"], request["most"])}


serve(lambda request: {"check": check, "time": measure, "copy": copy}[request["action"]](request))
