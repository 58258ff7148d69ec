"""Writes ts/test/fixtures/onnx: small models as PyTorch exports them, with gradients and training runs in float64.

Weights are not stored: they follow from a rule over (index of the tensor, index of the element) that the test repeats, so the
files hold graphs only. Written with torch 1.13, torchvision 0.14 and onnx 1.12:  python3 scripts/torch-fixtures.py
"""

import io
import json
import math
import os

import numpy as np
import onnx
import torch
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import VisionTransformer

FOLDER = os.path.join(os.path.dirname(__file__), "..", "ts", "test", "fixtures", "onnx")
STEPS = 20
OPTIMISER = {"rate": 2e-3, "decay": 0.05, "betas": [0.9, 0.98], "epsilon": 1e-6, "clip": 1.0}


def values(seed, count):
    """count numbers in [-1, 1): a hash of 32 bits of (seed, index), as support/torch.ts has it."""
    index = np.arange(count, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    x = (index * np.uint64(2654435761) + np.uint64(seed) * np.uint64(2246822519) + np.uint64(374761393)) & mask
    for multiplier in (0x85EBCA6B, 0xC2B2AE35):
        x = ((x ^ (x >> np.uint64(15))) * np.uint64(multiplier)) & mask
    x = x ^ (x >> np.uint64(16))
    return x.astype(np.float64) / 2**31 - 1


class Text(nn.Module):
    """A text tower as CLIP has it: causal mask, QuickGELU, the embedding at the largest token."""

    def __init__(self, vocabulary, length, width, heads, depth, out):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.zeros(width, out))
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1), persistent=False)

    def forward(self, ids):
        x = self.token(ids) + self.position
        for block in self.blocks:
            x = block(x, self.mask)
        x = self.norm(x)
        x = x[torch.arange(x.shape[0]), ids.argmax(dim=-1)] @ self.projection
        return x / x.norm(dim=-1, keepdim=True)


class TextBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(2 * width, width)

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = self.fc(self.ln_2(x))
        return x + self.proj(y * torch.sigmoid(1.702 * y))


class Resnet(nn.Module):
    """ResNet-18's layers, narrow."""

    def __init__(self, widths, out):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks = []
        before = widths[0]
        for i, width in enumerate(widths):
            stride = 1 if i == 0 else 2
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            blocks += [BasicBlock(before, width, stride, shortcut), BasicBlock(width, width)]
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, out)

    def forward(self, x):
        x = self.blocks(self.pool(torch.relu(self.bn1(self.conv1(x)))))
        return self.head(x.mean((2, 3)))


def mobilenet():
    def block(inputs, kernel, expanded, out, excite, activation, stride):
        return InvertedResidualConfig(inputs, kernel, expanded, out, excite, activation, stride, 1, 1.0)

    setting = [
        block(8, 3, 8, 8, True, "RE", 2),
        block(8, 3, 24, 12, False, "RE", 2),
        block(12, 5, 32, 12, True, "HS", 1),
    ]
    return MobileNetV3(setting, last_channel=16, num_classes=6, dropout=0.0)


def images(seed, batch, size):
    return torch.from_numpy(values(seed, batch * 3 * size * size).reshape(batch, 3, size, size))


def ids(seed, batch, length, vocabulary):
    tokens = np.floor((values(seed, batch * length).reshape(batch, length) + 1) / 2 * (vocabulary - 1)).astype(np.int64)
    tokens[np.arange(batch), np.arange(batch) % (length - 2) + 2] = vocabulary - 1
    return torch.from_numpy(tokens)


def make(name):
    """(model in float64, input)"""
    if name == "vit":
        model = VisionTransformer(
            image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=6
        )
        return model, images(1, 4, 16)
    if name == "text":
        return Text(vocabulary=40, length=8, width=16, heads=2, depth=2, out=6), ids(2, 4, 8, 40)
    if name == "resnet":
        return Resnet([6, 8, 10], 6), images(3, 6, 32)
    return mobilenet(), images(4, 6, 32)


