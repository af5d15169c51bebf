"""Forward pass and training step of models beside the reference, in one run: images per second and their ratio.

    JAXVISION_TEST_DATA=... python -m tests.parity.model_speed MODEL ... [--batch-size 8] [--threads 2] [--no-compile]

The reference is the network of `references/`, run by torch as it is (eager) and through `torch.compile`; on a GPU where
torch sees one. Each round times ours and theirs in turn, so that other work on the machine meets all of them; medians
of the rounds are taken. The train step is forward, backward and SGD with momentum on both sides, float32 or bfloat16
(torch: autocast). Rows are added to `experiments/results/model_speed.json`; `--table` prints it as Markdown.
"""

import argparse
import gc
import json
import statistics
from pathlib import Path

import jax
import torch

from jaxvision.model_speed import compile_programs, own_image_size, timed
from tests.parity import zoo

TABLE = Path(__file__).parent.parent.parent / "experiments" / "results" / "model_speed.json"


def torch_calls(model, x, dtype):
    """(forward, train step) of a network."""
    labels = torch.arange(len(x), device=x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    half = torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == "bfloat16")

    def wait():
        if x.is_cuda:
            torch.cuda.synchronize()

    def forward():
        model.eval()
        with torch.inference_mode(), half:
            model(x)
        wait()

    def train():
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with half:
            outputs = model(x)
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            loss = torch.nn.functional.cross_entropy(getattr(logits, "logits", logits), labels)
        loss.backward()
        optimizer.step()
        wait()

    return forward, train


def measure(name, options):
    """One row."""
    reference = zoo.references()[name]
    size = own_image_size(zoo.our_name(name))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(options.batch_size, 3, *size, device=device)
    theirs = {"eager": torch_calls(reference.make().to(device), x, options.dtype)}
    if options.compile:
        theirs["compile"] = torch_calls(torch.compile(reference.make().to(device)), x, options.dtype)
    ours = compile_programs(zoo.our_name(name), batch_size=options.batch_size, image_size=size, dtype=options.dtype)
    row = {"device": jax.devices()[0].device_kind, "batch_size": options.batch_size, "image_size": list(size)}
    row |= {"dtype": options.dtype, "threads": options.threads, "parameters": ours.parameters}
    for number, what in enumerate(("forward", "train")):
        calls = {"jaxvision": getattr(ours, what), **{kind: pair[number] for kind, pair in theirs.items()}}
        rounds = [timed(list(calls.values())) for _ in range(options.rounds + 2)][2:]
        seconds = dict(zip(calls, (statistics.median(column) for column in zip(*rounds, strict=True)), strict=True))
        row[what] = {kind: float(f"{options.batch_size / value:.4g}") for kind, value in seconds.items()}
        told = ", ".join(f"{kind} {rate:.1f} ({row[what]['jaxvision'] / rate:.2f})" for kind, rate in row[what].items())
        print(f"{name:32} {what:8} images/s (our ratio): {told}", flush=True)
    return row


def markdown(rows):
    """The table of `experiments/README.md`."""
    lines = [
        "| model | forward: ours, eager, compiled | ratio | train step: ours, eager, compiled | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [name]
        for what in ("forward", "train"):
            rates = row[what]
            cells.append(", ".join(f"{rate:.1f}" for rate in rates.values()))
            cells.append(
                " / ".join(f"{rates['jaxvision'] / rate:.2f}" for kind, rate in rates.items() if kind != "jaxvision")
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of torch; XLA takes the cores that it may run on")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--table", action="store_true", help="print the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for name in options.models:
        rows[name] = measure(name, options)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rows[key])}" for key in sorted(rows))
        TABLE.write_text(f"{{\n{lines}\n}}\n")
        jax.clear_caches()
        torch.compiler.reset()
        gc.collect()
    if options.table:
        print(markdown(rows))


if __name__ == "__main__":
    main()
