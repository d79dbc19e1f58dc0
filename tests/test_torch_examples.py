"""docs/examples train, and each framework's own checkpoints continue as if never interrupted."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from unittest import mock

import pytest

try:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    from adafactor_torch import Adafactor
except ImportError:  # then the fixture `backend` skips
    torch = None

pytestmark = pytest.mark.backends("torch")
FOLDER = Path(__file__).parents[1] / "docs" / "examples"
LINES, SUBCLASS = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)
NEEDED = {
    "plain": [],
    "trainer": ["transformers", "accelerate"],
    "accelerate_loop": ["accelerate"],
    "lightning_module": ["lightning"],
}
LIGHTNING = pytest.mark.filterwarnings(
    # Advice on speed, which loaders of a few rows do not need.
    "ignore:The 'train_dataloader' does not have many workers",
    # Lightning 2.6 asks torch's pytrees in a way that torch 2.13 calls old.
    "ignore:.isinstance.treespec, LeafSpec.:FutureWarning:lightning.pytorch.utilities._pytree",
)
HALF = 10  # steps before the checkpoint, and after it
OPTIONS = {
    "lr": {"lr": 0.05, "weight_decay": 0.1},
    "relative step": {"beta1": 0.9},
    "bfloat16": {
        "lr": 0.05, "rounding": "kahan",
        "beta1": 0.9, "momentum_dtype": "int8", "momentum_rounding": "stochastic",
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def frameworks_leave_no_trace(backend):
    """They write to the environment, and Accelerate has one state for the whole process."""
    with mock.patch.dict(os.environ):
        yield
    if sys.modules.get("accelerate"):
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def example(name):
    """A script of the folder as a module; skips where its framework is missing."""
    for package in NEEDED.get(name, []):
        pytest.importorskip(package, reason=f"{package} is not installed")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NEEDED)
def test_three_lines_are_the_same(name):
    text = (FOLDER / f"{name}.py").read_text().replace("self.named", "model.named")
    assert set(LINES.splitlines()) <= {line.strip() for line in text.splitlines()}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("plain", {}),
        ("trainer", {}),
        ("trainer", {"named": False}),
        ("accelerate_loop", {}),
        pytest.param("lightning_module", {}, marks=LIGHTNING),
    ],
    ids=str,
)
def test_loss_falls(name, how):
    losses = example(name).main(**how)
    assert losses[-1] < losses[0] / 3


def network(seed, dtype):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)


def optimizer_and_scheduler(model, options):
    optimizer = Adafactor(model.named_parameters(), **options)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * HALF)


def check_same(one, other):
    """Bit by bit, `(model, optimizer)` each; the state has lived from the first step on."""
    pairs = zip(one[0].named_parameters(), other[0].named_parameters(), strict=True)
    for (name, p), (_, q) in pairs:
        assert torch.equal(p, q), name
        ours, theirs = one[1].state[p], other[1].state[q]
        assert ours["step"] == 2 * HALF
        assert ours.keys() == theirs.keys()
        for slot in ours:
            assert ours[slot].dtype == theirs[slot].dtype
            assert torch.equal(ours[slot], theirs[slot]), (name, slot)
    for ours, theirs in zip(one[1].param_groups, other[1].param_groups, strict=True):
        assert {**ours, "params": None} == {**theirs, "params": None}


@pytest.fixture(params=list(OPTIONS))
def options(request):
    return OPTIONS[request.param]


@pytest.fixture
def dtype(options):
    return torch.bfloat16 if "rounding" in options else torch.float32


def tiny_llama(seed, dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=32, num_attention_heads=2, attention_dropout=0.1, **sizes)
    return LlamaForCausalLM(config).to(dtype)


def arguments(folder, **more):
    from transformers import TrainingArguments

    quiet = {"report_to": [], "disable_tqdm": True}
    return TrainingArguments(str(folder), max_steps=2 * HALF, use_cpu=True, **quiet, **more)


@pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
def test_trainer_resumes(named, options, dtype, tmp_path):
    rows = example("trainer").data(8 * 2 * HALF)
    from transformers import Trainer

    def train(seed, checkpoint=None):
        model = tiny_llama(seed, dtype)
        how = {"optimizer_cls_and_kwargs": (Adafactor, dict(options))}
        if named:
            how = {"optimizers": optimizer_and_scheduler(model, options)}
        args = arguments(tmp_path, save_steps=HALF, per_device_train_batch_size=8)
        trainer = Trainer(model, args, train_dataset=rows, **how)
        trainer.train(resume_from_checkpoint=checkpoint)
        return model, trainer.optimizer.optimizer  # Accelerate's is around it

    whole = train(0)
    assert ("param_names" in whole[1].param_groups[0]) is named
    check_same(train(1, str(tmp_path / f"checkpoint-{HALF}")), whole)


def test_trainer_makes_two_groups_without_names_and_decay_of_its_own(tmp_path):
    example("trainer")
    from transformers import Trainer

    args, model = arguments(tmp_path, weight_decay=0.2), tiny_llama(0, torch.float32)
    how = (Adafactor, {"lr": 0.05, "weight_decay": 0.3})
    groups = Trainer(model, args, optimizer_cls_and_kwargs=how).create_optimizer().param_groups
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert not any("param_names" in group for group in groups)


def test_trainer_that_makes_named_groups(tmp_path):
    rows = example("trainer").data(8 * 2 * HALF)
    from transformers import Trainer

    scope = {"Trainer": Trainer, "Adafactor": Adafactor}
    exec(SUBCLASS, scope)
    trainer = scope["NamedTrainer"](
        model_init=lambda: tiny_llama(0, torch.float32),
        args=arguments(tmp_path, save_strategy="no"), train_dataset=rows,
    )  # fmt: skip
    trainer.train()
    (group,) = trainer.optimizer.param_groups
    assert group["param_names"] == [name for name, _ in trainer.model.named_parameters()]


def test_accelerate_resumes(options, dtype, tmp_path):
    pairs = example("accelerate_loop").data(8 * 2 * HALF)
    from accelerate import Accelerator

    def train(seed, checkpoint=None):
        accelerator = Accelerator(cpu=True)
        bare = network(seed, dtype)
        made = optimizer_and_scheduler(bare, options)
        loader = DataLoader(pairs, batch_size=8)
        model, optimizer, scheduler, loader = accelerator.prepare(bare, *made, loader)
        if checkpoint:
            accelerator.load_state(checkpoint)
            loader = accelerator.skip_first_batches(loader, HALF)
        for k, (x, y) in enumerate(loader):
            if k == HALF:
                accelerator.save_state(str(tmp_path))
            accelerator.backward(nn.functional.mse_loss(model(x.to(dtype)), y.to(dtype)))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        return bare, made[0]

    whole = train(0)
    check_same(train(1, str(tmp_path)), whole)


@LIGHTNING
def test_lightning_resumes(options, dtype, tmp_path):
    pairs = example("lightning_module").data(8 * HALF)
    from lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, seed):
            super().__init__()
            self.net = network(seed, dtype)

        def training_step(self, batch):
            x, y = batch
            return nn.functional.mse_loss(self.net(x.to(dtype)), y.to(dtype))

        def configure_optimizers(self):
            optimizer, scheduler = optimizer_and_scheduler(self, options)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def train(seed, epochs, checkpoint=None):
        model, loader = Module(seed), DataLoader(pairs, batch_size=8)
        no = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = Trainer(accelerator="cpu", max_epochs=epochs, **dict.fromkeys(no, False))
        # weights_only: the checkpoint holds nothing but tensors and plain values.
        trainer.fit(model, loader, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model, trainer.optimizers[0]

    train(0, epochs=1)
    check_same(train(1, 2, tmp_path / "1.ckpt"), train(0, epochs=2))


def test_offloaded_masters_are_the_float32_run():
    """In float32 there is nothing between masters and model: the bits of a plain loop."""
    offload = example("offload")
    torch.manual_seed(0)
    model, plain = (nn.Linear(8, 4) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    training = offload.Offloaded(model, lr=0.05, beta1=0.9)
    optimizer = Adafactor(plain.named_parameters(), lr=0.05, beta1=0.9)
    for _ in range(3):
        x = torch.randn(5, 8)
        for m in (model, plain):
            m(x).square().sum().backward()
        training.step()
        optimizer.step()
        optimizer.zero_grad()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
    losses = offload.main()
    assert losses[-1] < losses[0] / 3
