"""Images per second of one training step of the CIFAR pre-activation ResNet in PyTorch eager: the yardstick of bench/resnet_step.ts.

Reads one JSON configuration per line on stdin ({layer, batch, size, width, blocks, groups, repeats}) and answers with one line of
step times in milliseconds each. One thread; channels_last and contiguous layouts are both timed and the faster one is reported.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)


class EvoNormS0(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.groups = groups
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.v1 = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        n, c, h, w = x.shape
        variance = x.reshape(n, self.groups, -1).var(dim=2, unbiased=False, keepdim=True)
        std = (variance + 1e-5).sqrt().expand(n, self.groups, c // self.groups).reshape(n, c, 1, 1)
        per_channel = lambda p: p.view(1, -1, 1, 1)
        return x * torch.sigmoid(per_channel(self.v1) * x) / std * per_channel(self.gamma) + per_channel(self.beta)


def norm_activation(layer, channels, groups):
    if layer == "BN-ReLU":
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
    if layer == "GN-ReLU":
        return nn.Sequential(nn.GroupNorm(groups, channels), nn.ReLU())
    if layer == "EvoNorm-S0":
        return EvoNormS0(channels, groups)
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


def step_times(config, memory_format):
    torch.manual_seed(0)
    model = resnet(config["layer"], config["width"], config["blocks"], config["groups"]).to(memory_format=memory_format)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0}], lr=0.1, momentum=0.9, nesterov=True
    )
    x = torch.randn(config["batch"], 3, config["size"], config["size"]).to(memory_format=memory_format)
    y = torch.randint(10, (config["batch"],))
    times = []
    for repeat in range(config["repeats"] + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        loss.item()
        if repeat >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    return times


for line in sys.stdin:
    config = json.loads(line)
    runs = {name: step_times(config, form) for name, form in [("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)]}
    best = min(runs, key=lambda name: sorted(runs[name])[len(runs[name]) // 2])
    print(json.dumps({"version": torch.__version__, "layout": best, "milliseconds": runs[best]}), flush=True)
