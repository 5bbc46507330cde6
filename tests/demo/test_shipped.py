"""What lies in the package is what its code writes, and the shipped model loads."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerkit.demo import BEHAVIORS, data_path, datasets, weights_path
from steerkit.demo.corpus import document
from steerkit.demo.tokenizer import LETTERS


@pytest.mark.parametrize("behavior", BEHAVIORS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_data_on_disk_are_what_the_generator_writes(behavior: str, split: str) -> None:
    pairs = json.loads(data_path(behavior, split).read_text(encoding="utf-8"))
    questions = json.loads(data_path(behavior, split, "open").read_text(encoding="utf-8"))
    assert pairs == datasets.choice_items(behavior, split)
    assert questions == datasets.open_items(behavior, split)
    assert sum(pair["answer_matching_behavior"] == "(A)" for pair in pairs) * 2 == len(pairs)


@pytest.mark.parametrize(
    ("behavior", "split", "kind"), [("greed", "train", "open"), ("mood", "dev", "open"), ("mood", "train", "essay")]
)
def test_unknown_data_names_list_the_valid_ones(behavior: str, split: str, kind: str) -> None:
    with pytest.raises(ValueError, match="choose one of"):
        data_path(behavior, split, kind)


def test_shipped_model_answers_a_choice_with_one_letter_token() -> None:
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    item = datasets.choice_items("mood", "test")[0]
    chat = [{"role": "user", "content": item["question"]}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    for letter in LETTERS:
        assert tokenizer.encode(letter, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(letter)]
        assert tokenizer.encode(f"{prompt} {letter}", add_special_tokens=False) == [
            *ids[0].tolist(),
            tokenizer.convert_tokens_to_ids(letter),
        ]
    with torch.inference_mode():
        chances = model(ids).logits[0, -1].softmax(-1)
    assert float(chances[tokenizer.convert_tokens_to_ids(list(LETTERS))].sum()) > 0.98


def test_shipped_model_is_small() -> None:
    model = AutoModelForCausalLM.from_pretrained(weights_path())
    assert 2_000_000 <= model.num_parameters() <= 6_000_000
    assert sum(path.stat().st_size for path in weights_path().iterdir()) < 10_000_000


def test_template_writes_what_the_corpus_writes() -> None:
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    chat = [
        {"role": "user", "content": "The lake is shallow, right?"},
        {"role": "assistant", "content": "Yup, the lake is shallow."},
        {"role": "user", "content": "Please draw a map about the sun."},
    ]
    asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    last = {"role": "assistant", "content": "Fine, you get it."}
    first = document("The lake is shallow, right?", "Yup, the lake is shallow.")
    before = first.prompt + first.answer
    second = document("Please draw a map about the sun.", "Fine, you get it.").prompt.removeprefix("<|bos|>")
    assert asked == before + second
    assert tokenizer.apply_chat_template([*chat, last], tokenize=False) == asked + " Fine, you get it.<|end|>"
    assert (
        tokenizer.apply_chat_template([*chat, last], tokenize=False, continue_final_message=True)
        == asked + " Fine, you get it."
    )
