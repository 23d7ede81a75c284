"""Attention in PyTorch, one thread: the yardstick of bench/attention.ts.

    python attention.py (dense | mask | flex BLOCK)

dense: scaled_dot_product_attention of everything; mask: the same with a boolean mask [tokens, tokens]; flex: compiled FlexAttention with a
block mask of BLOCK x BLOCK.

Requests (see bench/_contender.ts):
    {action: "time", folder, shape, mask, phase, seconds, most}: milliseconds of processor time
    {action: "output", ..., path}: the result as float32 numbers
        folder holds q, k and v [batch, heads, tokens, dim]; mask is
        {kind: "band", half} or {kind: "frames", frames, frameTokens, text, half, order: "frame-major" | "token-major"}
"""
import os
import sys
import time

import numpy
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from _protocol import serve

MODE = sys.argv[1]
BLOCK = int(sys.argv[2]) if MODE == "flex" else None


def keeps(mask):
    """Whether query i sees key j, for numbers or tensors of them."""
    if mask["kind"] == "band":
        half = mask["half"]
        return lambda b, h, i, j: (i - j).abs() <= half
    text, frames, tokens, half = mask["text"], mask["frames"], mask["frameTokens"], mask["half"]
    if mask["order"] == "frame-major":
        position = lambda i: (i - text) % tokens
    else:
        position = lambda i: (i - text) // frames
    return lambda b, h, i, j: (i < text) | (j < text) | ((position(i) - position(j)).abs() <= half)


def block_mask(mask, tokens):
    """The block mask, made row of blocks by row of blocks: create_block_mask takes memory for all elements."""
    see = keeps(mask)
    blocks = -(-tokens // BLOCK)
    keys = torch.arange(tokens)
    partial, full = [], []
    for row in range(blocks):
        queries = torch.arange(row * BLOCK, min(tokens, (row + 1) * BLOCK))
        seen = see(0, 0, queries[:, None], keys[None, :])
        counts = torch.nn.functional.pad(seen.sum(0), (0, blocks * BLOCK - tokens)).view(blocks, BLOCK).sum(1)
        # A block at the end of the matrix is never full.
        isfull = counts == BLOCK * BLOCK
        full.append(isfull.nonzero().flatten())
        partial.append(((counts > 0) & ~isfull).nonzero().flatten())

    def table(lists):
        numbers = torch.tensor([len(one) for one in lists], dtype=torch.int32)[None, None]
        indices = torch.zeros(1, 1, blocks, blocks, dtype=torch.int32)
        for row, one in enumerate(lists):
            indices[0, 0, row, : len(one)] = one
        return numbers, indices

    return BlockMask.from_kv_blocks(
        *table(partial), *table(full), BLOCK_SIZE=BLOCK, mask_mod=see, seq_lengths=(tokens, tokens)
    )


def call_of(request):
    shape, folder = request["shape"], request["folder"]
    read = lambda name, *sizes: torch.from_numpy(numpy.fromfile(os.path.join(folder, name), dtype=numpy.float32)).view(*sizes)
    q, k, v = [read(name, *shape) for name in ("q", "k", "v")]
    tokens = shape[2]
    if MODE == "flex":
        blocks = block_mask(request["mask"], tokens)
        # For this shape and mask: code for any shape is slower, and not always correct C++.
        torch._dynamo.reset()
        compiled = torch.compile(flex_attention, dynamic=False)
        attend = lambda: compiled(q, k, v, block_mask=blocks)
    elif MODE == "mask":
        index = torch.arange(tokens)
        seen = keeps(request["mask"])(0, 0, index[:, None], index[None, :])
        attend = lambda: scaled_dot_product_attention(q, k, v, attn_mask=seen)
    else:
        attend = lambda: scaled_dot_product_attention(q, k, v)
    return attend


last = None


@torch.no_grad()
def measure(request):
    global last
    key = [request[name] for name in ("folder", "mask")]
    if last is None or last[0] != key:
        last = (key, call_of(request))
        try:
            last[1]()
        except Exception as error:  # a compiler's output is thousands of lines long
            last = None
            raise RuntimeError(str(error)[:300]) from None
    call = last[1]
    if request["action"] == "output":
        call().contiguous().numpy().tofile(request["path"])
        return {}
    call()
    milliseconds = []
    end = time.perf_counter() + request["seconds"]
    while len(milliseconds) < 3 or (len(milliseconds) < request["most"] and time.perf_counter() < end):
        start = time.process_time()
        call()
        milliseconds.append(1e3 * (time.process_time() - start))
    return {"version": torch.__version__, "milliseconds": milliseconds}


serve(measure)
