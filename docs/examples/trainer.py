"""Hugging Face Trainer: a tiny Llama learns to count modulo 32."""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from adafactor_torch import Adafactor

STEPS = 100


def data(count: int) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    rows = (torch.randint(32, (count, 1)) + torch.arange(16)) % 32
    return [{"input_ids": row, "labels": row} for row in rows]


def main(named: bool = True) -> list[float]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_attention_heads=2, **sizes))

    if named:
        optimizer = Adafactor(model.named_parameters(), lr=0.05, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        how = {"optimizers": (optimizer, scheduler)}
    else:  # Trainer makes both: nameless groups, decay and schedule from its arguments
        how = {"optimizer_cls_and_kwargs": (Adafactor, {"lr": 0.05})}

    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=16,
            weight_decay=0.1,
            lr_scheduler_type="cosine",
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        )
        trainer = Trainer(model, args, train_dataset=data(16 * STEPS), **how)
        trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


if __name__ == "__main__":
    losses = main()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
