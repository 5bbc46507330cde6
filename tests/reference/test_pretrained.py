"""The whole run on real pretrained weights and real data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import steerkit as sk

sys.path.insert(0, str(Path(__file__).parent))
from mood import HELD_OUT, QUESTIONS, chat, mood, pairs

COEFS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def answers(model: sk.Steer, questions: tuple[str, ...], repeats: int) -> list[str]:
    torch.manual_seed(0)
    prompts = [chat(question) for question in questions] * repeats
    return model.generate(prompts, max_new_tokens=20, do_sample=True)


def test_the_mood_vector_shifts_the_words_of_a_chat_model_step_by_step(data_root: Path) -> None:
    model = sk.load(data_root / "models" / "CraftGPT-5M-chat", dtype="float32")
    train, held_out = sk.record(model, pairs(), read="mean", progress=False).split(test=0.25, seed=0)
    vector = sk.extract(train)
    separated = sk.separation(held_out, vector, permutations=50)
    assert max(separated.auroc) > 0.9

    def shift(layer: int) -> float:
        low, high = (sk.Steer(model).add(vector, layer=layer, coef=c) for c in (-2, 2))
        return float(mood(answers(high, QUESTIONS, 3)).mean() - mood(answers(low, QUESTIONS, 3)).mean())

    layer = max(range(model.info.num_layers), key=shift)
    scores = [mood(answers(sk.Steer(model).add(vector, layer=layer, coef=c), HELD_OUT, 16)) for c in COEFS]
    means = [float(score.mean()) for score in scores]
    errors = [float(score.std() / len(score) ** 0.5) for score in scores]
    print(
        f"layer {layer}: "
        + ", ".join(f"{c:+g}: {m:+.2f} ± {e:.2f}" for c, m, e in zip(COEFS, means, errors, strict=True))
    )
    assert means == sorted(means)
    assert means[-1] - means[0] > 6 * (errors[0] ** 2 + errors[-1] ** 2) ** 0.5


@pytest.mark.parametrize("name", ["TinyStories-656K", "stories260K"])
@pytest.mark.parametrize("behavior", ["sycophancy", "survival-instinct"])
def test_real_pairs_run_from_end_to_end(data_root: Path, tmp_path: Path, name: str, behavior: str) -> None:
    """Plumbing with long prompts and odd letters; no effect is claimed of models this small."""
    folder = data_root / "data" / "caa" / "datasets"
    model = sk.load(data_root / "models" / name, dtype="float32")
    everything = sk.load_pairs(folder / "generate" / behavior / "generate_dataset.json")
    pairs = everything.fits(model.tokenizer, model.info.context, on_long="skip")[:120]
    store = sk.record(model, pairs, path=tmp_path / "store", progress=False)
    train, held_out = sk.ActivationStore.open(tmp_path / "store", model=model).split(test=0.25, seed=0)
    assert len(train) + len(held_out) == len(store) == 120
    vector = sk.extract(train)
    assert sk.separation(held_out, vector, permutations=20).layers == tuple(range(model.info.num_layers))
    items = sk.load_pairs(folder / "test" / behavior / "test_dataset_ab.json")
    items = items.fits(model.tokenizer, model.info.context, on_long="skip")[:12]
    packed = sk.sweep(model, vector, items, coefs=(-1, 1), progress=False)
    naive = sk.sweep(model, vector, items, coefs=(-1, 1), path="naive", progress=False)
    assert packed.path == "packed"
    assert (packed.p_matching - naive.p_matching).abs().max() < 1e-4
    layer = packed.best.layer
    with sk.Steer(model) as steer:
        steer.add(vector, layer=layer, coef=1)
        scored = sk.score_choices(model, items)
        text = model.generate([items[0].positive.prompt], max_new_tokens=5)
    assert abs(scored.p_matching - packed.at(layer=layer, coef=1).p_matching) < 1e-4
    assert len(text) == 1
