from __future__ import annotations

from pathlib import Path

from recording_cases import (
    check,
    sycophancy,
)

from steerkit.data.letters import encode_pair
from steerkit.recording import record


def test_caa_reads_index_minus_two(data_root: Path) -> None:
    """On Llama-like tokenizers the letter of `(A)` is the token before the bracket, as CAA's index -2 assumes.

    CraftGPT's tokenizer drops brackets, so there -2 would be the token before the letter.
    """
    from transformers import AutoTokenizer

    pairs = sycophancy(data_root, 20)
    for name, back in (("TinyStories-656K", 2), ("stories260K", 2), ("CraftGPT-5M-chat", 1)):
        tokenizer = AutoTokenizer.from_pretrained(data_root / "models" / name)
        for pair in pairs:
            encoded = encode_pair(pair, tokenizer)
            assert encoded.letter_positive == len(encoded.positive.ids) - back
            assert encoded.letter_negative == len(encoded.negative.ids) - back


def test_real_model_and_data(data_root: Path, tmp_path: Path) -> None:
    from steerkit.backends.loading import load

    model = load(data_root / "models/TinyStories-656K", dtype="float32")
    pairs = sycophancy(data_root, 26).fits(model.tokenizer, model.info.context, on_long="skip")[:24]
    store = record(model, pairs, path=tmp_path / "s", batch_size=8)
    assert len(store) == 24
    assert store.manifest["read"] == "letter"
    check(store, model, pairs[:6], "letter", tolerance=1e-4)
    train, test = store.split(test=0.25, seed=0)
    assert abs(test.letters.count("A") - 6 * store.letters.count("A") / 24) < 1
    assert len(train) + len(test) == 24
