"""How much of a vector each token of a text carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerkit.backends.base import Model, pad
from steerkit.data.chat import PromptLike, as_prompts
from steerkit.data.encoding import Encoded, encode
from steerkit.diagnostics import figures
from steerkit.diagnostics.statistics import cosines
from steerkit.errors import InputError
from steerkit.points import Point
from steerkit.positions import Pass
from steerkit.tables import Cell, text_table
from steerkit.vectors import SteeringVector


@dataclass(frozen=True, eq=False)
class TokenCosines:
    """One text: each token with its own cosine.

    Args:
        tokens: As they stand in the text; special ones by name.
        ids: The tokenizer's numbers.
        cosines: Of each token's activation with the vector, in [-1, 1].
        prompt_length: How many tokens belong to the prompt's template.
    """

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    cosines: Float[Tensor, " token"]
    prompt_length: int


@dataclass(frozen=True, eq=False, repr=False)
class TokenProjection:
    """The cosines of every token of some texts with a vector at one layer.

    Args:
        texts: One entry per prompt.
        layer: Where the activations were read.
        site: Likewise.
    """

    texts: tuple[TokenCosines, ...]
    layer: int
    site: str

    @property
    def scale(self) -> float:
        """The largest cosine in size; full color stands for it."""
        sizes = [float(text.cosines.abs().max()) for text in self.texts if len(text.tokens)]
        return max(sizes, default=0.0) or 1.0

    def to_html(self) -> str:
        """The texts with a colored background behind each token: blue along the vector, orange against it."""
        legend = (
            f"<div style='font-size:13px;color:#555;margin-bottom:4px'>layer {self.layer}, {escape(self.site)}: "
            f"<span style='background:{_shade(-1)};padding:0 4px'>&minus;{self.scale:.2f}</span> against the vector, "
            f"<span style='background:{_shade(1)};padding:0 4px'>+{self.scale:.2f}</span> along it (cosine)</div>"
        )
        lines = "".join(
            "<div style='line-height:1.9;margin:6px 0;padding:6px 0;border-top:1px solid #ddd'>"
            + "".join(self._span(token, value) for token, value in zip(text.tokens, text.cosines.tolist(), strict=True))
            + "</div>"
            for text in self.texts
        )
        return f"<div class='steerkit-tokens' style='font-family:monospace'>{legend}{lines}</div>"

    def _span(self, token: str, value: float) -> str:
        shown = escape(token).replace(" ", "&nbsp;").replace("\n", "\u21b5<br>") or "&nbsp;"
        style = f"background:{_shade(value / self.scale)};padding:2px 1px;border-radius:2px"
        return f"<span title='{value:+.3f}' style='{style}'>{shown}</span><wbr>"

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row per token."""
        import pandas as pd

        return pd.DataFrame(self._rows(), columns=["text", "position", "token", "id", "part", "cosine"])

    def to_json(self) -> str:
        """Everything as JSON."""
        texts = [{"tokens": text.tokens, "ids": text.ids, "cosines": text.cosines.tolist()} for text in self.texts]
        return figures.to_json({"layer": self.layer, "site": self.site, "texts": texts})

    def plot(self) -> Any:
        """A bar for each token, one panel per text."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(rows=len(self.texts), cols=1, vertical_spacing=0.3 / len(self.texts))
        for row, text in enumerate(self.texts, start=1):
            values = text.cosines.tolist()
            colors = [figures.POSITIVE if value >= 0 else figures.NEGATIVE for value in values]
            places = list(range(len(values)))
            figure.add_trace(go.Bar(x=places, y=values, marker_color=colors, showlegend=False), row=row, col=1)
            words = [repr(token)[1:-1] for token in text.tokens]
            figure.update_xaxes(tickvals=places, ticktext=words, tickfont={"size": 11}, row=row, col=1)
            figure.update_yaxes(title_text="cosine", row=row, col=1)
        title = f"Cosine of each token with the vector at layer {self.layer}"
        return figures.style(figure, title=title, height=200 + 230 * len(self.texts))

    def _rows(self) -> list[list[Cell]]:
        return [
            [n, i, token, text.ids[i], "prompt" if i < text.prompt_length else "answer", round(float(value), 4)]
            for n, text in enumerate(self.texts)
            for i, (token, value) in enumerate(zip(text.tokens, text.cosines.tolist(), strict=True))
        ]

    def __repr__(self) -> str:
        rows = [[n, i, repr(token), part, value] for n, i, token, _, part, value in self._rows()]
        title = f"Cosine of each token with the vector at layer {self.layer}, {self.site}"
        return text_table(["text", "position", "token", "part", "cosine"], rows, title=title, most=200)


def token_projection(
    model: Model,
    prompts: PromptLike | Sequence[PromptLike],
    vector: SteeringVector,
    *,
    layer: int,
    batch_size: int = 16,
    override: bool = False,
) -> TokenProjection:
    r"""The cosine $h_t \cdot v / (|h_t| |v|)$ of every token $t$ with the vector at one layer.

    The model reads the texts as it is at the time: inside a `Steer`, steered. Value `i` belongs to token `i` of what
    was fed, the beginning-of-sequence token included; padding is left out.

    Args:
        model: The model to read with.
        prompts: Texts or prompts; an answer to look at goes into the prompt's `prefill`.
        vector: The direction; its site says where in the block is read.
        layer: The decoder block, counted from 0.
        batch_size: Texts that go through the model together.
        override: Accept a vector that was made with another model of the same shape.

    Raises:
        VectorError: The vector lacks the layer or does not fit the model.
        MismatchError: It was made with another model.
        InputError: No prompt is given, one is longer than the model's context, or `batch_size` is below 1.

    Source: CAA (Rimsky et al. 2024), section 5 and `activation_steering_interp.ipynb`. We differ: all tokens of the
    text, each with its own value; CAA's notebook takes the last token of each generation step, and its labels can be
    one off.
    """
    vector.check_fits(model.info.as_dict(), override=override)
    direction = vector.select(layer)
    direction.lengths()
    several = as_prompts(prompts)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} is not valid; give 1 or more")
    encoded = [encode(one, model.tokenizer) for one in several]
    for n, one in enumerate(encoded):
        if model.info.context is not None and len(one.ids) > model.info.context:
            raise InputError(f"text {n} has {len(one.ids)} tokens, the model takes {model.info.context}; shorten it")
    texts: list[TokenCosines] = []
    for first in range(0, len(encoded), batch_size):
        texts += _read(model, encoded[first : first + batch_size], direction, layer)
    return TokenProjection(texts=tuple(texts), layer=layer, site=vector.site)


def _read(model: Model, encoded: Sequence[Encoded], vector: SteeringVector, layer: int) -> list[TokenCosines]:
    pad_id = getattr(model.tokenizer, "pad_token_id", None)
    batch = pad([one.ids for one in encoded], [one.prompt_length for one in encoded], pad_id=pad_id or 0)
    seen: list[Tensor] = []

    def keep(hidden: Tensor, _: Pass) -> None:
        seen.append(hidden.detach().to("cpu", torch.float32))

    with torch.no_grad(), model.hook(Point(layer, vector.site), keep):
        model.forward(batch, until=layer)
    (hidden,) = seen
    return [
        TokenCosines(_pieces(one, model.tokenizer), one.ids, cosines(rows[real], vector.at(layer)), one.prompt_length)
        for one, rows, real in zip(encoded, hidden, batch.real.cpu(), strict=True)
    ]


def _pieces(encoded: Encoded, tokenizer: Any) -> tuple[str, ...]:
    """Each token as it stands in the text; one that stands for no text, or shares its character, by its name."""
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(encoded.ids))]
    if not encoded.starts:
        return tuple(names)
    ends = [*encoded.starts[1:], len(encoded.text)]
    for i in range(len(ends) - 2, -1, -1):
        if ends[i] < 0:
            ends[i] = ends[i + 1]
    spans = zip(names, encoded.starts, ends, strict=True)
    return tuple(encoded.text[start:end] if 0 <= start < end else name for name, start, end in spans)


def _shade(share: float) -> str:
    red, green, blue = (0, 114, 178) if share >= 0 else (213, 94, 0)
    return f"rgba({red},{green},{blue},{0.75 * min(abs(share), 1.0):.3f})"
