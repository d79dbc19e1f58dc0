"""Plain torch: a small network learns a random map."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adafactor_torch import Adafactor

STEPS = 100


def data(count: int) -> TensorDataset:
    torch.manual_seed(1)
    x, w = torch.randn(count, 8), torch.randn(8, 4)
    return TensorDataset(x, torch.tanh(x @ w))


def main() -> list[float]:
    loader = DataLoader(data(16 * STEPS), batch_size=16)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))

    optimizer = Adafactor(model.named_parameters(), lr=0.05, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)

    losses = []
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
