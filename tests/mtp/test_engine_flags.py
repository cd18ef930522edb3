"""Engines are told what really switches probabilistic drafts and rejection on; lossy settings are found."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from noria.core.errors import ConfigError
from noria.mtp.engines.engine_flags import against_serving, lossy_settings, refuse_lossy, serving_config


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


def test_lossy_settings_are_found_where_engines_have_them() -> None:
    nested = {"speculative_config": {"method": "mtp", "synthetic_acceptance_length": 2.5}}
    assert lossy_settings(nested) == ["synthetic_acceptance_length=2.5"]
    assert lossy_settings({"speculative_config": json.dumps(nested["speculative_config"])})
    assert lossy_settings({"actor.rollout.speculative_accept_threshold_single": 0.7})
    assert lossy_settings({"--speculative-accept-threshold-acc": "loose"})
    assert not lossy_settings({"speculative_config": {"rejection_sample_method": "block"}, "model": "{x"})


def test_what_speaks_against_serving_a_head_is_said() -> None:
    assert against_serving("qwen3_5", "qwen", "qwen", 3) is None
    assert against_serving("deepseek_v3", "deepseek", "deepseek", 1) is None
    assert "no MTP for qwen3 models" in str(against_serving("qwen3", None, "qwen", 1))
    assert "under deepseek names" in str(against_serving("glm4_moe", "deepseek", "qwen", 1))
    assert "first layer" in str(against_serving("mimo", "mimo", "mimo", 2))


def test_what_does_not_is_let_be() -> None:
    refuse_lossy(
        {"speculative_accept_threshold_single": 1.0, "lenience": 1, "rejection_sample_method": "block"}
    )
