"""Lightning: configure_optimizers returns optimizer and scheduler."""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adafactor_torch import Adafactor

STEPS = 100


def data(count: int) -> TensorDataset:
    torch.manual_seed(1)
    x, w = torch.randn(count, 8), torch.randn(8, 4)
    return TensorDataset(x, torch.tanh(x @ w))


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = Adafactor(self.named_parameters(), lr=0.05, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]  # not "epoch"


def main() -> list[float]:
    torch.manual_seed(0)
    model = Module()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", max_steps=STEPS, **quiet)
    trainer.fit(model, DataLoader(data(16 * STEPS), batch_size=16))
    return model.losses


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
