"""Signs of failure in the shift that the weights make.

Source: the limits are ours. Each rule is one of the signs by which RAHF, LORRA and other distillations are seen to
fail: no target, a first loss that is off, a flat loss, an adapter that does nothing or the contrary, a shift at the
wrong tokens or of the wrong size, a training that does not carry over, a merge that loses the change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.training.verifying.verdict import Finding

if TYPE_CHECKING:
    from steerkit.training.verifying.verification import Verification

IDLE = 0.02
"""A shift below this share of the wanted one counts as none."""
LEAK = 0.25
"""A shift astray above this share of the wanted one counts."""
ALIKE = 0.5
"""Shifts whose mean cosine is above this go the same way."""


def _ratio(found: Verification) -> float:
    return found.fidelity.over("norm_ratio")


def _cosine(found: Verification) -> float:
    return found.fidelity.over("cosine")


def _aimed(found: Verification) -> bool:
    """Something is wanted that the number format can tell from nothing."""
    of = found.fidelity
    rows = [i for i, layer in enumerate(of.layers) if layer in of.targets]
    return any(float(of.wanted[i]) > of.rounding * float(of.base[i]) for i in rows)


def _moved(found: Verification) -> bool:
    return _aimed(found) and _ratio(found) >= IDLE


def nothing_wanted(found: Verification) -> Finding | None:
    """The target is no different from the state as it is."""
    if _aimed(found):
        return None
    return Finding(
        "nothing_wanted",
        True,
        "The wanted shift is zero, or too small for the model's number format to tell from zero.",
        "The edit is idle, the two instructions or the two taught adapters are the same, or the strength is far too "
        "small. Look at the norm of the vector and at coef.",
    )


def first_loss(found: Verification) -> Finding | None:
    """Before the first step the error must be the whole of the wanted shift."""
    of = found.training
    if of is None or abs(of.first_error - of.first_shift) <= max(1e-3, 4 * found.fidelity.rounding) * of.first_shift:
        return None
    return Finding(
        "first_loss",
        True,
        f"The first error of the training was {of.first_error:.4g}; it must be the wanted shift's length, "
        f"{of.first_shift:.4g}.",
        "The student did not begin as the base: another mask, offset or layer in the teacher, dropout in it, or an "
        "adapter that was not new.",
    )


def flat_loss(found: Verification) -> Finding | None:
    """The training went nowhere."""
    of = found.training
    if of is None or not of.first_shift or of.missing < 0.98:
        return None
    return Finding(
        "flat_loss",
        True,
        f"At the end of the training {of.missing:.0%} of the wanted shift was still missing.",
        "No gradient reached the adapter (no block with an adapter below the targets, adapters switched before the "
        "backward pass), or the learning rate or the number of steps is far too small.",
    )


def no_effect(found: Verification) -> Finding | None:
    """The weights move nothing."""
    leak = found.fidelity.over("prompt_leak")
    if not _aimed(found) or _ratio(found) >= IDLE or leak > IDLE:
        return None
    return Finding(
        "no_effect",
        True,
        f"The weights move the state by {_ratio(found):.1%} of the wanted length.",
        "The adapter's weights are zero or nearly so, or it does not act: never or hardly trained, saved before "
        "training, attached to other modules, or lost in merging.",
    )


def wrong_sign(found: Verification) -> Finding | None:
    """The weights do the contrary."""
    if not _moved(found) or _cosine(found) > -0.2:
        return None
    return Finding(
        "wrong_sign",
        True,
        f"The realized shift points against the wanted one (cosine {_cosine(found):.2f}).",
        "coef has the other sign than in the training, the two sides are swapped, or the adapter acts with a negative "
        "scale.",
    )


def prompt_only(found: Verification) -> Finding | None:
    """The weights act on the prompt and not on the answer."""
    leak = found.fidelity.over("prompt_leak")
    if not _aimed(found) or not (_ratio(found) < 0.3 and leak > 2 * LEAK):
        return None
    return Finding(
        "prompt_only",
        True,
        f"Prompt tokens move by {leak:.0%} of the wanted length, tokens in scope by {_ratio(found):.0%}.",
        "The mask of the training is inverted or off by the length of the prompt, or the template's end is found in "
        "another place. Look at steer.preview(prompts).",
    )


def other_direction(found: Verification) -> Finding | None:
    """The weights move the state somewhere else."""
    if not _moved(found) or not -0.2 < _cosine(found) <= ALIKE or prompt_only(found):
        return None
    return Finding(
        "other_direction",
        True,
        f"The realized shift has a cosine of {_cosine(found):.2f} with the wanted one.",
        "The adapter belongs to another vector or layer, the training was too short, or each token wants a change of "
        "its own (low consistency): pool the differences, or give the adapter more rank and targets.",
    )


def undershoot(found: Verification) -> Finding | None:
    """The right way, but not far enough."""
    if not _moved(found) or _cosine(found) <= ALIKE or _ratio(found) >= 0.7:
        return None
    return Finding(
        "undershoot",
        _ratio(found) < 0.5,
        f"The realized shift has {_ratio(found):.0%} of the wanted length.",
        f"The training was too short or its learning rate too small; meanwhile a scale of {1 / _ratio(found):.1f} "
        "makes up for it.",
    )


def overshoot(found: Verification) -> Finding | None:
    """The right way, and too far."""
    if not _moved(found) or _cosine(found) <= ALIKE or _ratio(found) <= 1.3:
        return None
    return Finding(
        "overshoot",
        _ratio(found) > 1.8,
        f"The realized shift has {_ratio(found):.2f} times the wanted length.",
        "The adapter acts twice (merged and attached), its scale is above 1, or the learning rate is too high; a "
        f"scale of {1 / _ratio(found):.2f} makes up for it.",
    )


def leaks(found: Verification) -> Finding | None:
    """Tokens move that the edit leaves alone."""
    names = {"prompt_leak": "prompt tokens", "later_leak": "later tokens", "neutral_leak": "neutral text"}
    shares = {what: found.fidelity.over(name) for name, what in names.items()}
    high = {what: share for what, share in shares.items() if share > LEAK}
    if not high or prompt_only(found):
        return None
    told = ", ".join(f"{what} ({share:.0%} of the wanted length)" for what, share in high.items())
    return Finding(
        "leaks",
        False,
        f"The weights also move what the edit leaves alone: {told}.",
        "A constant shift at every token is the easiest thing to learn. Train with Objective(retain=1) or more, or a "
        "guard on the divergence.",
    )


def held_out(found: Verification) -> Finding | None:
    """What was learned does not carry over to other prompts."""
    of, missed = found.training, found.fidelity.over("residual")
    if of is None or not (missed > 2 * of.missing and missed - of.missing > 0.2):
        return None
    return Finding(
        "held_out",
        missed > 0.5,
        f"{of.missing:.0%} of the wanted shift was missing in training, {missed:.0%} is on held-out prompts.",
        "Too few or too uniform prompts for a shift that differs by token: use more, or pool the differences per "
        "example or over all.",
    )


def merge_loses(found: Verification) -> Finding | None:
    """The merged weights are not the adapter."""
    of = found.merging
    if of is None or not (of.error > 0.1 or of.kl.mean > 0.1 * found.fidelity.kl_base.mean + 1e-6):
        return None
    return Finding(
        "merge_loses",
        False,
        f"Merged in {of.dtype}, the change of the weights has an error of {of.error:.0%}, and the predictions are "
        f"{of.kl.mean:.2g} nats a token from the adapter's (these {found.fidelity.kl_base.mean:.2g} from the base's).",
        "The format rounds small changes away. Merge in float32 or float16, or ship the adapter.",
    )


def scale_zero(found: Verification) -> Finding | None:
    """An adapter at scale 0 is not the base."""
    if found.dose is None or found.dose.zero_is_base:
        return None
    return Finding(
        "scale_zero",
        True,
        "At scale 0 the logits differ from the base's.",
        "Something else than the adapter acts: a hook, another adapter, or a base whose weights were changed.",
    )


def dose_bends(found: Verification) -> Finding | None:
    """More of the adapter is not more of the shift."""
    if found.dose is None or not _moved(found) or found.dose.monotone or not found.dose.zero_is_base:
        return None
    return Finding(
        "dose_bends",
        False,
        "The realized shift does not grow with the scale: " + ", ".join(f"{one:.2f}" for one in found.dose.along) + ".",
        "The weights work near scale 1 only; do not use the scale as a dial.",
    )


SHIFT_RULES = (
    nothing_wanted,
    first_loss,
    flat_loss,
    no_effect,
    wrong_sign,
    prompt_only,
    other_direction,
    undershoot,
    overshoot,
    leaks,
    held_out,
    merge_loses,
    scale_zero,
    dose_bends,
)
