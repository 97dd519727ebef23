"""clip_benchmark's own command line, in this process, with a stand-in for the torchvision that CPU PyTorch lacks.

Two things are changed of it, each for a reason that is not ours: torchvision's data sets are names that are only
imported (the sets of the tests are webdatasets and SugarCrepe, whose loaders are clip_benchmark's), and `accuracy`
calls float() on an array of one element, which NumPy 2.4 refuses (`.item()` is meant).
"""

import json
import sys
import types

import libraries  # noqa: F401
import torch

_SETS = "CIFAR10 CIFAR100 DTD GTSRB MNIST PCAM STL10 SUN397 CocoCaptions Country211 EuroSAT FGVCAircraft Flowers102"
_SETS += " Food101 ImageFolder ImageNet OxfordIIITPet RenderedSST2 StanfordCars VisionDataset"


def _install() -> None:
    torchvision = sys.modules["torchvision"]
    if hasattr(torchvision, "datasets"):
        return
    modules = {
        name: types.ModuleType(f"torchvision.{name}") for name in ("datasets", "datasets.utils", "datasets.vision")
    }
    unused = {name: type(name, (torch.utils.data.Dataset,), {}) for name in _SETS.split()}
    vars(modules["datasets"]).update(unused)
    modules["datasets.vision"].VisionDataset = unused["VisionDataset"]
    for name in ("verify_str_arg", "download_and_extract_archive", "extract_archive", "download_url"):
        setattr(modules["datasets.utils"], name, None)
    modules["datasets"].utils, modules["datasets"].vision = modules["datasets.utils"], modules["datasets.vision"]
    torchvision.datasets = modules["datasets"]
    sys.modules.update({f"torchvision.{name}": module for name, module in modules.items()})


_install()
from clip_benchmark import cli  # noqa: E402
from clip_benchmark.metrics import zeroshot_classification  # noqa: E402


def _accuracy(output, target, topk=(1,)):
    best = output.topk(max(topk), 1, True, True)[1].t()
    correct = best.eq(target.view(1, -1).expand_as(best))
    return [correct[:k].reshape(-1).float().sum(0).item() / len(target) for k in topk]


def evaluate(monkeypatch, model, dataset: str, root, output, *flags) -> dict:
    """The metrics of `clip_benchmark eval`, and under `logits` what its classification computed."""
    run, seen = zeroshot_classification.run_classification, {}

    def remembered(*arguments, **settings):
        seen["logits"], seen["target"] = run(*arguments, **settings)
        return seen["logits"], seen["target"]

    monkeypatch.setattr(zeroshot_classification, "accuracy", _accuracy)
    monkeypatch.setattr(zeroshot_classification, "run_classification", remembered)
    command = ["clip_benchmark", "eval", "--model", f"local-dir:{model}", "--pretrained", "", "--dataset", dataset]
    command += ["--dataset_root", str(root), "--output", str(output), "--no_amp", "--num_workers", "0", "--quiet"]
    monkeypatch.setattr(sys, "argv", [*command, "--batch_size", "7", *flags])
    cli.main()
    return json.loads(output.read_text())["metrics"] | {name: value.numpy() for name, value in seen.items()}
