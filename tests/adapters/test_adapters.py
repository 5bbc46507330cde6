"""Adapters on one base: switched exactly, taken out exactly, saved as plain peft folders."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict

import pytest
import torch
from peft import LoraConfig, PeftModel
from tiny import tiny, tiny_hf

from steerkit.adapters import Adapter, FullWeights, Lora, attach, stack
from steerkit.errors import InputError, LayerError, MismatchError, SteeringError

TEXT = "hello world"
ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen3", "mistral")


def made(model, *, seed: int = 0, std: float = 0.1, **form) -> Adapter:
    """A random adapter."""
    blocks = form.pop("among", None)
    config = Lora(**form).config(model, blocks=blocks)
    torch.manual_seed(seed)
    with attach(model, {"student": config}) as attached:
        with torch.no_grad():
            for parameter in attached.parameters("student"):
                parameter.normal_(std=std)
        return attached.adapter("student", meta={"model": model.info.as_dict()})


def snapshot(model):
    hf = model.hf
    needs = {name: one.requires_grad for name, one in hf.named_parameters()}
    return {k: v.clone() for k, v in hf.state_dict().items()}, [name for name, _ in hf.named_modules()], needs


def same(before, after) -> bool:
    values = all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    return values and before[0].keys() == after[0].keys() and before[1:] == after[1:]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_acts_only_when_it_is_on(architecture):
    model = tiny(architecture)
    before, base = snapshot(model), model.forward(TEXT)
    adapter = made(model, targets="all-linear")
    adapted = adapter.on(model)
    changed = adapted.forward(TEXT)
    assert not torch.allclose(changed, base, atol=1e-3)
    assert torch.equal(model.forward(TEXT), base)
    with adapted:
        assert torch.equal(model.forward(TEXT), changed)
    assert torch.equal(adapter.on(model, scale=0).forward(TEXT), base)
    assert same(before, snapshot(model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_alone_loads_the_folder(architecture, tmp_path):
    model = tiny(architecture)
    adapter = made(model, among=[0, 2])
    expected = adapter.on(model).forward(TEXT)
    adapter.save(tmp_path)
    batch = model.encode(TEXT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's own
        plain = PeftModel.from_pretrained(tiny_hf(architecture), str(tmp_path)).eval()
    with torch.no_grad():
        logits = plain(input_ids=batch.input_ids, attention_mask=batch.real.long()).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    again = Adapter.load(tmp_path)
    assert again.meta == adapter.meta
    assert torch.equal(again.on(model).forward(TEXT), expected)


def test_a_new_adapter_changes_nothing_and_only_it_learns():
    model = tiny()
    base = model.forward(TEXT)
    with attach(model, {"student": Lora().config(model, blocks=[0, 1]), "good": made(model)}) as attached:
        parameters = attached.parameters("student")
        learning = {name for name, one in model.hf.named_parameters() if one.requires_grad}
        assert len(parameters) == len(learning) == 8
        assert all("student" in name for name in learning)
        with attached.only("student"):
            assert torch.equal(model.forward(TEXT), base)
        with attached.only("good", "student"):
            stacked = model.forward(TEXT)
        with attached.only("good"):
            assert torch.equal(model.forward(TEXT), stacked)
        assert {name for name, one in model.hf.named_parameters() if one.requires_grad} == learning
        assert torch.equal(model.forward(TEXT), base)


def test_dropout_acts_only_in_training():
    model = tiny()
    with (
        attach(model, {"student": made(model, dropout=0.5, targets="all-linear")}) as attached,
        attached.only("student"),
    ):
        plain = model.forward(TEXT)
        with attached.train("student"):
            assert not torch.equal(model.forward(TEXT), plain)
        assert torch.equal(model.forward(TEXT), plain)


def test_held_adapters_cannot_be_switched():
    model = tiny()
    with attach(model, {"student": made(model)}) as attached, attached.only("student"):  # noqa: SIM117
        with attached.hold(), pytest.raises(SteeringError, match="cannot be switched between"):
            attached.only().__enter__()
    assert torch.equal(model.forward(TEXT), tiny().forward(TEXT))


def test_an_exception_restores_the_model():
    model = tiny()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="on purpose"), made(model).on(model):
        raise RuntimeError("on purpose")
    assert same(before, snapshot(model))


def test_full_weights_are_swapped_in_and_out():
    model, other = tiny(), tiny(seed=5)
    before, base = snapshot(model), model.forward(TEXT)
    tuned = FullWeights({name: one.detach().clone() for name, one in other.hf.named_parameters()})
    assert torch.equal(tuned.on(model).forward(TEXT), other.forward(TEXT))
    with attach(model, {"tuned": tuned, "student": made(model)}) as attached, attached.only("tuned"):
        assert torch.equal(model.forward(TEXT), other.forward(TEXT))
        with attached.only():
            assert torch.equal(model.forward(TEXT), base)
        with attached.only("tuned", "student"):
            assert not torch.equal(model.forward(TEXT), other.forward(TEXT))
        assert torch.equal(model.forward(TEXT), other.forward(TEXT))
    assert same(before, snapshot(model))


def test_full_weights_round_trip(tmp_path):
    model = tiny()
    tuned = FullWeights({"lm_head.weight": torch.ones_like(model.hf.lm_head.weight)}, {"why": "test"})
    again = FullWeights.load(tuned.save(tmp_path))
    assert torch.equal(again.tensors["lm_head.weight"], tuned.tensors["lm_head.weight"])
    assert again.meta == {"why": "test"}


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0], [0.5, 2.0]])
def test_a_stack_is_the_sum_of_the_changes(weights):
    """On one linear layer, where the sum of changes can be written down."""
    model = tiny()
    first = made(model, seed=1, r=2, alpha=7.0, targets=["down_proj"], among=[3])
    second = made(model, seed=2, r=3, alpha=5.0, targets=["q_proj", "down_proj"], among=[2, 3])
    both = stack([first, second], weights)
    name = "base_model.model.model.layers.3.mlp.down_proj.lora_{}.weight"
    a, b = name.format("A"), name.format("B")
    expected = sum(w * s * x.weights[b] @ x.weights[a]
                   for w, s, x in zip(weights, (3.5, 5 / 3), (first, second), strict=True))  # fmt: skip
    torch.testing.assert_close(both.weights[b] @ both.weights[a], expected, atol=1e-6, rtol=1e-5)
    parts = {"first": first.scaled(weights[0]), "second": second.scaled(weights[1])}
    with attach(model, parts) as attached, attached.only("first", "second"):
        separate = model.forward(TEXT)
    torch.testing.assert_close(both.on(model).forward(TEXT), separate, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stack([both]).on(model).forward(TEXT), separate, atol=1e-5, rtol=1e-5)


def test_a_stack_of_an_adapter_and_its_opposite_is_the_base():
    model = tiny()
    adapter = made(model, targets="all-linear", std=0.05)
    difference = stack([adapter, adapter], [1, -1]).on(model).forward(TEXT) - model.forward(TEXT)
    assert float(difference.abs().max()) < 1e-4


def test_gradients_reach_the_student_through_run():
    model = tiny()
    with attach(model, {"student": Lora(dropout=0).config(model, blocks=[0, 1])}) as attached, attached.only("student"):
        parameters = attached.parameters("student")
        model.run(model.encode(TEXT)).sum().backward()
        assert sum(float(one.grad.abs().sum()) > 0 for one in parameters) == len(parameters) / 2  # B = 0: no A yet
        assert not model.forward(TEXT).requires_grad


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"r": 0}, "r=0 is not a rank"),
        ({"alpha": float("nan")}, "alpha=nan is not valid"),
        ({"dropout": 1.0}, "dropout=1.0 is not valid"),
        ({"targets": ["wq"]}, "no linear layer is called .'wq'.*q_proj"),
        ({"targets": []}, "choose 'attention', 'all-linear'"),
        ({"blocks": [3]}, "adapters in blocks .3. would never be trained"),
    ],
)
def test_a_form_that_cannot_be(given, said):
    with pytest.raises(InputError, match=said):
        Lora(**given).config(tiny(), blocks=[0, 1])


def test_blocks_may_be_a_range():
    model = tiny()
    form = Lora(blocks=range(2))
    assert form == Lora(blocks=(0, 1))
    assert form.config(model).layers_to_transform == [0, 1]
    assert json.loads(json.dumps(asdict(form)))["blocks"] == [0, 1]


@pytest.mark.usefixtures("as_user")
def test_what_cannot_be_attached_is_refused(tmp_path):
    model = tiny()
    adapter = made(model)
    with pytest.raises(LayerError, match="layer 9 does not exist"):
        Lora(blocks=[9]).config(model)
    with pytest.raises(MismatchError, match="the adapter was made with another weights"):
        adapter.on(tiny(seed=3))
    assert adapter.on(tiny(seed=3), override=True).forward(TEXT).shape[-1] == 320
    with pytest.raises(InputError, match="scale=nan"):
        adapter.on(model, scale=float("nan"))
    with pytest.raises(InputError, match="adapters work on a plain Hugging Face model, not on a str"):
        adapter.on("demo")
    with pytest.raises(InputError, match=r"holds no adapter_config\.json and no adapter_model"):
        Adapter.load(tmp_path)
    with adapter.on(model), pytest.raises(SteeringError, match="carries adapters already"), adapter.on(model):
        pass
    for config, said in ((LoraConfig(r=8, target_modules=["q_proj"]), "which has no place for"),
                         (LoraConfig(r=4, target_modules=["q_proj", "v_proj"]), "which has another shape for"),
                         (LoraConfig(r=8, target_modules=["q_proj", "v_proj", "o_proj"]), "which lacks")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            Adapter(config, adapter.weights).on(model).forward(TEXT)
    with attach(model, {"good": adapter}) as one, pytest.raises(InputError, match="nothing is attached as 'bad'"):
        one.only("bad").__enter__()
    with pytest.raises(InputError, match="is no name for an adapter"), attach(model, {"my.adapter": adapter}):
        pass
    with pytest.raises(InputError, match="is not finite"):
        Adapter(adapter.config, {"x": torch.tensor([float("nan")])})
    with pytest.raises(InputError, match="2 adapters and weights"):
        stack([adapter, adapter], [1.0])
    with (
        pytest.raises(InputError, match="which is no parameter"),
        attach(model, {"f": FullWeights({"x": torch.ones(1)})}),
    ):
        pass
    assert torch.equal(model.forward(TEXT), tiny().forward(TEXT))
