"""Is it this direction, or would any do? The vector's effect beside that of random vectors of the same norm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair
from steerkit.errors import DataError
from steerkit.evaluation.intervals import standard_error
from steerkit.evaluation.questions import read_questions
from steerkit.evaluation.routes import answer_variants, choose_route
from steerkit.evaluation.sweeps import check_letters, check_numbers, check_vector
from steerkit.evaluation.variants import UNSTEERED, Variant
from steerkit.tables import Cell, Table, Tabular
from steerkit.vectors import SteeringVector


@dataclass(frozen=True, repr=False, eq=False)
class RandomControl(Tabular):
    """How far p(matching) moves from `-coef` to `+coef`, by the vector and by random ones as long.

    Args:
        layer: Where they are added.
        coef: The larger coefficient.
        items: The move of every item by the vector; in [-1, 1].
        random_items: The same by each random vector.
    """

    layer: int
    coef: float
    items: Float[Tensor, " item"]
    random_items: Float[Tensor, "draw item"]

    @property
    def effect(self) -> float:
        """Mean move by the vector."""
        return float(self.items.mean())

    @property
    def random(self) -> Float[Tensor, " draw"]:
        """Mean move by each random vector, of either sign."""
        return self.random_items.mean(-1)

    @property
    def p_value(self) -> float:
        """Of the null that the vector is one more random draw: share of all draws, itself included, that move as far.

        With n random vectors it cannot fall below 1 / (n + 1).
        """
        as_far = int((self.random.abs() >= abs(self.effect)).sum())
        return (1 + as_far) / (1 + len(self.random))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, without the items."""
        return {"layer": self.layer, "coef": self.coef, "effect": self.effect,
                "stderr": float(standard_error(self.items)), "random": self.random.tolist(),
                "p_value": self.p_value}  # fmt: skip

    def to_json(self) -> str:
        """The same as JSON."""
        return json.dumps(self.as_dict())

    def table(self) -> Table:
        """What is shown of it."""
        sizes = self.random.abs()
        figures = (self.effect, float(standard_error(self.items)), float(sizes.median()), float(sizes.max()))
        row: list[Cell] = [self.layer, *(round(one, 4) for one in figures), len(sizes), round(self.p_value, 4)]
        columns = ["layer", "effect", "±", "random: median size", "largest", "draws", "p"]
        return Table(columns, [row], f"p(matching) at {self.coef:+g} less that at {-self.coef:+g}")

    def plot(self) -> Any:
        """The vector's effect among those of the random ones."""
        from steerkit.evaluation.charts import plot_control

        return plot_control(self)


def random_control(
    model: Model,
    vector: SteeringVector,
    pairs: Sequence[ContrastPair],
    *,
    layer: int,
    coef: float,
    draws: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> RandomControl:
    r"""The vector's effect at one layer beside that of random vectors of its norm, all in one packed pass a batch.

    Each is $u_k = \lVert v_l \rVert \, g_k / \lVert g_k \rVert$ with $g_k$ standard normal: a direction drawn evenly
    from the sphere. The effect is p(matching) at $+c$ less that at $-c$, as in `sweep`.

    Args:
        model: The model.
        vector: Its row at the layer is tried, at its own site.
        pairs: Multiple-choice pairs, best such as had no part in choosing layer or coefficient.
        layer: Where the vectors are added.
        coef: What they are multiplied by, above 0; no unit.
        draws: Random vectors, at least 1; 19 allow p = 0.05.
        seed: Of the draws.
        progress: Show a progress bar on a terminal.

    Raises:
        DataError: No pairs, a pair that cannot be scored by letter, a bad coefficient or number of draws.
        VectorError: The vector has another width than the model, or lacks the layer.
        LayerError: The model has no such layer.
        MismatchError: The vector was made with another model.

    Source: the control of equal norm that Turner et al. 2023 (ActAdd) and many after them use; the p-value is that of a
    Monte Carlo test (Davison and Hinkley 1997, section 4.2).

    Example:
        >>> import steerkit as sk
        >>> from steerkit.data.loading import load_pairs
        >>> model = sk.load("demo")
        >>> vector = SteeringVector(torch.ones(1, model.info.hidden_size), layers=[2])
        >>> control = random_control(model, vector, load_pairs("demo:mood", split="test")[:3], layer=2, coef=1, draws=4)
        >>> control.random.shape, control.p_value >= 1 / 5
        (torch.Size([4]), True)
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise DataError(f"draws={draws!r} is not valid; give an integer of at least 1, such as 20")
    (strength,) = check_numbers([coef])
    if strength <= 0:
        raise DataError(f"coef={coef!r} is not valid; give a number above 0, both signs of it are tried")
    check_vector(model, vector, [layer])
    questions = read_questions(pairs, model.tokenizer, model.info)
    check_letters(questions)
    noise = torch.randn(draws, vector.hidden_size, generator=torch.Generator().manual_seed(seed))
    own = vector.at(layer)
    shifts = torch.cat([own.unsqueeze(0), noise / noise.norm(dim=1, keepdim=True) * own.norm().cpu()])
    variants = [UNSTEERED, *(Variant(layer, c, c * shift) for shift in shifts for c in (-strength, strength))]
    route = choose_route(model, questions, variants, path="auto", site=vector.site)
    positive, negative = answer_variants(model, questions, variants, route=route, site=vector.site, progress=progress)
    matching = torch.sigmoid(positive - negative)[1:].view(len(shifts), 2, -1)
    moved = matching[:, 1] - matching[:, 0]
    return RandomControl(layer, strength, moved[0], moved[1:])
