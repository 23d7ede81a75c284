"""Writes scenes.json and moving_scenes.json beside this file: `python make.py`. Needs NumPy and safetensors."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import moving_scenes
import scenes

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "../../../data/checkpoints"


def sha256(pixels):
    return hashlib.sha256(np.ascontiguousarray(pixels, dtype=np.uint8).tobytes()).hexdigest()


def to_bytes(pixels):
    return np.rint(pixels * 255.0).astype(np.uint8)


def spoil(first, second, seed, mix, noise, blurs):
    """bytes [.., side, side, 3]: a mixture of two pictures with noise, blurred: integers, or doubles in a stated order"""
    draws = scenes.Rng(seed)
    mixed = first.astype(np.float64) * (1.0 - mix) + second.astype(np.float64) * mix
    flat = mixed.reshape(-1)
    for i in range(flat.size):
        flat[i] = flat[i] + noise * draws.real(-1.0, 1.0)
    out = np.floor(np.minimum(np.maximum(mixed, 0.0), 255.0) + 0.5).astype(np.int64)
    for _ in range(blurs):
        pad = [(0, 0)] * (out.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
        wide = np.pad(out, pad, mode="edge")
        side = out.shape[-2]
        total = sum(wide[..., a:a + side, b:b + side, :] for a in range(3) for b in range(3))
        out = (2 * total + 9) // 18  # the mean of nine, halves up
    return out.astype(np.uint8)


# mix, noise, blurs: from a clean picture to one that hardly shows anything
SPOILING = [(0.0, 0.0, 0), (0.0, 40.0, 0), (0.0, 70.0, 1), (0.3, 30.0, 0), (0.45, 20.0, 1), (0.1, 0.0, 2)]


def description(scene):
    return {
        "caption": scene["caption"],
        "background": [list(channel) for channel in scene["background"]],
        "objects": scene["objects"],
    }


def scored(module, score, detect, count, caption_shift):
    cases = []
    for i in range(count):
        mix, noise, blurs = SPOILING[i % len(SPOILING)]
        first, second = module.sample_scene(100 + i), module.sample_scene(5000 + i)
        pixels = spoil(to_bytes(module.render(first)), to_bytes(module.render(second)), i, mix, noise, blurs)
        unit = pixels / 255.0
        captions = [first["caption"], module.sample_scene(100 + i + caption_shift)["caption"]]
        cases.append({
            "first": 100 + i, "second": 5000 + i, "seed": i, "mix": mix, "noise": noise, "blurs": blurs,
            "sha256": sha256(pixels), "found": detect(unit),
            "scores": [{"caption": caption, **score(unit, caption)} for caption in captions],
        })
    return cases


def embedded(folder, tokenize, captions):
    tables = load_file(CHECKPOINTS / folder / "text_embedding.safetensors")
    cases = []
    for caption in captions:
        ids, count = tokenize(caption)
        states = tables["token_embedding"][ids] + tables["position_embedding"]
        cases.append({"caption": caption, "ids": ids, "count": count,
                      "sha256": hashlib.sha256(states.astype("<f4").tobytes()).hexdigest()})
    return cases


def write(name, value):
    text = json.dumps(value, default=lambda number: number.item())
    (HERE / name).write_text(text.replace("}, {", "},\n{") + "\n")


def seeds_of():
    return [*range(100), 5000, 7000, 1_000_000, 1_069_711, 2**31 - 1, 2**31, 2**32 - 1]


def make(module):
    return [{"seed": seed, "sha256": sha256(to_bytes(module.render(module.sample_scene(seed)))),
             "caption": module.sample_scene(seed)["caption"]} for seed in seeds_of()]


write("scenes.json", {
    "scenes": make(scenes),
    "descriptions": [{"seed": seed, **description(scenes.sample_scene(seed))} for seed in range(8)],
    "scores": scored(scenes, scenes.scene_eval, scenes.find_objects, 60, 1),
    "captions": embedded("scenes-pixart", scenes.tokenize, ["", *(scenes.sample_scene(s)["caption"] for s in range(12))]),
    "noise": {"seed": 2_000_000, "values": [float(v) for v in scenes.noise(2_000_000)[:64]]},
})
write("moving_scenes.json", {
    "scenes": make(moving_scenes),
    "descriptions": [{"seed": seed, **description(moving_scenes.sample_scene(seed))} for seed in range(12)],
    "scores": scored(
        moving_scenes, moving_scenes.moving_eval,
        lambda clip: [{"colour": colour, "track": track, "path": moving_scenes.motion_of(track)}
                      for colour, track in moving_scenes.track(clip).items()],
        36, 1),
    "captions": embedded("moving-scenes-cogvideox", moving_scenes.tokenize,
                         ["", *(moving_scenes.sample_scene(s)["caption"] for s in range(12))]),
})
