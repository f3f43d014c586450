"""Resume gives the uninterrupted run to the bit, for every sampling, weighting and sharing that is
registered.

A method that forgets some of its state fails here by itself: nobody has to think of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mtlcli.config import optims, samplings, sharings, weightings
from mtlcli.rundir import checkpoint
from tests.families import save_family
from tests.small_run import STEPS, cut_off, differences, resume, start

MORE = {
    "annealed": ["weighting.tasks.rte.start=3"],
    "coba": ["weighting.warmup=3", "weighting.window=4", "weighting.every=2"],
    "dwa": ["weighting.every=3"],
    "reptile": ["weighting.inner_steps=3"],
    "fomaml": ["weighting.inner_steps=2"],
    "cagrad": ["logger.probe=1"],
    "hierarchical": [
        *(
            "model.layers=2",
            "sharing.tasks.cola=0",
            "sharing.mix=true",
            "sharing.successive=0.1",
            "sharing.successive_every=3",
        ),
    ],
    "adapters": ["sharing.shared=true"],
    "lora": ["sharing.shared=true", "sharing.frozen=true"],
}
UNFREEZING = [
    "optim.unfreeze_every=3",
    "optim.layer_decay=0.5",
    "sharing=soft",
    "sharing.layers=[0]",
    "sharing.distance=pretrained",
]


def pairs() -> list[list[str]]:
    """Each weighting with a sharing strategy, so that each strategy is among them as well; each
    optimiser; each sampling policy with one or the other."""
    left, found = list(sharings), []
    others = [name for name in optims if name not in ("adamw", "adamw_8bit")]
    policies = list(samplings)
    with_optims, rest = policies[: len(others)], policies[len(others) :]
    for weighting in weightings:
        needs = weightings.configs[weighting].needs
        # Tasks that share nothing, or are trained alone, leave some methods nothing to weight.
        fits = [
            name
            for name in left
            if sharings.configs[name]().shares
            or not (needs.shared_parameters or needs.several_tasks)
        ]
        # Strategies that do not fit everywhere come first.
        fits.sort(key=lambda name: sharings.configs[name]().shares)
        sharing = fits[0] if fits else "hard"
        left = [name for name in left if name != sharing]
        more = [*MORE.get(weighting, []), *MORE.get(sharing, [])]
        shares = sharings.configs[sharing]().shares
        fitting = [name for name in rest if shares or not samplings.configs[name].needs_gradients]
        sampling = "all" if needs.several_tasks or not fitting else fitting[0]
        rest = [name for name in rest if name != sampling]
        found.append(
            [f"weighting={weighting}", f"sharing={sharing}", f"sampling={sampling}", *more]
        )
    assert not left and not rest, (left, rest)
    for sampling, optim in zip(with_optims, others, strict=True):
        options = [f"optim={optim}", "optim.schedule=wsd", "weighting=uncertainty"]
        found.append([f"sampling={sampling}", *options])
    return found


CASES = [
    *pairs(),
    ["sampling=proportional", "weighting=uncertainty"],
    ["weighting=mgda", "weighting.every=3", "sampling=all"],
    ["weighting=static", "sampling=all", "logger.probe=2", "logger.affinity=3"],
    ["runner.max_tokens=100", "sampling=temperature", "optim.plateau=1", "optim.plateau_gain=2"],
    UNFREEZING,
    [
        *("augmentation=mixup", "sampling=all", "weighting=pcgrad"),
        "tasks.rte.augment={share: 1, word_dropout: 0.2, swap: 0.2, delete: 0.2, insert: 0.2}",
    ],
    ["augmentation=r_drop", "sharing=prompt", "weighting=dwa", "logger.probe=2", "sampling=all"],
    ["augmentation=smart", "sharing=mmoe", "weighting=famo", "sampling=all"],
    ["augmentation=freelb", "augmentation.tasks=[cola,rte]", "sharing=progressive_distill"],
]
EVERY_PLACE = [
    ["sampling=proportional", "weighting=uncertainty"],
    ["weighting=mgda", "weighting.every=3", "sampling=all"],
    UNFREEZING,
]


@pytest.mark.parametrize("options", CASES, ids=" ".join)
def test_resumed_and_whole_runs_end_alike(tmp_path: Path, options: list[str]) -> None:
    model = None
    if "sharing.frozen=true" in options:
        model = tmp_path / "model"
        save_family("bert", model)
    whole = start(tmp_path / "whole", *options, model=model)
    places = [folder.name for folder in checkpoint.folders(whole / "checkpoints")]
    assert len(places) >= STEPS // 2
    # All places for one case of each kind, else one in the second epoch of every task.
    for name in places[:-1] if options in EVERY_PLACE else places[2:3]:
        broken = cut_off(whole, name, tmp_path / "broken")
        resume(broken)
        assert differences(whole, broken) == [], name
        shutil.rmtree(broken)