def fill(tensors):
    """Values by the rule; scales of norms near 1, matrices small enough for depth. Returns what the test needs to repeat it."""
    rules = []
    for index, (name, tensor) in enumerate(tensors):
        norm = name.endswith("weight") and tensor.dim() == 1
        fan = tensor[0].numel() if tensor.dim() > 1 else 1
        if name.endswith("running_var"):
            scale, shift = 0.2, 1.0
        elif name.endswith("running_mean"):
            scale, shift = 0.1, 0.0
        elif norm:
            scale, shift = 0.3, 1.0
        elif tensor.dim() == 1:
            scale, shift = 0.1, 0.0
        else:
            scale, shift = 1.5 / math.sqrt(fan), 0.0
        scale, shift = float(np.float32(scale)), float(np.float32(shift))
        filled = np.float32(values(100 + index, tensor.numel()) * scale + shift)
        tensor.data.copy_(torch.from_numpy(filled.astype(np.float64)).reshape(tensor.shape))
        rules.append({"name": name, "dims": list(tensor.shape), "seed": 100 + index, "scale": scale, "shift": shift})
    return rules


def tensors_of(model):
    buffers = [(n, b) for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))]
    return list(model.named_parameters()) + buffers


def export(model, example, names):
    """The graph as torch exports it for training, without the values of what `fill` filled."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model.float(),
        example.float() if example.is_floating_point() else example,
        buffer,
        opset_version=17,
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )
    proto = onnx.load_from_string(buffer.getvalue())
    stored = {initializer.name: initializer for initializer in proto.graph.initializer}
    for name in names:
        stored[name].ClearField("raw_data")
    for node in proto.graph.node:
        node.ClearField("doc_string")
    return proto


def gradients(model, example, weights):
    model.zero_grad()
    output = model(example)
    (output * weights).sum().backward()
    return output.detach()


def train(model, example, target):
    """Losses of AdamW in float64; matrices and kernels decay."""
    def decays(parameter):
        return sum(size > 1 for size in parameter.shape) >= 2

    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if decays(p)], "weight_decay": OPTIMISER["decay"]},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, OPTIMISER["rate"], OPTIMISER["betas"], OPTIMISER["epsilon"])
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = ((model(example) - target) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, OPTIMISER["clip"])
        optimiser.step()
        losses.append(loss.item())
    return losses


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for name in ["vit", "text", "resnet", "mobilenet"]:
        torch.manual_seed(0)
        model, example = make(name)
        model = model.double().train()
        rules = fill(tensors_of(model))
        with open(os.path.join(FOLDER, f"{name}.onnx"), "wb") as file:
            file.write(export(model, example, [rule["name"] for rule in rules]).SerializeToString())
        # The export ran the model in float32, and moved running statistics.
        model = model.double().train()
        fill(tensors_of(model))
        if example.is_floating_point():
            example = example.float().double()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        with torch.no_grad():
            shape = model(example).shape
        model.load_state_dict(state)
        weights = torch.from_numpy(values(7, shape.numel())).float().double().reshape(shape)
        output = gradients(model, example, weights)
        flat = [parameter.grad.reshape(-1) for parameter in model.parameters()]
        running = [b.reshape(-1) for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))]
        with open(os.path.join(FOLDER, f"{name}.f32"), "wb") as file:
            for part in [output.reshape(-1), *flat, *running]:
                file.write(part.numpy().astype("<f4").tobytes())
        model.load_state_dict(state)
        target = torch.from_numpy(values(8, shape.numel())).float().double().reshape(shape)
        case = {
            "input": {"dims": list(example.shape)},
            "output": list(shape),
            "tensors": rules,
            "optimiser": OPTIMISER,
            "losses": train(model, example, target),
        }
        if not example.is_floating_point():
            case["input"]["ids"] = example.reshape(-1).tolist()
        else:
            case["input"]["seed"] = {"vit": 1, "resnet": 3, "mobilenet": 4}[name]
        with open(os.path.join(FOLDER, f"{name}.json"), "w") as file:
            json.dump(case, file)
            file.write("\n")
        print(name, sum(part.numel() for part in flat), "parameters, losses", case["losses"][0], case["losses"][-1])


if __name__ == "__main__":
    main()
