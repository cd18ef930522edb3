"""Engines are told what really switches probabilistic drafts and rejection on; lossy settings are found."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from noria.core.errors import ConfigError
from noria.mtp.serving import lossy_settings, refuse_lossy, serving_config


def test_both_engines_draft_from_the_distribution_and_verify_by_rejection() -> None:
    config = serving_config(3)
    assert config.vllm == {
        "method": "mtp",
        "num_speculative_tokens": 3,
        "draft_sample_method": "probabilistic",
        "rejection_sample_method": "standard",
    }
    assert "--speculative-use-rejection-sampling" in config.sglang
    assert "--speculative-num-draft-tokens 4" in config.sglang
    assert lossy_settings(config.vllm) == []


def test_rules_have_settings_of_their_own() -> None:
    assert serving_config(2, "target_only").vllm["draft_sample_method"] == "greedy"
    assert not any("rejection" in flag for flag in serving_config(2, "target_only").sglang)
    assert serving_config(2, "block").vllm["rejection_sample_method"] == "block"
    with pytest.raises(ConfigError, match="use rejection"):
        serving_config(2, "match")
    with pytest.raises(ConfigError, match="1 to 32"):
        serving_config(33)


def test_commands_survive_a_shell() -> None:
    lines = serving_config(3).text("my model's folder").splitlines()
    words = shlex.split(lines[1])
    assert words[2] == "my model's folder"
    assert json.loads(words[4]) == serving_config(3).vllm


@pytest.mark.parametrize(
    "settings",
    [
        {"rejection_sample_method": "synthetic"},
        {"synthetic_acceptance_length": 2.5},
        {"--speculative-accept-threshold-single": 0.9},
        {"speculative_accept_threshold_acc": "0.5"},
        {"lenience": 0.3},
        {"spec_decoding_acceptance_method": "typical_acceptance_sampler"},
    ],
)
def test_what_changes_the_law_is_refused_unless_asked_for(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="policy's own text"):
        refuse_lossy(settings | {"num_speculative_tokens": 3})
    refuse_lossy(settings, allow_lossy=True)


def test_what_does_not_is_let_be() -> None:
    refuse_lossy(
        {"speculative_accept_threshold_single": 1.0, "lenience": 1, "rejection_sample_method": "block"}
    )
