"""The search's candidate pipeline in PyTorch eager, one thread: the yardstick of bench/search.ts.

    python search_loop.py (NCHW | channels_last)

The first request (see bench/_contender.ts) is the task: {form, batch, crop, testCrop, steps, rate, weightDecay, schedule,
stabilityBatch, classes, mean, std, train, held}, both splits as {file, count, side}: uint8 images [count, side, side, 3], then labels.
Every other one is a candidate: {text, anchors, stages}, a module written by the kit and what its evaluation consisted of, by stage:
{name, anchors: [{steps, evaluated}]}, in order, or {name, norms}, that many norms of the gradient with a step of ascent between them. The
answer has seconds by stage and the number of trained parameters by anchor.
"""
import math
import sys
import time

import numpy
import torch
import torch.nn.functional as F
from torch import nn

from _protocol import LAYOUTS, serve

MEMORY_FORMAT = LAYOUTS[sys.argv[1]]
EXPANSION = 4
ASCENT_RATE = 0.1
EVALUATION_BATCH = 100


def convolution(kernel, channels_in, channels, stride=1, groups=1):
    module = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.normal_(module.weight, 0, math.sqrt(2 / (kernel * kernel * channels / groups)))
    return module


class Affine(nn.Module):
    """What closes an inverted bottleneck: gamma * x + beta."""

    def __init__(self, channels):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels, 1, 1)), nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x):
        return torch.addcmul(self.beta, x, self.gamma)


class PreActivationBottleneck(nn.Module):
    def __init__(self, layer, channels_in, inner, stride):
        super().__init__()
        channels = inner * EXPANSION
        self.norm1, self.conv1 = layer(channels_in), convolution(1, channels_in, inner)
        self.norm2, self.conv2 = layer(inner), convolution(3, inner, inner, stride)
        self.norm3, self.conv3 = layer(inner), convolution(1, inner, channels)
        changes = stride != 1 or channels_in != channels
        self.projection = convolution(1, channels_in, channels, stride) if changes else None

    def forward(self, x):
        h = self.norm1(x)
        shortcut = x if self.projection is None else self.projection(h)
        return self.conv3(self.norm3(self.conv2(self.norm2(self.conv1(h))))) + shortcut


class InvertedBottleneck(nn.Module):
    def __init__(self, layer, channels_in, channels, expansion, stride):
        super().__init__()
        inner = channels_in * expansion
        expand = [convolution(1, channels_in, inner), layer(inner)] if expansion != 1 else []
        depthwise = [convolution(3, inner, inner, stride, groups=inner), layer(inner)]
        self.path = nn.Sequential(*expand, *depthwise, convolution(1, inner, channels), Affine(channels))
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x):
        return self.path(x) + x if self.residual else self.path(x)


def head(channels, classes):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def resnet(layer, classes, width, blocks):
    modules, channels = [convolution(3, 3, width)], width
    for stage, count in enumerate(blocks):
        for block in range(count):
            inner = width * 2**stage
            modules.append(PreActivationBottleneck(layer, channels, inner, 2 if stage > 0 and block == 0 else 1))
            channels = inner * EXPANSION
    return nn.Sequential(*modules, layer(channels), *head(channels, classes))


def mobilenet(layer, classes, stem, stages, last):
    """Stages are (expansion, channels, stride), a block each."""
    modules, channels = [convolution(3, 3, stem), layer(stem)], stem
    for expansion, output, stride in stages:
        modules.append(InvertedBottleneck(layer, channels, output, expansion, stride))
        channels = output
    return nn.Sequential(*modules, convolution(1, channels, last), layer(last), *head(last, classes))


# MobileNetV2 of 0.25 of the width, channels in multiples of 8, the first two reductions at stride 1.
STAGES = [(1, 8, 1), (6, 8, 1), (6, 8, 2), (6, 16, 2), (6, 24, 1), (6, 40, 2), (6, 80, 1)]
ANCHORS = {
    ("resnet", "smoke"): lambda layer, classes: resnet(layer, classes, 8, [1, 1, 1]),
    ("resnet", "laptop"): lambda layer, classes: resnet(layer, classes, 8, [1, 1, 1, 1]),
    ("mobilenet", "smoke"): lambda layer, classes: mobilenet(layer, classes, 8, STAGES[:4], 64),
    ("mobilenet", "laptop"): lambda layer, classes: mobilenet(layer, classes, 8, STAGES, 320),
}


def layer_class(text):
    names = {"__name__": "written"}
    exec(compile(text, "written.py", "exec"), names)
    [own] = [v for v in names.values() if isinstance(v, type) and issubclass(v, nn.Module) and v.__module__ == "written"]
    return own


