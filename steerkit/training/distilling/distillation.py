"""Weights that do by themselves what an edit does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from steerkit.adapters import Adapter, Attached, FullWeights, Lora, attach, stack
from steerkit.backends.huggingface import HuggingFaceModel, check_plain
from steerkit.errors import InputError, SteerkitWarning
from steerkit.points import Layers
from steerkit.positions import Positions
from steerkit.steering.edits import Unit
from steerkit.training.distilling.distilled import Distilled
from steerkit.training.distilling.edit_source import EditSource, as_edits
from steerkit.training.distilling.edit_teacher import EditTeacher
from steerkit.training.distilling.losses import Objective
from steerkit.training.distilling.sequences import Answers, Texts
from steerkit.training.distilling.shifts import look_at
from steerkit.training.distilling.student import Student
from steerkit.training.distilling.targets import Teacher
from steerkit.training.distilling.teacher_source import as_teacher
from steerkit.training.fitting.fit import Fit
from steerkit.training.fitting.live import Row
from steerkit.training.fitting.loop import batch_at, train
from steerkit.training.fitting.ranks import Ranks

EDIT_LORA = Lora(targets="all-linear", dropout=0.0)
"""For an edit: its target is exact, so that the noise of dropout only hinders."""
STUDENT = "student"
TRAINING = "training"
"""Folder of the checkpoints, within that of the result."""


def distill(  # noqa: PLR0913 - each is a plain choice of the user
    model: HuggingFaceModel,
    source: Any,
    *,
    prompts: Texts | None = None,
    layer: Layers | None = None,
    coef: float = 1.0,
    positions: Positions = "generation",
    unit: Unit = "raw",
    answers: Answers = "steered",
    max_new_tokens: int = 32,
    objective: Objective | None = None,
    lora: Lora | None = None,
    fit: Fit | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> Distilled:
    r"""Train a LoRA adapter that does by itself what an edit does while the model runs.

    The student is the model with a new adapter in the blocks up to the last layer with targets. At the tokens that the
    edit selects its states are to be those of the steered model, $h_{base} + c v$; at all others those of the model as
    it is. Before the first step the loss is $|c|$ times the mean of $\|v\|$ (for `l2`), which is checked.

    Args:
        model: What `load` returns; it stays as it is.
        source: A vector (with `layer`, `coef`, `positions` and `unit` as in `Steer.add`), a `Steer` with any edits,
            differences of preferences, what `teach` gave (with `prompts` the preferences to distil on), or any
            `Teacher`.
        prompts: The texts to learn on; the weights do what the edit does on texts like these, so give all kinds that
            matter. Contrast pairs and preferences bring their answers, both sides of which are read; prompts are
            answered first. All may be mixed.
        layer: Where the vector is added; several give each layer its own row. For differences some of their layers,
            for what `teach` gave also RAHF's notation.
        coef: How strongly; for differences the alpha of RAHF.
        positions: Which tokens.
        unit: What `coef` is a multiple of.
        answers: Who answers prompts, in sampled text: the steered model, whose own texts the student will meet, or the
            model as it is.
        max_new_tokens: The most tokens of such an answer.
        objective: What counts.
        lora: The form of the adapter. Left out, all linear layers without dropout for an edit, `Lora()` for
            differences.
        fit: The settings of the training. Left out, `edit_fit` for an edit, `Fit()` for differences.
        path: A folder. What is trained is kept in it, the same call goes on where an earlier one stopped, and the
            result lies there as a plain peft folder.
        progress: Show a bar, where somebody is there to see it.

    Raises:
        InputError: Something given is not valid or does not fit the model; nothing was computed.
        TrainingError: The loss is not finite.

    Source: LORRA (Zou et al. 2023, section 5.2) and RAHF (Liu et al. 2024, section 3.3), for a vector of one's own. We
    differ: tokens out of scope are held where they are, padding does not count, and no block without a gradient has an
    adapter.

    Example:
        >>> import steerkit as sk
        >>> model = sk.load("demo")
        >>> v = torch.ones(model.info.hidden_size)
        >>> tuned = distill(model, v, layer=1, prompts=["Is the sea dry?"], fit=Fit(steps=2, batch=1), max_new_tokens=4)
        >>> round(tuned.curve.loss[0] / float(v.norm()), 4)
        1.0
    """
    folder = _folder(model, path)
    edits = as_edits(source, model, layer=layer, coef=coef, positions=positions, unit=unit)
    usual = (Lora(), Fit()) if edits is None else (EDIT_LORA, edit_fit(model.info.hidden_size))
    job = _Job(model, lora or usual[0], fit or usual[1], objective or Objective(), folder, progress)
    if edits is None:
        teacher = as_teacher(source, model, prompts=prompts, layer=layer, coef=coef, positions=positions, unit=unit)
        return job.run(teacher)
    found = EditSource(model, edits, prompts, answers=answers, max_new_tokens=max_new_tokens)
    job.config(found.layers, site="resid_post")
    return job.run(found.teacher(seed=job.fit.seed, folder=job.checkpoints))


def edit_fit(hidden_size: int) -> Fit:
    r"""What an edit is trained with: few steps, fast, the learning rate falling to 0.

    The learning rate is $0.045 / \sqrt{d}$ at hidden size $d$: a step of Adam moves what $B$ makes by the same at any
    width, what $A$ makes in proportion to it, and the root lies between the two.

    Source: found by trial on the embedded model (`d = 128`); the two exponents are those of LoRA+ (Hayou et al. 2024).

    Example:
        >>> round(edit_fit(128).lr, 4), round(edit_fit(4096).lr, 4)
        (0.004, 0.0007)
    """
    return Fit(steps=200, lr=0.045 / hidden_size**0.5, batch=8, schedule="linear", warmup=0.05)


@dataclass(frozen=True)
class _Job:
    """One distillation, with everything but its teacher."""

    model: HuggingFaceModel
    lora: Lora
    fit: Fit
    objective: Objective
    folder: Path | None
    progress: bool

    @property
    def checkpoints(self) -> Path | None:
        return None if self.folder is None else self.folder / TRAINING

    def config(self, layers: tuple[int, ...], *, site: str) -> Any:
        """The adapter's configuration: in every block up to the last target, and none after it."""
        last = layers[-1] - (site == "resid_pre")
        if last < 0:
            raise InputError("the input of block 0 has no block before it that could change it; choose another layer")
        return self.lora.config(self.model, blocks=range(last + 1))

    def run(self, teacher: Teacher) -> Distilled:
        config = self.config(teacher.layers, site=teacher.site)
        if STUDENT in teacher.adapters:
            raise InputError(f"the teacher calls an adapter {STUDENT!r}, which is the name of what is trained; call it "
                             "something else")  # fmt: skip
        retain = self.objective.retain
        if retain is None:
            retain = 1.0 if isinstance(teacher, EditTeacher) else 0.0
        objective = replace(self.objective, retain=retain)
        with ExitStack() as context:
            with _seeded(self.fit.seed):
                attached = context.enter_context(attach(self.model, {STUDENT: config, **teacher.adapters}))
            found = self._learn(attached, teacher, objective)
        ranks = Ranks.join()
        if self.folder is not None and ranks.first:
            found.save(self.folder)
        ranks.wait()
        return found

    def _learn(self, attached: Attached, teacher: Teacher, objective: Objective) -> Distilled:
        fit, parameters = self.fit, attached.parameters(STUDENT)
        rows = -(-fit.batch // fit.accumulate)
        wanted = look_at(teacher, attached, batch=rows)
        student = Student(attached, teacher, objective, wanted, recompute=fit.recompute)
        identity = {"model": self.model.info.fingerprint, "teacher": dict(teacher.identity()),
                    "objective": objective.as_dict(), "lora": asdict(self.lora)}  # fmt: skip
        with attached.only(*teacher.start, STUDENT), attached.train(STUDENT):
            self._check_start(student, batch_at(0, count=len(teacher.samples), batch=fit.batch, seed=fit.seed)[:rows])
            curve = train(parameters, len(teacher.samples), student, fit=fit, path=self.checkpoints,
                          identity=identity, describe=_describe, progress=self.progress)  # fmt: skip
        made = {**identity, "model": self.model.info.as_dict(), "fit": fit.as_dict(), "method": "distill",
                "layers": list(teacher.layers), "site": teacher.site}  # fmt: skip
        adapter = attached.adapter(STUDENT, meta=made)
        self._check_alive(adapter, moving=float(wanted.shift.sum()) > 0)
        under = [teacher.adapters[name] for name in teacher.start]
        loras = [one for one in under if isinstance(one, Adapter)]
        full = next((one for one in under if isinstance(one, FullWeights)), None)
        whole = replace(stack([*loras, adapter]), meta=made) if loras else adapter
        edits = teacher.edits if isinstance(teacher, EditTeacher) else ()
        return Distilled(self.model, whole, curve, wanted, foundation=full, edits=edits)

    def _check_start(self, student: Student, some: list[int]) -> None:
        """An adapter that is new changes nothing, so the error is the whole of the wanted change."""
        with torch.no_grad(), _seeded(self.fit.seed):
            _, numbers = student(some, some)
        close = max(1e-4, 4 * torch.finfo(getattr(torch, self.model.info.dtype.removeprefix("torch."))).eps)
        if abs(numbers["error"] - numbers["shift"]) > close * numbers["shift"]:
            warnings.warn(f"before training the error is {numbers['error']:g}, but the wanted change is "
                          f"{numbers['shift']:g} long; they must be the same. The teacher's base is not the student's: "
                          "look for dropout, another scope or another layer in the teacher",
                          SteerkitWarning, stacklevel=5)  # fmt: skip

    def _check_alive(self, adapter: Adapter, *, moving: bool) -> None:
        ups = {name: one for name, one in adapter.weights.items() if ".lora_B." in name}
        dead = [name for name, one in ups.items() if not bool(one.any())]
        if moving and dead:
            warnings.warn(f"{len(dead)} of {len(ups)} parts of the adapter never had a gradient, such as {dead[0]}; "
                          "nothing that is trained depends on them. Leave them out by Lora(targets=...)",
                          SteerkitWarning, stacklevel=5)  # fmt: skip


def _folder(model: object, path: str | Path | None) -> Path | None:
    """The folder of the result, once model and folder are known to be usable."""
    check_plain(model, "adapters are trained")
    if path is None:
        return None
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder")
    if (folder / "config.json").exists():
        raise InputError(f"{folder} holds a model; an adapter beside it would make both ambiguous. Give another folder")
    return folder


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _describe(row: Row) -> str:
    share = row["error"] / row["shift"] if row["shift"] > 0 else 0.0
    return f"loss {row['loss']:.4g}, {share:.0%} of the change missing, cosine {row['cosine']:.2f}"
