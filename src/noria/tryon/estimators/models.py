"""MediaPipe's networks, read from the files of `noria assets mediapipe` and run by LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.assets import require_asset
from noria.core.errors import DataError, require
from noria.core.files import check_input

FILES = {
    "palms": "palm_detection/palm_detection_full.tflite",
    "hand": "hand_landmark/hand_landmark_full.tflite",
    "poses": "pose_detection/pose_detection.tflite",
    "pose": "pose_landmark/pose_landmark_full.tflite",
}
"""Files of the networks inside the asset."""


class LiteModel:
    """A tflite network of one picture in and several arrays out.

    Args:
        path: the file.
        threads: threads that it may use.

    Raises:
        DataError: the file is no network, or takes no square picture.
        MissingExtra: there is no LiteRT.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        interpreter = require("ai_edge_litert.interpreter", "mediapipe").Interpreter
        check_input(path)
        try:
            self._running = interpreter(model_path=str(path), num_threads=threads)
            self._running.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise DataError(f"LiteRT cannot read it ({error})", where=str(path)) from error
        (given,) = self._running.get_input_details()
        shape = [int(n) for n in given["shape"]]
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise DataError(f"its input is {shape}, no square picture", where=str(path))
        self.side: int = shape[1]
        self._in: int = given["index"]
        # By name: the order of the outputs is the converter's, their names are the network's.
        outputs: list[dict[str, Any]] = sorted(
            self._running.get_output_details(), key=lambda o: str(o["name"])
        )
        self._out: list[int] = [output["index"] for output in outputs]

    def __call__(self, picture: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Outputs by the order of their names, without the batch axis, of a picture `[side, side, 3]`."""
        self._running.set_tensor(self._in, picture[None])
        self._running.invoke()
        return [self._running.get_tensor(index)[0] for index in self._out]


def open_lite(name: str) -> LiteModel:
    """One of MediaPipe's networks.

    Args:
        name: a key of `FILES`.

    Raises:
        ConfigError: the asset was not fetched.
        DataError: its file is damaged.
        MissingExtra: there is no LiteRT.
    """
    return LiteModel(require_asset("mediapipe") / FILES[name])
