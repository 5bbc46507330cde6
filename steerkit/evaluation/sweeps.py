"""A layer by coefficient sweep: every cell of the grid, for about the price of one forward pass a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, get_args

from steerkit.backends.base import Model
from steerkit.data.pairs import ContrastPair
from steerkit.errors import DataError, MismatchError, VectorError
from steerkit.evaluation.grids import Sweep
from steerkit.evaluation.questions import Question, read_questions
from steerkit.evaluation.routes import Path, answer_variants, choose_route
from steerkit.evaluation.variants import variants_of
from steerkit.points import Layers
from steerkit.vectors import SteeringVector


def sweep(
    model: Model,
    vector: SteeringVector,
    pairs: Sequence[ContrastPair],
    *,
    layers: Layers = "all",
    coefs: Sequence[float] = (-1, 0, 1),
    batch_size: int = 4,
    path: Path = "auto",
    progress: bool = True,
) -> Sweep:
    r"""p(matching) at every layer and coefficient.

    At a cell, $h \leftarrow h + c \, v_l$ at the output of block $l$ for every token from the template's last one on,
    as `Steer(model).add(vector, layer=l, coef=c)` does; then the pairs are scored as `score_choices` scores them, by
    letter. The unsteered model is run once. Edits of an open `Steer` act in every cell, also in the unsteered one.

    Args:
        model: The model; for a `Steer`, open it and give the model it steers.
        vector: Its row at each layer is added there, at its own site.
        pairs: Multiple-choice pairs: one prompt, two answers that differ in one token.
        layers: Layers of the vector; `"all"` are all it has.
        coefs: What the vector is multiplied by; no unit. 0 need not be among them.
        batch_size: Questions a forward pass, at least 1; more help a GPU, a CPU is fastest with few.
        path: `"packed"`: all cells of a question in one pass. `"cached"`: as rows over the cached prefix. `"naive"`:
            one pass a cell. `"auto"` packs where the model keeps to the mask, which is tried on the first question, and
            else takes the cached path; the result says which and why.
        progress: Show a progress bar on a terminal.

    Raises:
        DataError: No pairs, a pair that cannot be scored by letter or is too long, or a bad coefficient or batch size.
        VectorError: The vector has another width than the model, or lacks a layer.
        LayerError: The model has no such layer, or the layer lacks the vector's site.
        MismatchError: The vector was made with another model.
        ModelError: `path="packed"`, and the model does not keep to the mask.

    Source: Rimsky et al. 2024 (CAA), section 4.1. We differ: CAA runs one forward pass for each question, layer and
    coefficient. The numbers are the same; see `steerkit.packing` for why.

    Example:
        >>> import steerkit as sk, torch
        >>> from steerkit.data.loading import load_pairs
        >>> model = sk.load("demo")
        >>> vector = SteeringVector(torch.ones(2, model.info.hidden_size), layers=[1, 2])
        >>> grid = sweep(model, vector, load_pairs("demo:sycophancy", split="test")[:3], coefs=(-1, 0, 1))
        >>> grid.path, grid.p_matching.shape, grid.at(layer=2, coef=-1).items.p_matching.shape
        ('packed', torch.Size([2, 3]), torch.Size([3]))
    """
    numbers = check_numbers(coefs)
    _check_options(batch_size, path)
    wanted = check_vector(model, vector, layers)
    questions = read_questions(pairs, model.tokenizer, model.info)
    check_letters(questions)
    variants = variants_of(vector, wanted, numbers)
    route = choose_route(model, questions, variants, path=path, site=vector.site)
    logs = answer_variants(model, questions, variants, route=route, site=vector.site, batch_size=batch_size,
                           progress=progress)  # fmt: skip
    how = (route.path, route.reason, route.check_error)
    return Sweep.from_variants(wanted, numbers, questions, logs, how=how)


def _check_options(batch_size: int, path: str) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size={batch_size!r} is not valid; give an integer of at least 1")
    if path not in get_args(Path):
        raise DataError(f"path={path!r} is not known; choose one of {', '.join(map(repr, get_args(Path)))}")


def check_numbers(coefs: Sequence[float]) -> tuple[float, ...]:
    """The coefficients, ascending.

    Raises:
        DataError: There are none, one is not a finite number, or one is there twice.
    """
    if len(coefs) == 0:
        raise DataError("coefs is empty; give at least one coefficient, such as (-1, 0, 1)")
    for coef in coefs:
        if not _is_finite(coef):
            raise DataError(f"coefficient {coef!r} is not a finite number")
    if len(set(coefs)) < len(coefs):
        raise DataError(f"coefs={list(coefs)} names a coefficient twice")
    return tuple(sorted(float(coef) for coef in coefs))


def _is_finite(coef: Any) -> bool:
    return type(coef) is not bool and isinstance(coef, Real) and math.isfinite(float(coef))


def check_vector(model: Model, vector: SteeringVector, layers: Layers) -> list[int]:
    """The layers that are meant, once the vector is known to have them and to fit the model.

    Raises:
        VectorError: It lacks one of them, or has another width than the model.
        LayerError: The model has no such layer, or the layer lacks the vector's site.
        MismatchError: It was made with another model.
    """
    everything = isinstance(layers, str) and layers == "all"
    wanted = list(vector.layers) if everything else model.info.choose_layers(layers, site=vector.site)
    missing = [layer for layer in wanted if layer not in vector]
    if missing:
        raise VectorError(f"the vector has no row for layer {missing[0]}; it has {list(vector.layers)}")
    try:
        vector.select(wanted).check_fits(model.info.as_dict())
    except MismatchError as error:
        raise MismatchError(f"{error}. To sweep it here all the same, leave its provenance behind: "
                            "SteeringVector(v.values, layers=v.layers, site=v.site)") from error  # fmt: skip
    return wanted


def check_letters(questions: Sequence[Question]) -> None:
    """Refuse answers that differ in more than one token.

    Raises:
        DataError: A question cannot be scored by one token.
    """
    for question in questions:
        if not question.is_letter:
            raise DataError(f"pair {question.id!r}: the answers differ in {len(question.positive)} and "
                            f"{len(question.negative)} tokens; a sweep reads one token, such as the letter of '(A)'. "
                            "Score longer answers with score_choices inside a Steer")  # fmt: skip
