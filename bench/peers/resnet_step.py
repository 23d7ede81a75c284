"""One training step of the CIFAR pre-activation ResNet in PyTorch, eager or compiled, one thread: the yardstick of
bench/training_step.ts.

    python resnet_step.py (eager | compile) (NCHW | channels_last)

A request (see bench/_contender.ts) is {layer, batch, size, width, blocks, groups, seconds, most}; the answer has step times, resident
memory (MiB) after the imports and at its largest during the timed steps, and the number of trained parameters.
"""
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from _protocol import LAYOUTS, reset_peak, resident_mib, serve, times

MODE, LAYOUT = sys.argv[1:3]
EPSILON = 1e-5


def per_channel(vector):
    return vector.view(1, -1, 1, 1)


class EvoNormS0(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.groups = groups
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.v1 = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        n, c, h, w = x.shape
        variance = x.reshape(n, self.groups, c // self.groups, h, w).var(dim=(2, 3, 4), unbiased=False, keepdim=True)
        std = (variance + EPSILON).sqrt().expand(n, self.groups, c // self.groups, 1, 1).reshape(n, c, 1, 1)
        return x * torch.sigmoid(per_channel(self.v1) * x) / std * per_channel(self.gamma) + per_channel(self.beta)


class EvoNormB0(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.v1 = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_variance", torch.ones(channels))

    def forward(self, x):
        variance = x.var(dim=(0, 2, 3), unbiased=False)
        self.running_variance.lerp_(variance.detach(), 0.1)
        batch_std = per_channel((variance + EPSILON).sqrt())
        instance_std = (x.var(dim=(2, 3), unbiased=False, keepdim=True) + EPSILON).sqrt()
        y = x / torch.maximum(batch_std, per_channel(self.v1) * x + instance_std)
        return y * per_channel(self.gamma) + per_channel(self.beta)


def norm_activation(layer, channels, groups):
    if layer == "BN-ReLU":
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
    if layer == "GN-ReLU":
        return nn.Sequential(nn.GroupNorm(groups, channels), nn.ReLU())
    if layer == "EvoNorm-S0":
        return EvoNormS0(channels, groups)
    if layer == "EvoNorm-B0":
        return EvoNormB0(channels)
    raise ValueError(f"no peer for layer {layer}")


class Block(nn.Module):
    def __init__(self, layer, groups, channels_in, channels, stride):
        super().__init__()
        self.norm1 = norm_activation(layer, channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm2 = norm_activation(layer, channels, groups)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changes = stride != 1 or channels_in != channels
        self.projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if changes else None

    def forward(self, x):
        h = self.norm1(x)
        shortcut = x if self.projection is None else self.projection(h)
        return self.conv2(self.norm2(self.conv1(h))) + shortcut


def resnet(layer, width, blocks, groups):
    modules, channels = [nn.Conv2d(3, width, 3, 1, 1, bias=False)], width
    for stage, count in enumerate(blocks):
        for block in range(count):
            modules.append(Block(layer, groups, channels, width * 2**stage, 2 if stage > 0 and block == 0 else 1))
            channels = width * 2**stage
    return nn.Sequential(*modules, norm_activation(layer, channels, groups), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Training:
    """A model with its optimizer and one batch."""

    def __init__(self, config):
        torch.manual_seed(0)
        memory_format = LAYOUTS[LAYOUT]
        model = resnet(config["layer"], config["width"], config["blocks"], config["groups"]).to(memory_format=memory_format)
        self.parameters = sum(p.numel() for p in model.parameters())
        decayed = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0}], lr=0.1, momentum=0.9, nesterov=True
        )
        self.x = torch.randn(config["batch"], 3, config["size"], config["size"]).to(memory_format=memory_format)
        self.y = torch.randint(10, (config["batch"],))
        self.model = torch.compile(model, dynamic=False) if MODE == "compile" else model

    def step(self):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


imported = resident_mib()
training = None


def measure(config):
    global training
    answer = {}
    if training is None:
        training = Training(config)
        start = time.perf_counter()
        training.step()
        answer["firstMilliseconds"] = 1e3 * (time.perf_counter() - start)
        training.step()
        reset_peak()
    milliseconds = times(training.step, config["seconds"], config["most"], least=2)
    return {
        **answer,
        "version": torch.__version__,
        "layout": LAYOUT,
        "milliseconds": milliseconds,
        "importedMib": imported,
        "peakMib": resident_mib("VmHWM"),
        "parameters": training.parameters,
    }


serve(measure)
