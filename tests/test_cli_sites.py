from __future__ import annotations

from pathlib import Path

import pytest
from test_cli import run, told

import steerkit as sk

RECORD = ("record", "demo", "demo:mood", "--split", "test", "--site", "z", "--layers", "2-4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli_sites")


@pytest.fixture
def made(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path]:
    """A store of site z and its vector, made once by the commands themselves."""
    store, vector = folder / "store", folder / "mood.safetensors"
    if not vector.exists():
        told(capsys, *RECORD, "-o", store)
        told(capsys, "extract", store, "-o", vector)
    return store, vector


def test_heads_from_the_store_to_an_answer(
    made: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store, vector = made
    words = ("separate", store, "--vector", vector, "--by-head")
    found = told(capsys, *words, "--plot", tmp_path / "heads.html")
    assert len(found["auroc"]) == 12
    assert (tmp_path / "heads.html").stat().st_size > 10_000
    best = tmp_path / "best.safetensors"
    chosen = told(capsys, "extract", store, "-o", best, "--heads", "2", "--sigma")["heads"]
    train, held_out = sk.ActivationStore.open(store).split(test=0.25, seed=0)
    whole = sk.extract(train)
    top = sk.head_separation(held_out, whole).top(2)
    assert {tuple(one) for one in chosen} == set(top)
    assert sk.SteeringVector.load(best) == whole.heads(top).in_sigma()
    named = ",".join(f"{layer}:{head}" for layer, head in top)
    told(capsys, "extract", store, "-o", tmp_path / "named.safetensors", "--heads", named, "--sigma")
    assert sk.SteeringVector.load(tmp_path / "named.safetensors") == sk.SteeringVector.load(best)
    asked = ("generate", "demo", "Is the sea dry?", "--max-new-tokens", "4", "--coef", "20")
    rows = [told(capsys, *asked, "--add", best), told(capsys, *asked, "--add", vector, "--heads", named)]
    assert {"unsteered", "steered"} < set(rows[0][0])
    assert run(capsys, *asked, "--add", best)[0] == 0


def test_a_sweep_of_some_heads(made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sweep", "demo", "demo:mood", "--split", "test", "--vector", made[1], "--coefs", "4", "--heads", "2:1,3:0")
    grid = told(capsys, *words)
    assert [cell["layer"] for cell in grid["cells"]] == [2, 3]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("extract", "STORE", "-o", "OUT", "--heads", "2-1"), "--heads '2-1' is not valid; give LAYER:HEAD"),
        (("extract", "STORE", "-o", "OUT", "--heads", "2:9"), "head 9 of layer 2 does not exist; heads are 0 to 3"),
        (("extract", "STORE", "-o", "OUT", "--heads", "7:0"), "no layer 7; it has layers 2-4"),
        (("extract", "STORE", "-o", "OUT", "--heads", "99"), "there are 12 heads"),
        (("extract", "STORE", "-o", "OUT", "--heads", "2", "--test", "0"), "--test 0 leaves none"),
        (("sweep", "demo", "demo:mood", "--vector", "VECTOR", "--heads", "x"), "--heads 'x' is not valid"),
        (("sweep", "demo", "demo:mood", "--vector", "VECTOR", "--heads", "5:0"), "no layer 5"),
        (("separate", "STORE", "--vector", "FLAT"), "recorded at z, the vector belongs to resid_post"),
        (("separate", "STORE", "--vector", "FLAT", "--heads", "2:0"), "belongs to resid_post, where heads are already"),
        (("generate", "demo", "Hi", "--add", "VECTOR", "--coef", "1"), "--layer is missing; give one for each --add"),
        (("record", "demo", "demo:mood", "-o", "OUT", "--site", "head"), "site='head' is not valid"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...],
    said: str,
    made: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    store, vector = made
    flat = tmp_path / "flat.safetensors"
    sk.SteeringVector(sk.SteeringVector.load(vector).values, layers=[2, 3, 4]).save(flat)
    names = {"STORE": str(store), "VECTOR": str(vector), "FLAT": str(flat), "OUT": str(tmp_path / "out")}
    code, _, err = run(capsys, *(names.get(word, word) for word in words))
    assert (code, len(err.strip().splitlines())) == (1, 1)
    assert said in err
    assert not (tmp_path / "out").exists()
