"""Export to ONNX: all that a model answers is compared."""

import onnxruntime as ort
import pytest
import torch
from torch import nn

from pruner import ExportError
from pruner.train.export import export_onnx, largest_difference


class Two(nn.Module):
    """Classes, and a map of features."""

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__()
        self.conv, self.head, self.wrong = nn.Conv2d(1, 4, 3), nn.Linear(4, 3), wrong

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(x.mean((2, 3))), x + self.wrong


def test_every_output_is_written_and_compared(tmp_path):
    torch.manual_seed(0)
    model = Two().eval()
    assert export_onnx(model, (1, 8, 8), tmp_path / "two.onnx") < 1e-4
    session = ort.InferenceSession(str(tmp_path / "two.onnx"))
    assert [output.name for output in session.get_outputs()] == ["output_0", "output_1"]


def test_a_second_output_that_differs_is_seen(tmp_path):
    torch.manual_seed(0)
    export_onnx(Two().eval(), (1, 8, 8), tmp_path / "two.onnx")
    torch.manual_seed(0)
    assert largest_difference(Two(wrong=0.5).eval(), tmp_path / "two.onnx", (1, 8, 8)) > 0.1


def test_another_number_of_outputs_is_an_error(tmp_path):
    export_onnx(Two().eval(), (1, 8, 8), tmp_path / "two.onnx")
    one = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(ExportError, match="returns 8×3, 8×4×6×6, but the model returns 8×3"):
        largest_difference(one, tmp_path / "two.onnx", (1, 8, 8))
