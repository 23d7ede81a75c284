"""Runs modules written by pytorchModule in float64: jobs as JSON on stdin, results as JSON on stdout.

A job has the text of a module, its constructor's arguments, parameters, x and dy [N, H, W, C], and a number of training
steps; results are those of the last one, and of inference after it.
"""
import json
import sys

import torch
from torch import nn

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


def module_class(text):
    names = {"__name__": "generated"}
    exec(compile(text, "generated.py", "exec"), names)
    own = [v for v in names.values() if isinstance(v, type) and issubclass(v, nn.Module) and v.__module__ == "generated"]
    assert len(own) == 1
    return own[0]


def listed(tensor):
    return [v if v - v == 0 else None for v in tensor.detach().flatten().tolist()]


def run(job, inputs):
    x, dy = (torch.tensor(inputs[k]).reshape(inputs["shape"]).permute(0, 3, 1, 2) for k in ("x", "dy"))
    module = module_class(job["text"])(x.shape[1], **job["arguments"])
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.tensor(inputs[name]))

    def pass_through():
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        assert y.shape == x.shape
        (y * dy).sum().backward()
        grad = torch.zeros_like(x) if leaf.grad is None else leaf.grad
        return listed(y.permute(0, 2, 3, 1)), listed(grad.permute(0, 2, 3, 1))

    for _ in range(job["steps"]):
        y, dx = pass_through()
    result = {"y": y, "dx": dx}
    for name, parameter in module.named_parameters():
        result["d" + name] = listed(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    result["buffers"] = {name: listed(buffer) for name, buffer in module.named_buffers()}
    module.eval()
    result["y_eval"], result["dx_eval"] = pass_through()
    return result


request = json.load(sys.stdin)
json.dump([run(job, request["inputs"][job["inputs"]]) for job in request["jobs"]], sys.stdout)
