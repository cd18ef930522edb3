"""Teacher, student and critic: three copies, or one base with two adapters that is the teacher to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from noria.core.errors import CheckpointError
from noria.distill.adapters import SmallAdapter
from noria.distill.config import DistillConfig
from noria.distill.training.roles import LoraRoles, load_parameters, make_roles
from tests.distill.conftest import tiny_distiller, tiny_network, weights


def answer(distiller_or_roles: object, role: str) -> Tensor:
    """What a role says at fixed points."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 4, 4, generator=generator)
    sigma, labels = torch.rand(5, generator=generator), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        return distiller_or_roles.network(role)(x, sigma, labels)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_teacher_is_its_base_to_the_bit_before_and_after_training(train: str) -> None:
    alone = tiny_network()
    distiller = tiny_distiller("cdm", f"train={train}", "update_ratio=1")

    class Base:
        @staticmethod
        def network(_: str) -> torch.nn.Module:
            return alone

    expected = answer(Base, "teacher")
    assert torch.equal(answer(distiller.roles, "teacher"), expected)
    for _ in range(3):
        distiller.step()
    assert torch.equal(answer(distiller.roles, "teacher"), expected)
    assert not torch.equal(answer(distiller.roles, "student"), expected)
    assert not torch.equal(answer(distiller.roles, "critic"), expected)
    assert not torch.equal(answer(distiller.roles, "student"), answer(distiller.roles, "critic"))


@pytest.mark.parametrize("train", ["full", "lora"])
def test_student_and_critic_start_as_the_teacher(train: str) -> None:
    roles = tiny_distiller("cdm", f"train={train}").roles
    assert torch.equal(answer(roles, "student"), answer(roles, "teacher"))
    assert torch.equal(answer(roles, "critic"), answer(roles, "teacher"))


def test_lora_trains_its_adapters_alone_and_one_at_a_time() -> None:
    distiller = tiny_distiller("cdm", "train=lora")
    roles = distiller.roles
    assert isinstance(roles, LoraRoles)
    owned = {role: set(map(id, roles.parameters(role).values())) for role in ("student", "critic")}  # type: ignore[arg-type]
    assert not owned["student"] & owned["critic"]
    for role in ("student", "critic", "teacher", "student"):
        roles.network(role)  # type: ignore[arg-type]
        learning = {id(p) for p in roles.base.parameters() if p.requires_grad}
        assert learning == owned.get(role, set())
    rank = distiller.config.lora.rank
    assert all(rank in p.shape for p in roles.parameters("student").values())
    frozen = {n: p.clone() for n, p in roles.base.named_parameters() if "lora" not in n}
    distiller.step(), distiller.step()
    assert all(torch.equal(frozen[n], p) for n, p in roles.base.named_parameters() if n in frozen)


def test_lora_adds_alpha_over_rank_times_b_a() -> None:
    roles = make_roles(
        SmallAdapter(tiny_network()), DistillConfig(train="lora", lora={"rank": 2, "alpha": 6})
    )
    parameters = roles.parameters("student")
    with torch.no_grad():
        for p in parameters.values():
            p.normal_(generator=torch.Generator().manual_seed(p.numel()))
    merged = tiny_network()
    with torch.no_grad():
        for name, a in parameters.items():
            if "lora_A" in name:
                b = parameters[name.replace("lora_A", "lora_B")]
                merged.get_submodule(name.split(".lora_A")[0]).weight += 3 * b @ a

    class Merged:
        @staticmethod
        def network(_: str) -> torch.nn.Module:
            return merged

    torch.testing.assert_close(answer(roles, "student"), answer(Merged, "teacher"))


def test_weights_of_another_model_are_refused_and_nothing_is_copied() -> None:
    distiller = tiny_distiller("cdm")
    before = weights(distiller)
    other = {n: torch.zeros_like(p) for n, p in before.items()}
    last = list(other)[-1]
    for broken in (other | {last: torch.zeros(1, 2, 3)}, {n: t for n, t in other.items() if n != last}):
        with pytest.raises(CheckpointError, match="is of another model"):
            load_parameters(distiller.roles.parameters("student"), broken, where="here")
        assert all(torch.equal(before[n], p) for n, p in weights(distiller).items())
