"""A small clip with everything that belongs to it, as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from noria.tryon.hands.synthetic import hand
from noria.tryon.hands.track import HandTrack, write_hands
from noria.tryon.video.clips import encode_clip


def write_clip_files(folder: Path, frames: int = 9, size: tuple[int, int] = (32, 48)) -> dict[str, Path]:
    """Write a clip of moving stripes with its mask, hands, pose, actions and garment.

    Returns:
        The files by name.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    height, width = size
    times = [k / 16 for k in range(frames)]
    y, x = np.mgrid[:height, :width]
    pixels = np.stack(
        [128 + 90 * np.sin((x + y + 3 * k)[..., None] / np.array([4, 6, 9])) for k in range(frames)]
    )
    mask = np.zeros((frames, height, width), np.bool_)
    mask[:, 8:24, 12:36] = True
    joints = np.zeros((frames, 2, 21, 3), np.float32)
    for k in range(frames):
        joints[k, 0] = hand(np.array([-0.1, 0.1, 0.6]), mirror=True)
        joints[k, 1] = hand(np.array([0.05 + 0.003 * k, 0.1, 0.6]))
    camera = np.array([[50.0, 0, width / 2], [0, 50, height / 2], [0, 0, 1]])
    files = {
        name: folder / file
        for name, file in {
            "video": "clip.mp4",
            "mask": "mask.npz",
            "hands": "hands.npz",
            "pose": "pose.mp4",
            "actions": "actions.json",
            "garment": "garment.png",
        }.items()
    }
    files["video"].write_bytes(encode_clip(pixels.astype(np.uint8), times))
    np.savez(files["mask"], mask=mask)
    files["hands"].write_bytes(write_hands(HandTrack(joints, np.ones((frames, 2), np.bool_), camera)))
    files["pose"].write_bytes(encode_clip((pixels / 2).astype(np.uint8), times))
    action = {"start": 0.1, "end": 0.4, "caption": "She lifts the hem"}
    files["actions"].write_text(json.dumps([action]))
    garment = np.full((40, 30, 3), 255, np.uint8)
    garment[5:35, 5:25] = [180, 40, 60]
    Image.fromarray(garment).save(files["garment"])
    return files


def write_manifest(folder: Path, clips: int = 2) -> Path:
    """Write clips, each in a folder of its own, and their manifest; the second has no hands and no action."""
    rows = []
    for number in range(clips):
        files = write_clip_files(folder / f"c{number}")
        row = {"id": f"c{number}", "caption": f"clip {number}"}
        row |= {name: str(files[name].relative_to(folder)) for name in ("video", "garment", "mask", "pose")}
        if number == 0:
            row["hand"] = str(files["hands"].relative_to(folder))
            row["actions"] = json.loads(files["actions"].read_text())
        rows.append(row)
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
