"""Trained detectors on a detection set: mAP on the test images, and how much faster each is.

Each is given as MODEL=WEIGHTS=ANCHORS; speedups are over the first, measured in pairs on an idle
machine, one thread. Weights are too large to be kept here; the commands that made them are in the
files, and in the result.

    python -m benchmarks.detectors --data-dir FOLDER [--data voc] [--image-size 224] \\
      --detector yolov3=FILE=8x10,… --detector tiny_yolov3=FILE=8x11,…
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.pruning import DataDir
from benchmarks.results import save
from latprof.profile.compare import compare_files
from latprof.runtimes.base import Usage
from latprof.runtimes.here import this_device
from pruner import models
from pruner.data import load_data
from pruner.graph.trace import trace
from pruner.train.accuracy import details_of, judged, onnx_judged
from pruner.train.export import export_onnx
from pruner.train.tasks.detection import Detection, DetectionSettings
from pruner.train.weights import load_weights, made_by


def main(
    data_dir: DataDir,
    detector: Annotated[list[str], typer.Option()],
    data: str = "voc",
    image_size: int = 224,
) -> None:
    images = load_data(data, data_dir, image_size=image_size)
    here = this_device("cpu", Usage(1))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for told in detector:
            name, weights, anchors = told.split("=")
            model = models.build(name, images.classes)
            load_weights(model, weights)
            task = Detection(DetectionSettings(anchors=anchors))
            task.check(model, images.shape, images)
            network = trace(model, images.shape, name).network
            file = Path(folder) / f"{name}.onnx"
            export_onnx(model, images.shape, file)
            found = judged(model, images.test, task=task)
            row = {
                "model": name, "trained": made_by(weights), "anchors": anchors,
                "parameters": sum(p.numel() for p in model.parameters()),
                "macs": network.macs_of(network.dense), "map_50": found.compute(),
                **details_of(found),
                "map_50_onnx": onnx_judged(file, images.test, task=task).compute(),
            }  # fmt: skip
            if rows:
                timed = compare_files(Path(folder) / f"{rows[0]['model']}.onnx", file, here)
                row |= {
                    "speedup": timed.speedup, "low": timed.speedup_low, "high": timed.speedup_high,
                    "ms": timed.latency_s * 1e3, "first_ms": timed.dense_s * 1e3,
                }  # fmt: skip
            rows.append(row)
            print({k: v for k, v in row.items() if k != "trained"}, flush=True)
    content = {
        "data": data, "image_size": image_size, "test_images": len(images.test),
        "device": here.model_dump(exclude_none=True), "rows": rows,
    }  # fmt: skip
    print(save("detectors", content))


if __name__ == "__main__":
    typer.run(main)