class Split:
    """Images, normalised once, and labels, kept as tensors."""

    def __init__(self, mean, std, file, count, side):
        values = torch.from_numpy(numpy.fromfile(file, numpy.uint8))
        images, labels = values.split([count * side * side * 3, count])
        self.images = (images.view(count, side, side, 3) / 255 - torch.tensor(mean)) / torch.tensor(std)
        self.labels = labels.long()
        self.count, self.side = count, side

    def window(self, index, top, columns, crop):
        """Images [n, 3, crop, crop] cut out at `top` [n] and at `columns` [n, crop]."""
        rows = top.view(-1, 1, 1) + torch.arange(crop).view(1, -1, 1)
        return as_network(self.images[index.view(-1, 1, 1), rows, columns.unsqueeze(1)])

    def centre(self, crop):
        """All images in order as batches."""
        start = (self.side - crop) // 2
        for images, labels in zip(self.images.split(EVALUATION_BATCH), self.labels.split(EVALUATION_BATCH)):
            yield as_network(images[:, start : start + crop, start : start + crop]), labels

    def epochs(self, size, crop, flip):
        """Batches without end, each epoch in a new order, every image cropped and mirrored on its own."""
        across = torch.arange(crop)
        while True:
            order = torch.randperm(self.count)
            top, left = torch.randint(self.side - crop + 1, (2, self.count))
            mirrored = torch.rand(self.count) < (0.5 if flip else 0)
            columns = left.unsqueeze(1) + torch.where(mirrored.unsqueeze(1), across.flip(0), across)
            for index in order[: self.count - self.count % size].split(size):
                yield self.window(index, top[index], columns[index], crop), self.labels[index]


def as_network(images):
    return images.permute(0, 3, 1, 2).contiguous(memory_format=MEMORY_FORMAT)


class Training:
    def __init__(self, model, task):
        self.model, self.task = model, task
        weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
        others = [p for name, p in model.named_parameters() if not name.endswith("weight")]
        groups = [{"params": weights, "weight_decay": task["weightDecay"]}, {"params": others, "weight_decay": 0}]
        self.optimizer = torch.optim.SGD(groups, lr=task["rate"], momentum=0.9, nesterov=True, fused=True)
        self.batches = task["train"].epochs(task["batch"], task["crop"], flip=True)
        self.step = 0

    def advance(self, steps):
        self.model.train()
        for _ in range(steps):
            rate = self.task["rate"]
            if self.task["schedule"] == "cosine":
                rate *= (1 + math.cos(math.pi * self.step / self.task["steps"])) / 2
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            x, y = next(self.batches)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            if math.isfinite(loss.item()):
                self.optimizer.step()
            self.step += 1

    @torch.inference_mode()
    def accuracy(self):
        self.model.eval()
        held = self.task["held"]
        hits = sum((self.model(x).argmax(1) == y).sum() for x, y in held.centre(self.task["testCrop"]))
        return hits.item() / held.count


def ascend(model, task, norms):
    """Gradient ascent on the norm of the loss gradient, by double differentiation."""
    x, y = next(task["train"].epochs(task["stabilityBatch"], task["crop"], flip=False))
    parameters = list(model.parameters())
    model.train()
    for step in range(norms):
        last = step == norms - 1
        loss = F.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, parameters, create_graph=not last, materialize_grads=True)
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        norm.item()
        if last:
            return
        direction = torch.autograd.grad(norm, parameters, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=ASCENT_RATE)


def evaluate(task, text, anchors, stages):
    layer = layer_class(text)
    build = lambda name: ANCHORS[name, task["form"]](layer, task["classes"]).to(memory_format=MEMORY_FORMAT)
    trainings = [Training(build(name), task) for name in anchors]
    seconds = {}
    for stage in stages:
        start = time.perf_counter()
        if "norms" in stage:
            ascend(build(anchors[0]), task, stage["norms"])
        else:
            for training, plan in zip(trainings, stage["anchors"]):
                training.advance(plan["steps"])
                if plan["evaluated"]:
                    training.accuracy()
        seconds[stage["name"]] = time.perf_counter() - start
    parameters = [sum(p.numel() for p in training.model.parameters()) for training in trainings]
    return {"seconds": seconds, "parameters": parameters}


task = None


def handle(request):
    global task
    if task is None:
        torch.manual_seed(0)
        task = {**request, **{name: Split(request["mean"], request["std"], **request[name]) for name in ("train", "held")}}
        return {"version": torch.__version__}
    return evaluate(task, **request)


serve(handle)
