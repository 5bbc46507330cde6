"""Sphinx settings: MyST pages, reference from docstrings, furo; the notebooks are executed as the pages are built."""

import os
import re
import shutil
from pathlib import Path

HERE = Path(__file__).parent

project = "steerkit"
author = "The steerkit developers"
copyright = "The steerkit developers, Apache-2.0"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "myst_nb"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
python_maximum_signature_line_length = 100
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"
html_theme = "furo"
html_title = "steerkit"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

os.environ.setdefault("PLOTLY_RENDERER", "notebook")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

QUOTED = re.compile(r"(``.+?``|:math:`[^`]*`)|\|", re.DOTALL)
"""What is left as it is, or a bar: a length to people, and a substitution to docutils."""
FORMULA = re.compile(r"^\$\$(.+?)\$\$$", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _to_rst(app, what, name, obj, options, lines):  # noqa: ARG001 - what Sphinx calls it with
    """Docstrings are written as Markdown people read: fences, `code` and $math$."""
    text = FORMULA.sub(_math, FENCE.sub(_literal, "\n".join(lines)))
    parts = re.split(r"(^(?:\.\. math)?::\n(?:\n|    .*\n?)+)", text, flags=re.MULTILINE)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<![`:])`([^`\n]+(?:\n[^`\n]+)?)`(?![`_])", r"``\1``", parts[i])
        parts[i] = re.sub(r"(?<!\$)\$([^$]+)\$(?!\$)", r":math:`\1`", parts[i])
        parts[i] = QUOTED.sub(lambda found: found[1] or r"\|", parts[i])
    lines[:] = "".join(parts).split("\n")


def _math(formula):
    return ".. math::\n\n" + "".join(f"    {line}\n" for line in formula[1].splitlines()) + "\n"


def _qualified(app, what, name, obj, options, signature, returned):  # noqa: ARG001 - what Sphinx calls it with
    """Two results are called Verification: of a store, and of trained weights."""
    if not name.startswith("steerkit.training."):
        return None
    home = "store" if ".differences." in name else "training.verifying.verification"
    texts = (one and re.sub(r"(?<![\w.])Verification\b", f"~steerkit.{home}.Verification", one)
             for one in (signature, returned))  # fmt: skip
    return tuple(texts)


def _literal(fence):
    return "::\n\n" + "".join(f"    {line}\n" for line in fence[2].splitlines()) + "\n"


def _copy_notebooks():
    """The notebooks live beside the docs; what is built here is a copy that git ignores."""
    target = HERE / "notebooks"
    target.mkdir(exist_ok=True)
    for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
        shutil.copyfile(notebook, target / notebook.name)


def setup(app):
    _copy_notebooks()
    app.connect("autodoc-process-docstring", _to_rst)
    app.connect("autodoc-process-signature", _qualified)
