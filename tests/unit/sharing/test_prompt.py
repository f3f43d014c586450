"""Soft prompts: peft's prompt in front of the library's own embeddings, whatever the architecture;
pooled vectors and token states are those of the input; positions are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import MultitaskPromptTuningConfig
from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding
from torch import nn

from mtlcli.data.batches import Batch, join
from mtlcli.errors import UserError
from mtlcli.sharing.prompt import PromptSharing
from mtlcli.sharing.prompt.trunk import Prompt
from tests.families import FAMILIES, family_backbone, family_batch, family_trunk
from tests.small import small_model
from tests.warm import mtl

OWNERS = {"one": "one", "other": "other", "borrower": "other"}
LENGTH = 5


def prompt_trunk(family: str, pooling: str | None = None) -> Any:
    """Two tasks with prompts that differ, and one that borrows a head."""
    config = PromptSharing(length=LENGTH)
    if pooling is None:
        trunk: Any = family_trunk(family, config, OWNERS)
    else:
        trunk = Prompt(config, lambda: family_backbone(family, pooling), OWNERS).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (trunk.prompt, *trunk.own.parameters()):
            parameter += torch.randn(parameter.shape, generator=generator)
    return trunk


def with_segments(batch: Batch) -> Batch:
    return replace(batch, token_type_ids=(torch.arange(7) > 2).long() * batch.attention_mask)


def by_the_library(family: str, trunk: Any, task: int, batch: Batch) -> torch.Tensor:
    """The states of all tokens: peft's prompt, put in front of the library's embeddings of
    words."""
    network: Any = family_backbone(family).network
    words = network.get_input_embeddings()
    settings = MultitaskPromptTuningConfig(
        num_virtual_tokens=LENGTH,
        token_dim=trunk.prompt.shape[1],
        num_transformer_submodules=1,
        num_tasks=2,
        num_ranks=1,
        task_type="FEATURE_EXTRACTION",
    )
    theirs = MultitaskPromptEmbedding(settings, words)
    with torch.no_grad():
        theirs.embedding.weight.copy_(trunk.prompt)
        for number, own in enumerate(trunk.own.values()):
            theirs.prefix_task_cols[number, :, 0] = own.rows
            theirs.prefix_task_rows[number, 0] = own.columns
    count = len(batch)
    given = theirs(torch.arange(LENGTH).expand(count, -1), torch.full((count,), task))
    more = {}
    if batch.token_type_ids is not None:
        zeros = torch.zeros(count, LENGTH, dtype=torch.long)
        more["token_type_ids"] = torch.cat([zeros, batch.token_type_ids], 1)
    output = network(
        inputs_embeds=torch.cat([given, words(batch.input_ids)], 1),
        attention_mask=torch.cat([torch.ones(count, LENGTH), batch.attention_mask], 1).long(),
        **more,
    )
    states: torch.Tensor = output.last_hidden_state
    return states


@pytest.mark.parametrize("family", [*FAMILIES, "roberta"])
def test_states_are_those_behind_pefts_prompt(family: str) -> None:
    trunk, batch = prompt_trunk(family), family_batch()
    if family in ("bert", "deberta-v2"):
        batch = with_segments(batch)
    with torch.no_grad():
        for task, name in enumerate(("one", "other")):
            encoded = trunk(name, batch)
            expected = by_the_library(family, trunk, task, batch)[:, LENGTH:]
            mask = batch.attention_mask
            torch.testing.assert_close(encoded.hidden[mask], expected[mask], rtol=1e-4, atol=1e-5)
            assert encoded.hidden.shape[1] == 7 and torch.equal(encoded.mask, mask)
        assert not torch.allclose(trunk("one", batch).hidden, trunk("other", batch).hidden)
        assert torch.equal(trunk("other", batch).hidden, trunk("borrower", batch).hidden)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "pooler"])
def test_vectors_are_pooled_from_the_input_alone(pooling: str) -> None:
    trunk, batch = prompt_trunk("bert", pooling), family_batch()
    with torch.no_grad():
        states = by_the_library("bert", trunk, 0, batch)[:, LENGTH:]
        expected = {
            "cls": lambda: states[:, 0],
            "pooler": lambda: trunk.backbone.network.pooler.dense(states[:, 0]).tanh(),
            "mean": lambda: torch.stack(
                [row[:length].mean(0) for row, length in zip(states, batch.lengths, strict=True)]
            ),
            "last": lambda: torch.stack(
                [row[length - 1] for row, length in zip(states, batch.lengths, strict=True)]
            ),
        }[pooling]()
        torch.testing.assert_close(trunk("one", batch).pooled, expected, rtol=1e-4, atol=1e-5)


def test_inputs_of_a_mixed_batch_have_their_own_prompts() -> None:
    trunk, batch = prompt_trunk("gpt2"), family_batch()
    mixed = replace(join([("one", batch), ("other", batch)]), parts=(("one", 3), ("other", 3)))
    with torch.no_grad():
        found = trunk("one", mixed)
        for name, pooled in zip(("one", "other"), found.pooled.split(3), strict=True):
            torch.testing.assert_close(pooled, trunk(name, batch).pooled, rtol=1e-4, atol=1e-5)


def test_all_tasks_start_with_words_as_their_prompt() -> None:
    trunk: Any = family_trunk("bart", PromptSharing(length=LENGTH), OWNERS)
    table = family_backbone("bart").network.get_input_embeddings()
    words = table(torch.arange(400))  # type: ignore[operator]
    assert all(any(torch.equal(row, word) for word in words) for row in trunk.prompt)
    batch = family_batch()
    assert torch.equal(trunk("one", batch).hidden, trunk("other", batch).hidden)


def test_who_uses_what_and_how_fast_it_learns() -> None:
    model, _ = small_model(PromptSharing(frozen=True, lr=0.3), frozen_layers=2)
    for name, info in model.parameter_infos.items():
        trained = model.get_parameter(name).requires_grad
        if name == "trunk.prompt":
            assert (info.users, info.lr, info.depth) == (tuple(model.tasks), 0.3, 0) and trained
        elif ".own." in name:
            assert (info.users, info.lr) == ((name.split(".")[2],), 0.3) and trained
        else:
            assert trained == name.startswith("heads.")


def test_a_pooler_that_is_given_one_state_is_refused() -> None:
    def albert() -> Any:
        backbone = family_backbone("bert", "pooler")
        backbone.network.pooler = nn.Linear(32, 32)  # type: ignore[assignment]
        return backbone

    with pytest.raises(UserError, match="reads the first state") as caught:
        Prompt(PromptSharing(), albert, OWNERS)
    assert caught.value.problems[0].where == "model.pooling=pooler"


def test_a_prompt_that_leaves_no_position_is_refused_before_the_run(tmp_path: Path) -> None:
    run = ["task=rte", "data=sample", "model=tiny", "sharing=prompt", f"run_dir={tmp_path / 'run'}"]
    run += ["data.max_train_rows=20", "data.max_eval_rows=20"]
    done = mtl("train", *run, "data.max_length=500")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert (
        "data.max_length=500, but the model takes 512 tokens, of which sharing=prompt needs 20"
        in " ".join(done.stderr.split())
    )
    assert "type data.max_length=492" in done.stderr
    done = mtl("train", *run, "sharing.length=505")
    assert done.returncode == 2 and "lower sharing.length" in done.stderr
