"""`python -m facenet.tools.replay RUN_DIR/nonfinite-0.pt [trust=PACKAGE]`: repeats a batch whose gradients were not finite, and says where
that begins."""

from __future__ import annotations

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # the working directory, which may be anybody's

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facenet import config as configs
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice
from facenet.distributed.spread_rows import gradient_of
from facenet.engine.train_step import TrainStep
from facenet.errors import UserError, printable, told
from facenet.files import tensor_file, trusted
from facenet.files.pickled_values import Refused
from facenet.files.plain import plain


def replay(path: Path, device: str = "auto") -> list[str]:
    """Finds what is not finite in the step: the first module by name whose output it is, the losses, the parameters with such a gradient. Dropout and
    the identities of a sampled head are drawn anew; the rest is what the run computed. `device`: a choice of accelerator=. Raises UserError for a
    file that is no such dump."""
    content = read(path)
    parts = {
        name: configs.build(content["config"].get(name), name, of_others=True)
        for name in ("backbone", "loss", "preprocess", "precision", "sampler")
    }
    backbone, loss = parts["backbone"], parts["loss"]
    sizes = {"embedding_size": backbone.embedding_size, "num_identities": content["identities"]}
    loss.start(**sizes, layout=parts["sampler"].layout)
    backbone.load_state_dict(content["embedder"])
    loss.load_state_dict(content["loss"])
    with Accelerator.start(DeviceChoice(name=device), parts["precision"], alone=True) as accelerator:
        module = TrainStep(backbone, loss, parts["preprocess"], accelerator)
        step = accelerator.prepare(module).train()
        first = first_bad(step)
        lines = [f"step {content['step']}, process batch of {', '.join(content['names'])}"]
        for batch in content["batches"]:
            images, labels = accelerator.to_device(batch["images"]), accelerator.to_device(batch["labels"])
            total, scalars = step(images, labels)
            accelerator.backward(total / len(content["batches"]))
            figures = {"loss": total.detach(), **scalars}
            lines.append(", ".join(f"{name} {float(value):.6g}" for name, value in figures.items()))
        lines.append(f"first output that is not finite: {first[0] if first else 'none'}")
        gradients = {name: gradient_of(parameter) for name, parameter in step.named_parameters()}
        bad = [name for name, found in gradients.items() if found is not None and not bool(found.isfinite().all())]
        lines.append(f"gradients that are not finite: {', '.join(bad) or 'none'}")
    return lines


def read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = tensor_file.load(path)
    except (OSError, Refused) as error:
        raise UserError(f"{path}: no dump of a batch ({error})") from None
    if not isinstance(content, dict) or "batches" not in content:
        raise UserError(f"{path}: no dump of a batch; name nonfinite-<process>.pt of a run directory")
    return {**content, "config": plain(content.get("config"), f"{path}: config")}


def first_bad(module: nn.Module) -> list[str]:
    """Filled, once the module has run, with the names of the modules whose output is not finite, innermost first."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name)

        return hook

    for name, part in module.named_modules():
        part.register_forward_hook(look(name or "the loss"))
    return found


def main(arguments: list[str]) -> None:
    """The command; `trust=PACKAGE` among its arguments is as everywhere."""
    with told():
        paths, packages = trusted.take(arguments)
        if len(paths) != 1:
            raise UserError("usage: python -m facenet.tools.replay RUN_DIR/nonfinite-0.pt [trust=PACKAGE]")
        trusted.said.set(packages)
        print(printable("\n".join(replay(Path(paths[0])))))


if __name__ == "__main__":
    main(sys.argv[1:])
