"""A small visual question answerer that is trained on renders, and errs as trained judges do.

It answers "is there NAME at CELL?" from pixels: convolutions over the picture, the cell's feature against the name's
embedding. Its errors are real: similar drawings, neighbours, empty cells.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from noria.editing.world.scenes import Scene, render
from noria.editing.world.vocabulary import CELLS, NAMES

ANSWERS = ("", *NAMES)
"""Names that can be asked about; the empty one asks for an empty cell."""
SHIPPED = Path(str(files("noria.editing"))) / "assets" / "answerer.safetensors"
WIDTH = 24


class AnswererNetwork(nn.Module):
    """Logits of yes: pictures [batch, 3, 96, 96], cells [batch], names [batch] → [batch]."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, 12, 5, stride=2, padding=2), nn.GELU(),
            nn.Conv2d(12, WIDTH, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.GELU(),
            nn.AvgPool2d(3),
        )  # fmt: skip
        self.read = nn.Linear(WIDTH, WIDTH)
        self.names = nn.Embedding(len(ANSWERS), WIDTH)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, pictures: Tensor, cells: Tensor, names: Tensor) -> Tensor:
        """Answer questions: logits of yes, [batch]."""
        features = self.look(pictures).flatten(2)  # [batch, width, 16 cells]
        chosen = features.gather(2, cells[:, None, None].expand(-1, WIDTH, 1))[..., 0]
        logits: Tensor = (self.read(chosen) * self.names(names)).sum(-1) + self.bias
        return logits


def train_answerer(steps: int = 260, *, batch: int = 64, seed: int = 0) -> AnswererNetwork:
    """Train an answerer on scenes that are drawn at random; half of the true answers are yes.

    Args:
        steps: optimizer steps; fewer leave more errors.
        batch: questions of a step.
        seed: seed of weights and questions.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AnswererNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    chance = np.random.default_rng([seed, 31])
    for _ in range(steps):
        pictures, cells, names, answers = _questions(chance, batch)
        loss = functional.binary_cross_entropy_with_logits(network(pictures, cells, names), answers)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def answerer_errors(network: AnswererNetwork, *, questions: int = 2000, seed: int = 1) -> dict[str, float]:
    """Shares of wrong answers on new scenes, by the true answer: `yes` missed, `no` taken for a yes."""
    with torch.no_grad():
        pictures, cells, names, answers = _questions(np.random.default_rng([seed, 32]), questions)
        wrong = (network(pictures, cells, names) > 0).float() != answers
    return {
        word: float(wrong[answers == value].float().mean()) for word, value in (("yes", 1.0), ("no", 0.0))
    }


def save_answerer(network: AnswererNetwork, path: Path) -> None:
    """Write an answerer as safetensors."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def load_answerer(path: Path = SHIPPED) -> Callable[[Image, str, str], bool]:
    """The answerer of a file as a function of a picture, a name and a cell."""
    network = AnswererNetwork()
    network.load_state_dict(load_file(path))
    return answer_with(network.eval())


def answer_with(network: AnswererNetwork) -> Callable[[Image, str, str], bool]:
    """A function that answers whether a picture shows a name at a cell."""

    @torch.no_grad()
    def answer(image: Image, name: str, cell: str) -> bool:
        cells, names = torch.tensor([CELLS.index(cell)]), torch.tensor([ANSWERS.index(name)])
        return bool(network(_pixels([image]), cells, names)[0] > 0)

    return answer


def _questions(chance: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures with a question each, and the true answers."""
    pictures, cells, names, answers = [], [], [], []
    for _ in range(count):
        places = [CELLS[int(n)] for n in chance.permutation(16)[: int(chance.integers(2, 6))]]
        things = {cell: NAMES[int(chance.integers(len(NAMES)))] for cell in places}
        asked = places[0] if chance.random() < 0.7 else CELLS[int(chance.integers(16))]
        truth, said = things.get(asked, ""), things.get(asked, "")
        if chance.random() < 0.5:
            near = [*things.values(), ""]
            said = near[int(chance.integers(len(near)))] if chance.random() < 0.5 else truth
            while said == truth:
                said = ANSWERS[int(chance.integers(len(ANSWERS)))]
        pictures.append(render(Scene.of(things, int(chance.integers(5))), grain=int(chance.integers(2**31))))
        cells.append(CELLS.index(asked))
        names.append(ANSWERS.index(said))
        answers.append(float(said == truth))
    return _pixels(pictures), torch.tensor(cells), torch.tensor(names), torch.tensor(answers)


def _pixels(images: list[Image]) -> Tensor:
    values = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images]) / 127.5 - 1
    return torch.from_numpy(values).permute(0, 3, 1, 2)
