"""Every notebook runs from top to bottom, in a kernel of this interpreter, without a network.

Where a cell says for how many epochs to train, or how many steps an epoch has, six and twenty are enough here.
"""

import ast
import os
import re
from pathlib import Path

import nbclient
import nbformat
import pytest
from ipykernel import kernelspec

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Makes `python3` this very interpreter, which imports the package from here, and draws into the notebook."""
    kernelspec.write_kernel_spec(str(tmp_path / "jupyter" / "kernels" / "python3"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    return "python3"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shortened(source):
    """Code that trains for six epochs at most, of twenty steps at most where it says how many."""
    for name, most in (("epochs", 6), ("steps_per_epoch", 20)):
        pattern = rf"""(?i)(\b{name}"?(?:, seed)? ?[=:] ?)(\d+)"""
        source = re.sub(pattern, lambda m, most=most: m[1] + str(min(most, int(m[2]))), source)
    return source


@pytest.mark.slow
@each_notebook
def test_runs_and_shows_text_and_a_image(path, kernel, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    work = tmp_path / "work"
    work.mkdir()
    for cell in code_cells(notebook):
        cell.source = shortened(cell.source)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name=kernel, resources={"metadata": {"path": str(work)}}
    ).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert any(output.output_type == "stream" and output.text.strip() for output in outputs)


@each_notebook
def test_is_stored_without_outputs_and_defines_nothing(path):
    from IPython.core.inputtransformer2 import TransformerManager

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert not cell.outputs
        assert cell.execution_count is None
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        definitions = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda
        assert not any(isinstance(node, definitions) for node in ast.walk(tree)), cell.source
