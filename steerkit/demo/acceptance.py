"""The tables a run is judged by: choices by letter, cross-effects, random vectors, layers."""

from __future__ import annotations

from typing import Any

from steerkit.demo.run import DemoRun
from steerkit.tables import Cell, Table


def letters(run: DemoRun) -> Table:
    """Choices at both coefficients and without steering, A-items and B-items apart."""
    rows: list[list[Cell]] = []
    for name, one in run.behaviors.items():
        low, high = run.cross(name, name).scores
        coef = run.chosen.coefs[name]
        for shown, scores in ((f"{-coef:+g}", low), ("unsteered", one.grid.unsteered), (f"{coef:+g}", high)):
            parts: tuple[Any, ...] = (scores, scores.a_items, scores.b_items)
            figures = (*(part.p_matching for part in parts), scores.stderr, scores.mass)
            rows.append([name, shown, *(round(figure, 3) for figure in figures)])
    columns = ["behavior", "coef", "p(matching)", "A-items", "B-items", "±", "mass p(A)+p(B)"]
    return Table(columns, rows, "Choices by letter: were A-items and B-items far apart, the letter would count")


def crosses(run: DemoRun) -> Table:
    """What each vector does to each behavior."""
    rows: list[list[Cell]] = []
    for vector in run.behaviors:
        for measured in run.behaviors:
            cross = run.cross(vector, measured)
            low, high = cross.answers
            figures = (cross.span, high.positive - low.positive, min(low.on_topic, high.on_topic))
            rows.append([vector, measured, *(round(figure, 2) for figure in figures)])
    columns = ["vector of", "measured on", "choices move by", "open answers move by", "on topic"]
    return Table(columns, rows, "Move from the negative to the positive coefficient")


def randoms(run: DemoRun) -> Table:
    """The vector's move beside those of random vectors of equal norm."""
    rows: list[list[Cell]] = []
    for name, one in run.behaviors.items():
        sizes = sorted(abs(span) for span in one.random_spans)
        rows.append([name, round(run.cross(name, name).span, 2), round(sizes[len(sizes) // 2], 2), round(sizes[-1], 2)])
    return Table(["behavior", "the vector", "random: median", "random: largest"], rows, "Size of the move of choices")


def layers(run: DemoRun) -> Table:
    """By layer how far the sides part, how much choices move between ±0.5, and how alike the vectors are."""
    names = list(run.behaviors)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    rows: list[list[Cell]] = []
    for i, layer in enumerate(run.behaviors[names[0]].grid.layers):
        line: list[Cell] = [layer]
        for one in run.behaviors.values():
            low, high = (one.grid.at(layer=layer, coef=coef).p_matching for coef in (-0.5, 0.5))
            line += [round(float(one.separated.auroc[i]), 3), round(high - low, 2)]
        cosines = [run.behaviors[a].vector.cosine(run.behaviors[b].vector)[i] for a, b in pairs]
        rows.append([*line, *(round(float(cosine), 2) for cosine in cosines)])
    columns = ["layer", *(f"{name}: {what}" for name in names for what in ("AUROC", "move"))]
    return Table([*columns, *(f"cos {a}-{b}" for a, b in pairs)], rows, "By layer")
