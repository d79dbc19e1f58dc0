"""One command per job: `nox -l` lists them. Each session installs what it needs by itself."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests"]

# A plain `torch` takes PyPI's newest build with gigabytes of CUDA; below this bound a CPU build is
# taken where one is at hand. Any spec can be put in its place.
TORCH = os.environ.get("TORCH_SPEC", "torch<2.14")
JAX = os.environ.get("JAX_SPEC", "jax")
CUPY = os.environ.get("CUPY_SPEC", "cupy-cuda12x>=13.4")
# What compiles CuPy kernels where there is no CUDA toolkit, with or without a GPU.
CUDA = ["nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12"]
DEMO = ["scikit-learn", "matplotlib", "tqdm"]
TEST = [
    *("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "numpy>=2.1"),
    "safetensors>=0.5",  # whose files ours are held against
]

# Where the examples are at home.
FRAMEWORKS = ["transformers>=5", "accelerate>=1.10", "lightning>=2.5", "tensorboard"]
MODULES = ["optax>=0.2.5", "flax>=0.12", "equinox>=0.13", "orbax-checkpoint>=0.11.30"]

# What is tested, with what installed beside it. "core" has no Numba: it tests the fallback.
BACKENDS = {
    "core": ["array-api-strict>=2.4", "dask[array]"],
    "numpy": ["numba>=0.61", "ml_dtypes>=0.5", *DEMO],
    "torch": [
        TORCH,
        "triton>=3.2; sys_platform == 'linux'",
        "numba>=0.61",
        "ml_dtypes>=0.5",
        *DEMO,
        *FRAMEWORKS,
    ],
    "distributed": [TORCH, JAX, *DEMO],  # JAX for the relay, which runs through both
    "jax": [JAX, "numba>=0.61", *DEMO, *MODULES],
    "cupy": [CUPY, *CUDA, "numba>=0.61", "ml_dtypes>=0.5"],
}

# Tests with sessions of their own.
APART = [
    *(f"--ignore=tests/{folder}" for folder in ("distributed", "tpu", "gpu")),
    "--ignore-glob=*/test_cupy_*.py",
]


@nox.session
@nox.parametrize("backend", list(BACKENDS), ids=list(BACKENDS))
def tests(session: nox.Session, backend: str) -> None:
    """The tests, once per set of installed libraries: nox -s "tests(torch)" for one."""
    session.install("-e", ".", *TEST, *BACKENDS[backend])
    if backend == "distributed":  # 2 to 4 ranks each: enough for the cores without workers
        session.run("pytest", *(session.posargs or ["tests/distributed"]))
        return
    if backend == "cupy":  # needs no GPU: what does is skipped
        files = [str(path) for path in sorted(Path("tests").glob("test_cupy_*.py"))]
        session.run("pytest", *(session.posargs or files))
        return
    named = {"core": ["numpy", "strict", "dask"], "numpy": ["numpy"]}.get(backend, [backend])
    only = [word for name in named for word in ("--backend", name)]
    workers = os.environ.get("PYTEST_WORKERS", "2")
    session.run("pytest", "-n", workers, *APART, *only, *session.posargs)


# JAX compiles each case and dask builds a graph for each, so they take fewer dtypes.
NAMESPACES = {
    "numpy": ([], []),
    "array_api_strict": (["array-api-strict"], []),
    "torch": ([TORCH], []),
    "jax": ([JAX], ["--dtype", "float32", "--dtype", "bfloat16", "--mode", "jit"]),
    "dask": (["dask[array]"], ["--dtype", "float32"]),
}


@nox.session
def conformance(session: nox.Session) -> None:
    """The conformance kit over every array library: nox -s conformance -- numpy jax for some."""
    names = session.posargs or list(NAMESPACES)
    packages = [package for name in names for package in NAMESPACES[name][0]]
    session.install("-e", ".", "numpy>=2.1", "ml_dtypes>=0.5", *packages)
    for name in names:
        words = ["--namespace", name, *NAMESPACES[name][1]]
        session.run("python", "-m", "adafactor_core", "conformance", *words)


@nox.session
def conformance_jax(session: nox.Session) -> None:
    """The kit over adafactor_jax, an hour or two; its result goes to docs/conformance_jax.md."""
    session.install("-e", ".", "numpy>=2.1", JAX)
    for words in (["eager", "jit", "scan"], ["jit", "scan", "--scanned"], ["auto", "explicit"]):
        session.run("python", "tests/jax_kit.py", *words, *(session.posargs or ["--write"]))


@nox.session
def tpu(session: nox.Session) -> None:
    """Compiles the JAX step for TPUs that are not here, and writes docs/tpu.md."""
    session.install("-e", ".", "pytest>=8", "numpy>=2.1", JAX, "libtpu")
    # Without these libtpu asks the cloud for a TPU and complains; nothing depends on their values.
    env = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
    }
    session.run("pytest", *(session.posargs or ["tests/tpu"]), env=env)
    if not session.posargs:
        session.run("python", "tests/tpu/report.py", env=env)


@nox.session
def gpu_xla(session: nox.Session) -> None:
    """Compiles the JAX step for a GPU that is not here, and writes docs/gpu_xla.md."""
    session.install("-e", ".", "numpy>=2.1", JAX, "optax>=0.2.5")
    version = session.run("python", "-c", "import jax; print(jax.__version__)", silent=True)
    # The plugin alone: what it depends on is gigabytes that compiling does not need.
    plugin = [
        f"{name}=={str(version).strip()}" for name in ("jax-cuda12-plugin", "jax-cuda12-pjrt")
    ]
    session.install("--no-deps", *plugin)
    session.run("python", "tests/gpu/xla.py", "--write", env={"JAX_PLATFORMS": "cpu"})


@nox.session
def gpu(session: nox.Session) -> None:
    """Checks and times torch on the GPU that is here: nox -s gpu -- --out docs/gpu.json.

    Without a GPU, what the kernels take on GPUs that are not here, for docs/gpu.md.
    """
    # Not TORCH: that may be a build for CPUs. In an image that has one, the script runs by itself.
    session.install(
        "-e", ".", "numpy>=2.1", "torch", "triton>=3.2", "transformers>=5", "pytest>=8", CUPY
    )
    if session.posargs[:1] == ["kernels"]:
        session.run("python", "tests/gpu/report.py")
    else:
        session.run("python", "tests/gpu/check.py", *session.posargs, success_codes=[0, 2])


@nox.session
def demo(session: nox.Session) -> None:
    """Trains on real data: nox -s demo, or nox -s demo -- torch jax to compare frameworks."""
    frameworks = [a for a in session.posargs if a in ("torch", "jax")]
    extra = {"torch": TORCH, "jax": JAX}
    session.install("-e", ".[demo]", *(extra[f] for f in frameworks))
    session.run("python", "docs/demo/digits.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """The long drawn campaign; its result goes to docs: nox -s fuzz -- --cases 1000 for less."""
    libraries = ["numpy>=2.1", "numba>=0.61", "ml_dtypes>=0.5", "array-api-strict>=2.4", TORCH]
    session.install("-e", ".", *libraries)
    words = session.posargs or ["--cases", "100000", "--workers", "2", "--out", "docs/fuzz.json"]
    session.run("python", "tests/fuzz/run.py", *words)


@nox.session
def bench(session: nox.Session) -> None:
    """Times steps against the real peers; JSON and a table: nox -s bench -- --work large."""
    peers = [TORCH, "transformers", JAX, "optax"]
    session.install("-e", ".", "numpy>=2.1", "numba>=0.61", "ml_dtypes>=0.5", *peers)
    session.run("python", "tests/benchmarks/run.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's linter and formatter."""
    session.install("ruff>=0.12")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the core and the adapters."""
    session.install("-e", ".", "mypy>=1.16", "numpy>=2.1", "pytest>=8", TORCH, JAX)
    session.run("mypy")


@nox.session
def wheel(session: nox.Session) -> None:
    """Builds wheel and sdist, and tests what only an installed wheel can show."""
    session.install("build", "pytest>=8")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--outdir", folder, ".")
        (built,) = Path(folder).glob("*.whl")
        session.install("--force-reinstall", f"{built}")
        env = {"ADAFACTOR_WHEEL": str(built)}
        # No NumPy is installed here, so the other tests' conftest cannot be loaded.
        session.run("pytest", "--noconftest", "tests/test_wheel.py", env=env)
