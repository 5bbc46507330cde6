from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steerkit import cli


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    before = sys.argv
    sys.argv = ["steerkit", *map(str, words)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    out = capsys.readouterr()
    return code, out.out, out.err


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command prints for machines."""
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture
def made(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path]:
    """A store and a vector, made once by the commands themselves."""
    store, vector = folder / "store", folder / "mood.safetensors"
    if not vector.exists():
        recorded = told(capsys, "record", "demo", "demo:mood", "--split", "test", "-o", store, "--layers", "2-5")
        assert recorded["layers"] == [2, 3, 4, 5]
        assert told(capsys, "extract", store, "-o", vector)["layers"] == [2, 3, 4, 5]
    return store, vector


def test_separate_shows_each_layer_and_writes_its_figure(
    made: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store, vector = made
    found = told(capsys, "separate", store, "--vector", vector, "--plot", tmp_path / "figure.html")
    assert found["layer"] == [2, 3, 4, 5]
    assert (tmp_path / "figure.html").stat().st_size > 10_000
    code, out, _ = run(capsys, "separate", store, "--vector", vector)
    assert code == 0
    assert "AUROC" in out


def test_a_dry_run_says_what_it_costs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("record", "demo", "demo:mood", "--split", "test", "-o", tmp_path / "s", "--layers", "2-5", "--dry-run")
    found = told(capsys, *words)
    assert found["fits"]
    assert found["bytes"] > 4 * 2 * found["pairs"]
    assert not (tmp_path / "s").exists()
    code, out, _ = run(capsys, *words, "--dtype", "float16", "--batch-tokens", "999")
    assert code == 0
    assert "nothing is recorded yet" in out


def test_statistics_alone_are_enough_for_a_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("record", "demo", "demo:mood", "--split", "test", "--layers", "3")
    more = ("--statistics", "covariance", "--keep", "statistics", "--batch-tokens", "500", "--shard-pairs", "9")
    rows, sums = tmp_path / "rows", tmp_path / "sums"
    told(capsys, *words, "-o", rows)
    told(capsys, *words, *more, "-o", sums)
    norms = []
    for store in (rows, sums):
        out = tmp_path / f"{store.name}.safetensors"
        norms.append(told(capsys, "extract", store, "-o", out, "--method", "lda", "--test", "0")["norms"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_every_token_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("record", "demo", "demo:mood", "--split", "test", "--layers", "3", "-o", tmp_path / "s")
    told(capsys, *words, "--read", "each", "--max-tokens", "1", "--dtype", "bfloat16")
    code, _, err = run(capsys, *words, "--read", "last", "--max-tokens", "1")
    assert (code, "it needs read='each'" in err) == (1, True)


def test_sweep_prints_the_grid(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, vector = made
    grid = told(
        capsys,
        "sweep",
        "demo",
        "demo:mood",
        "--split",
        "test",
        "--vector",
        vector,
        "--layers",
        "3,4",
        "--coefs",
        "-0.5,0.5",
    )
    assert {(cell["layer"], cell["coef"]) for cell in grid["cells"]} == {(3, -0.5), (3, 0.5), (4, -0.5), (4, 0.5)}


def test_generate_answers_unsteered_and_steered(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, vector = made
    words = ("generate", "demo", "Please sing a song about the moon.", "--max-new-tokens", "8")
    rows = told(capsys, *words, "--add", vector, "--layer", "4", "--coef", "-0.5")
    assert set(rows[0]) == {"prompt", "unsteered", "steered"}
    assert "steered" not in told(capsys, *words)[0]


def test_doctor_proves_that_hooks_fire(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "doctor", "demo")
    assert found["healthy"]
    assert found["live"]["moved"] > 0
    assert found["live"]["left"] == 0
    assert found["model"]["blocks"].endswith("at model.layers")
    assert "torch" in told(capsys, "doctor")["machine"]


@pytest.fixture
def swept(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> tuple[tuple[Any, ...], Any]:
    """The words of a sweep, and what it says through plain hooks: run once."""
    _, vector = made
    grid = ("sweep", "demo", "demo:mood", "--split", "test", "--vector", vector, "--layers", "3", "--coefs", "-0.5,0.5")
    kept = vector.with_name("swept.json")
    if not kept.exists():
        kept.write_text(json.dumps(told(capsys, *grid)))
    return grid, json.loads(kept.read_text())


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_another_backend_gives_the_same_numbers_by_the_same_words(
    made: tuple[Path, Path], swept: tuple[tuple[Any, ...], Any], backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, vector = made
    grid, plain = swept
    other = told(capsys, *grid, "--backend", backend)
    assert other["unsteered"]["p_matching"] == pytest.approx(plain["unsteered"]["p_matching"], abs=1e-5)
    assert [one["p_matching"] for one in other["cells"]] == pytest.approx(
        [one["p_matching"] for one in plain["cells"]], abs=1e-5
    )
    words = ("generate", "demo", "Hi", "--add", vector, "--layer", "3", "--coef", "0.5", "--max-new-tokens", "6")
    assert told(capsys, *words, "--backend", backend) == told(capsys, *words)


def test_the_model_is_loaded_in_the_precision_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "doctor", "demo", "--model-dtype", "bfloat16")["model"]["dtype, device"] == "bfloat16, cpu"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("record", "demo", "demo:mood", "-o", "x", "--engine", "ray", "--backend", "nnsight"),
            "are for --engine local",
        ),
        (("generate", "demo", "Hi", "--backend", "vllm"), "backend='vllm' is not valid"),
        (("generate", "demo", "Hi", "--model-dtype", "int3"), "dtype='int3' is not valid"),
        (("record", "nowhere/at/all", "demo:mood", "-o", "x"), "not a folder with a model"),
        (("record", "demo", "demo:moood", "-o", "x"), "mood"),
        (("extract", "nowhere", "-o", "v.safetensors"), "nowhere"),
        (("sweep", "demo", "demo:mood", "--vector", "nowhere.safetensors"), "nowhere.safetensors"),
        (("generate", "demo", "Hi", "--add", "v.safetensors"), "give one of each per vector"),
        (("doctor", "./nothing"), "not a folder with a model"),
        (("record", "demo", "demo:mood", "-o", "x", "--layers", "a-b"), "--layers 'a-b' is not valid"),
        (("record", "demo", "demo:mood", "-o", "x", "--layers", "99"), "layer 99 does not exist"),
        (("demo", "-o", f"{Path(__file__)}"), "is a file; give a folder"),
        (("demo", "-o", f"{Path(__file__).parent}"), "holds something else"),
        (("demo", "-o", f"{Path(__file__)}/deeper"), "cannot be written"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_1(
    words: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert code == 1
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err + out
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "sweep", "demo")
    assert code == 2
    assert "Missing" in err


def test_help_needs_no_model_library() -> None:
    code = "import sys, steerkit.cli; print([m for m in ('torch', 'transformers', 'plotly') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
