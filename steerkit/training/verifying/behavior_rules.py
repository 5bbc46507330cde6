"""Signs of failure in what the weights say: the shift may be there, and the behavior not.

Source: the limits are ours; see `steerkit.training.verifying.shift_rules`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steerkit.training.verifying.arms import BASE, HOOK, LORA, moves
from steerkit.training.verifying.verdict import Finding

if TYPE_CHECKING:
    from steerkit.training.verifying.verification import Verification


def unchanged(found: Verification) -> Finding | None:
    """The shift is learned, and the answers stay what they were."""
    of = found.fidelity
    learned = of.over("cosine") > 0.8 and of.over("residual") < 0.5
    if not learned or not found.choices or any(moves(arms.less(LORA, BASE)) for arms in found.choices.values()):
        return None
    hooked = any(HOOK in arms.scores and moves(arms.less(HOOK, BASE)) for arms in found.choices.values())
    arms = next(iter(found.choices.values()))
    change = arms.less(LORA, BASE)
    why = (
        "The hook does move it: the layers after the edit undo the shift, or it acts at other tokens than those that "
        "are scored."
        if hooked
        else "Nor does the hook: the vector carries the format or the length of the answers, the strength is too "
        "small, or the pairs do not ask for the behavior. Sweep first."
    )
    return Finding(
        "unchanged",
        hooked,
        f"The shift is there (cosine {of.over('cosine'):.2f}), but p(matching) does not move ({change.mean:+.3f} ± "
        f"{change.stderr:.3f}).",
        why,
    )


def short_of_hook(found: Verification) -> Finding | None:
    """The answers move less far, or farther, than under the hook."""
    if not found.choices or unchanged(found):
        return None
    arms = next(iter(found.choices.values()))
    share = arms.share(LORA)
    if math.isnan(share):
        return None
    gap = arms.less(LORA, HOOK)
    if not moves(gap) or abs(gap.mean) <= 0.05:
        return None
    return Finding(
        "short_of_hook",
        share < 0.5,
        f"p(matching) is {gap.mean:+.3f} ± {gap.stderr:.3f} from the hook's; the weights make {share:.0%} of its move.",
        "Train longer, give the adapter more rank or targets, add the output term (Objective(output=1)), or set the "
        "scale by the dose.",
    )


def loops(found: Verification) -> Finding | None:
    """The answers go round in circles."""
    if found.answers is None:
        return None
    change = found.answers.loops(LORA, BASE)
    if not moves(change) or change.mean <= 0.15:
        return None
    of = found.fidelity
    rho = of.over("wanted") / of.over("base")
    hooked = HOOK in found.answers.texts and found.answers.loops(HOOK, BASE).mean > change.mean / 2
    return Finding(
        "loops",
        True,
        f"Greedy answers repeat {float(found.answers.repeated[LORA].mean()):.0%} of their runs of three tokens, "
        f"{change.mean:+.0%} against the base's; KL to the base {of.kl_base.mean:.2g} in the mean, "
        f"{of.kl_base.rms:.2g} in the root mean square; the wanted shift is {rho:.2g} times the state.",
        (
            "So does the hook: the edit is too strong. "
            if hooked
            else "The hook does not: the training broke more than the edit does. "
        )
        + "Lower coef or alpha, take an earlier layer, train with retain and guard.",
    )


def far_from_base(found: Verification) -> Finding | None:
    """The predictions are much farther from the base than the edit takes them."""
    weights, edit = found.fidelity.kl_base, found.fidelity.kl_edit
    if not edit.tokens or not weights.rms > 3 * edit.rms + 0.05:
        return None
    return Finding(
        "far_from_base",
        False,
        f"The predictions are {weights.rms:.2g} nats from the base's (root mean square; mean {weights.mean:.2g}), the "
        f"edit's {edit.rms:.2g}.",
        "Some tokens go badly wrong, which a mean hides. Train with Objective(guard=...), fewer steps or a lower "
        "learning rate.",
    )


def low_mass(found: Verification) -> Finding | None:
    """The model no longer says either answer."""
    for arms in found.choices.values():
        lora, base = arms.scores[LORA].mass, arms.scores[BASE].mass
        if lora < 0.5 and base - lora > 0.25:
            return Finding(
                "low_mass",
                True,
                f"Both answers together have a probability of {lora:.2f}, under the base {base:.2f}.",
                "p(matching) says little then: the model is about to say something else. Lower coef, or train with a "
                "guard.",
            )
    return None


def longer(found: Verification) -> Finding | None:
    """The answers grow, so that whoever judges them may reward their length."""
    if found.answers is None:
        return None
    change, before = found.answers.longer(LORA, BASE), float(found.answers.length[BASE].mean())
    if not moves(change) or change.mean <= 0.3 * before:
        return None
    return Finding(
        "longer",
        False,
        f"Greedy answers have {change.mean:+.1f} tokens against the base's {before:.1f}.",
        "A judge that likes long answers will prefer them for that. Compare with length control, and match the "
        "lengths of chosen and rejected answers.",
    )


def one_template(found: Verification) -> Finding | None:
    """The behavior is there under one form of the questions and not under another."""
    shares = {name: arms.share(LORA) for name, arms in found.choices.items()}
    shares = {name: share for name, share in shares.items() if not math.isnan(share)}
    if len(shares) < 2:
        return None
    best, worst = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    if not (shares[best] > 0.5 and shares[worst] < shares[best] / 2):
        return None
    return Finding(
        "one_template",
        False,
        f"The weights make {shares[best]:.0%} of the hook's move on {best!r}, and {shares[worst]:.0%} on {worst!r}.",
        "They learned the template or the instruction with the behavior. Distil on the form that is used, or on "
        "several.",
    )


BEHAVIOR_RULES = (unchanged, short_of_hook, loops, far_from_base, low_mass, longer, one_template)
