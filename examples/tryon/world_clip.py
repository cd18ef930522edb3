"""Write a clip of the procedural world with everything that belongs to it: `python world_clip.py FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from noria.tryon.hands.track import HandTrack, write_hands
from noria.tryon.proof.world.acting import FRAMES, camera, simulate
from noria.tryon.proof.world.drawing import draw, garment_colours
from noria.tryon.video.clips import encode_clip

SIZE, SEGMENTS, FPS = 96, 6, 4
ACTING = slice(2 * FRAMES, 3 * FRAMES)


def main(folder: Path) -> None:
    """The third of six segments shows an action; the others are idle."""
    names = ["unzip" if part == 2 else "idle" for part in range(SEGMENTS)]
    motions = simulate(names, np.ones(SEGMENTS, np.bool_), np.random.default_rng(0))
    points = motions.points.reshape(-1, *motions.points.shape[2:])
    colours = garment_colours(np.array([0.2, 0.3, 0.7]), np.array([0.9, 0.9, 0.8]), vertical=False)
    pictures = draw(points, np.repeat(colours[None], len(points), 0), SIZE)
    seconds = [n / FPS for n in range(len(points))]
    joints = np.zeros((len(points), 2, 21, 3), np.float32)
    joints[:, 1] = motions.joints.reshape(-1, 21, 3)
    valid = np.zeros((len(points), 2), np.bool_)
    valid[ACTING, 1] = True
    joints[~valid] = 0
    mask = np.zeros((len(points), SIZE, SIZE), np.bool_)
    mask[:, 12:90, 14:82] = True  # one box for all frames, which tells nothing of the action
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "video.mp4").write_bytes(encode_clip((pictures * 255).astype(np.uint8), seconds))
    np.savez_compressed(folder / "mask.npz", mask=mask)
    (folder / "hands.npz").write_bytes(write_hands(HandTrack(joints, valid, camera(SIZE))))
    action = {"start": 2 * FRAMES / FPS, "end": 3 * FRAMES / FPS, "caption": "She unzips the jacket"}
    (folder / "actions.json").write_text(json.dumps([action]) + "\n")
    other = garment_colours(np.array([0.7, 0.2, 0.2]), np.array([0.95, 0.85, 0.3]), vertical=True)
    garment = np.ones((SIZE, SIZE, 3), np.float32)
    garment[24:72, 24:72] = other
    Image.fromarray((garment * 255).astype(np.uint8)).save(folder / "garment.png")
    print(f"{len(points)} frames in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "clip"))
