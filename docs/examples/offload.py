"""CPU offload: float32 masters, their optimizer state and the step live in CPU memory."""

import torch
from torch import nn

from adafactor_torch import Adafactor

STEPS = 100


class Offloaded:
    """Trains `model`, on any device and of any dtype, by its float32 copies on the CPU."""

    def __init__(self, model: nn.Module, **options) -> None:
        self.pairs = []
        for name, p in model.named_parameters():
            master = p.detach().to("cpu", torch.float32, copy=True)
            # Pinned memory is what a GPU copies from and to without waiting.
            master = nn.Parameter(master.pin_memory() if p.is_cuda else master)
            master.grad = torch.zeros_like(master, pin_memory=p.is_cuda)
            self.pairs.append((name, p, master))
        self.optimizer = Adafactor([(name, master) for name, _, master in self.pairs], **options)

    def step(self) -> None:
        for _, p, master in self.pairs:
            master.grad.copy_(p.grad, non_blocking=True)
            p.grad = None
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the copies, before the CPU reads them
        self.optimizer.step()
        with torch.no_grad():
            for _, p, master in self.pairs:
                p.copy_(master, non_blocking=True)


def main(device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> list[float]:
    torch.manual_seed(0)
    x, w = torch.randn(16 * STEPS, 8), torch.randn(8, 4)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).to(device, dtype)

    training = Offloaded(model, lr=0.05, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(training.optimizer, T_max=STEPS)

    losses = []
    for batch in x.split(16):
        target = torch.tanh(batch @ w).to(device)
        loss = nn.functional.mse_loss(model(batch.to(device, dtype)).float(), target)
        loss.backward()
        training.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = main("cuda" if torch.cuda.is_available() else "cpu")
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
