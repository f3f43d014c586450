"""Which attention runs: plain products in training with dropout on a CPU, torch's kernel else;
masks fit both, in copies of layers too. Where the layers are like BERT's, the products are our own,
with cheap dropout."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from mtlcli.fast.attention import PLAIN, AttentionSwitch, switch_attention
from mtlcli.models.backbone import Backbone
from tests.families import FAMILIES, family_batch, family_trunk


def configs(trunk: torch.nn.Module) -> set[str]:
    networks = [module for module in trunk.modules() if isinstance(module, PreTrainedModel)]
    return {
        module.config._attn_implementation
        for network in networks
        for module in network.modules()
        if hasattr(module, "config")
    }


@pytest.mark.parametrize("sharing", ["hard", "none", "soft", "cross_stitch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_evaluation_agree_but_for_dropout(family: str, sharing: str) -> None:
    trunk = family_trunk(family, sharing)
    before = configs(trunk)
    for backbone in [module for module in trunk.modules() if isinstance(module, Backbone)]:
        # Some tiny configurations have no dropout; it is taken out again below.
        if before == {"sdpa"}:
            backbone.attention_switch = AttentionSwitch(backbone.network)
    for module in trunk.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    batch = family_batch()
    with torch.no_grad():
        expected = trunk("squad", batch)
        found = trunk.train()("squad", batch)
        plain = PLAIN if family == "bert" else "eager"
        assert configs(trunk) == ({plain} if before == {"sdpa"} else before)
        torch.testing.assert_close(
            found.hidden[batch.attention_mask],
            expected.hidden[batch.attention_mask],
            atol=2e-5,
            rtol=1e-4,
        )
        again = trunk.eval()("squad", batch)
    assert configs(trunk) == before and torch.equal(again.hidden, expected.hidden)


def test_a_configured_attention_is_kept() -> None:
    from transformers import BertConfig, BertModel

    def backbone(implementation: str, dropout: float, precision: str = "fp32") -> Backbone:
        config = BertConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            vocab_size=99,
        )
        config.attention_probs_dropout_prob = dropout
        made = Backbone(BertModel._from_config(config, attn_implementation=implementation), "cls")
        switch_attention(made, precision)
        return made

    assert configs(backbone("sdpa", 0.1).train()) == {PLAIN}
    assert configs(backbone("sdpa", 0.0).train()) == {"sdpa"}
    assert configs(backbone("sdpa", 0.0, "bf16").train()) == {PLAIN}
    assert configs(backbone("sdpa", 0.0, "bf16").eval()) == {"sdpa"}
    assert configs(backbone("eager", 0.1).train().eval()) == {"eager"}
