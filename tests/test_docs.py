"""The code in the documentation runs, and what is generated from code is what the code says."""

import importlib.util
import json
import re
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import adafactor_core as af
from adafactor_core import _numerics

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"


PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("guides/*.md"))]
SEPARATE = {README, *(DOCS / name for name in ("start.md", "choosing.md"))}  # a library each


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.fixture
def usual_settings():
    """JAX's own, where another test of this process has made it refuse to promote."""
    jax = sys.modules.get("jax")
    with ExitStack() as settings:
        if jax is not None:
            settings.enter_context(jax.numpy_dtype_promotion("standard"))
            settings.enter_context(jax.numpy_rank_promotion("allow"))
        yield


@pytest.mark.usefixtures("usual_settings")
@pytest.mark.filterwarnings("ignore:Numba is not installed")
# Of torch.compile's own, see test_torch_compile.py.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for k, block in enumerate(blocks(page)):
        modules = re.findall(r"^(?:import|from) (\w+)", block, re.M)
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing and page in SEPARATE:
            continue
        if missing:
            pytest.skip(f"block {k} needs {missing[0]}")
        exec(compile(block, f"{page.name}[{k}]", "exec"), scope)


def test_there_are_blocks_to_run():
    assert len(blocks(DOCS / "embedding.md")) >= 6
    assert len(blocks(DOCS / "training.md")) >= 7
    assert len(blocks(README)) >= 2
    assert len(blocks(DOCS / "start.md")) >= 5  # a tab each


class Recorder:
    """A namespace that remembers what was asked of it."""

    def __init__(self, xp, seen):
        self._xp, self._seen = xp, seen

    def __getattr__(self, name):
        self._seen.add(name)
        return getattr(self._xp, name)


PLAIN = [
    {"beta1": 0.9, "weight_decay": 0.1, "max_parameter_scale": 1.0, "beta2_cap": 0.9},
    {"beta1": 0.9, "momentum_arithmetic": "weak", "decay_type": "adam"},
    {"decay_type": "adam", "decay_rate": lambda t: 0 * t + 0.9},
    {"eps1_mode": "clamp", "factored": False, "lr": 0.1, "decay_offset": 3},
    {"step_size": af.RelativeStep(warmup_init=True), "max_scratch_bytes": 1024},
    {"max_grad_norm": 1.0},
]
MORE = [
    {"nonfinite": "skip_tensor", "telemetry": True, "max_grad_norm": 1.0},
    {"nonfinite": "skip_step", "beta1": 0.9, "momentum_dtype": "int8", "telemetry": True},
    {"beta1": 0.9, "momentum_dtype": "int8", "momentum_rounding": "stochastic"},
]


@pytest.mark.parametrize(
    ("list_", "options"), [("functions", PLAIN), ("more functions", PLAIN + MORE)]
)
def test_the_functions_that_embedding_lists_are_the_ones_used(list_, options, monkeypatch):
    xp = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    seen = set()
    kind = type(xp.ones(1))
    known = kind, Recorder(xp, seen)
    monkeypatch.setattr(_numerics._known, kind.__name__, known, raising=False)
    monkeypatch.setattr(_numerics, "sums_run", lambda _: False)  # what NumPy alone gets
    for o in options:
        config = af.Config(**o)
        params = {"w": xp.ones((40, 150)), "b": xp.ones((7,)), "s": xp.ones(())}
        params = {n: xp.astype(x, xp.float32) for n, x in params.items()}
        params["wide"] = xp.ones((4, 5), dtype=xp.float64)
        grads = {n: x * 0.1 for n, x in params.items()}
        _, state = af.step(params, grads, af.init(params, config), config)
        af.update(grads, state, params, config)
        if config.telemetry:
            af.metrics(state)
    if list_ != "functions":
        for dtype in ("bfloat16", "float16"):
            af.stochastic_round(params["w"], dtype)
    page, listed = (DOCS / "embedding.md").read_text(), set()
    for name in ["functions", list_]:
        text = re.search(rf"<!-- {name} -->\n(.*?)\n<!--", page, re.S)[1]
        listed |= {name for part in re.findall(r"`([^`]*)`", text) for name in part.split()}
    assert seen - {"__name__"} == listed - set("^&") - {">>"}


@cache
def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


GENERATE = DOCS / "generate.py"


@pytest.mark.parametrize("name", module(GENERATE).COLUMNS)
def test_what_kernels_serve_is_what_the_page_says(name):
    """Each column where its library is, so that some session tests each."""
    generate, page = module(GENERATE), (DOCS / "kernels.md").read_text()
    rows = [row.strip("| ").split(" | ") for row in page.splitlines() if row.startswith("|")]
    columns = {head: list(cells) for head, _, *cells in zip(*rows, strict=True)}
    assert page == generate.kernels({n: columns[n] for n in generate.COLUMNS})
    try:
        cells = generate.COLUMNS[name]()
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    assert columns[name] == cells


def test_formats_are_what_the_page_says():
    assert (DOCS / "converting.md").read_text() == module(GENERATE).converting()


def test_the_conformance_page_is_made_from_its_record():
    record = json.loads((DOCS / "conformance.json").read_text())
    table = module(Path(__file__).parent / "kit_table.py")
    assert (DOCS / "conformance.md").read_text() == table.page(record)
    cells = [check for row in record for check in row["checks"].values()]
    assert len(record) > 3
    assert {check[3] for check in cells} <= {"ok", "skipped"}


EVERY = sorted(p for p in DOCS.rglob("*.md") if "_site" not in p.parts)
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")


def prose(page):
    """Without blocks and code, in which brackets are no links."""
    text = re.sub(r"^(```+|:::+)\{?py.*?^\1", "", page.read_text(), flags=re.M | re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page):
    """What GitHub, and MyST alike, make of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    plain = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
    return {f"{h}-{plain[:k].count(h)}" if h in plain[:k] else h for k, h in enumerate(plain)}


@pytest.mark.parametrize("page", [README, *EVERY], ids=lambda p: str(p.relative_to(README.parent)))
def test_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            parts = urlsplit(link)
            good = parts.scheme == "https" and "." in parts.netloc
        else:
            target = page.parent / path if path else page
            good = target.exists() and (not anchor or anchor in anchors(target))
        broken += [] if good else [link]
    assert broken == []


def test_every_page_is_in_the_site():
    listed = set()
    for tree in re.findall(
        r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), re.M | re.S
    ):
        for entry in re.findall(r"^(?:[^:\n]+ <)?([\w/*]+)>?$", tree, re.M):
            listed |= set(DOCS.glob(f"{entry}.md"))
    missing = {str(p.relative_to(DOCS)) for p in EVERY if p not in listed} - {"index.md"}
    assert missing == set()


@pytest.mark.parametrize("page", [p for p in EVERY if p.parent != DOCS / "guides"])
def test_formulas_are_numbered_in_turn(page):
    numbers = [int(n) for n in re.findall(r"\$\$ \((\d+)\)$", page.read_text(), re.M)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_option_is_described():
    from dataclasses import fields

    page = (DOCS / "options.md").read_text()
    missing = [f.name for f in fields(af.Config) if f.name != "_" and f"`{f.name}`" not in page]
    assert missing == []
    assert np.isclose(af.Config().clip_threshold, 1.0)
