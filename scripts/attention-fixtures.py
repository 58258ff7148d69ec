"""Writes ts/test/fixtures/attention: small vision transformers as PyTorch exports them, in the spellings of attention that are about, with the
distances, entropies and divergences of their heads in float64.

As in torch-fixtures.py, weights are not stored: they follow from a rule. Written with torch 1.13, torchvision 0.14 and onnx 1.12:
python3 scripts/attention-fixtures.py
"""

import importlib.util
import io
import json
import math
import os

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "ts", "test", "fixtures", "attention")
spec = importlib.util.spec_from_file_location("torch_fixtures", os.path.join(HERE, "torch-fixtures.py"))
rules = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rules)

WIDTH, HEADS, PATCH = 16, 2, 4
FLOOR = 2.0**-149  # what float32 holds at least
recorded = []


def softmax(scores):
    attention = F.softmax(scores, dim=-1)
    recorded.append(attention)
    return attention


class Unbound(nn.Module):
    """One projection, split by reshape, permute and unbind; queries are scaled."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        attention = softmax((q * (c // HEADS) ** -0.5) @ k.transpose(-2, -1))
        return self.out((attention @ v).transpose(1, 2).reshape(b, n, c))


class Batched(nn.Module):
    """Three projections; images and heads are one dimension, and products are bmm."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        b, n, c = x.shape

        def split(y):
            return y.view(b, n, HEADS, c // HEADS).transpose(1, 2).reshape(b * HEADS, n, c // HEADS)

        q, k, v = split(self.q(x) * (c // HEADS) ** -0.5), split(self.k(x)), split(self.v(x))
        attention = F.dropout(softmax(torch.bmm(q, k.transpose(1, 2))), p=0.1, training=self.training)
        y = torch.bmm(attention, v).view(b, HEADS, n, c // HEADS).transpose(1, 2).reshape(b, n, c)
        return self.out(y)


class Divided(nn.Module):
    """Scores are divided by the root of the width, and a bias of places is added."""

    def __init__(self, tokens):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.bias = nn.Parameter(torch.zeros(1, HEADS, tokens, tokens))

    def forward(self, x):
        b, n, c = x.shape

        def split(y):
            return y.view(b, n, HEADS, c // HEADS).permute(0, 2, 1, 3)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(c // HEADS) + self.bias
        y = torch.matmul(F.dropout(softmax(scores), 0.1, self.training), v).permute(0, 2, 1, 3).contiguous()
        return self.out(y.view(b, n, c))


class Guarded(nn.Module):
    """What scaled_dot_product_attention is taken apart into: the scale is on both factors, rows that are masked in whole become 0."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = (p(x).view(b, n, HEADS, c // HEADS).transpose(1, 2) for p in (self.q, self.k, self.v))
        scale = math.sqrt((c // HEADS) ** -0.5)
        attention = softmax((q * scale) @ (k.transpose(-2, -1) * scale))
        attention = torch.where(torch.isnan(attention), torch.zeros((), dtype=x.dtype), attention)
        return self.out((attention @ v).transpose(1, 2).reshape(b, n, c))


class Vit(nn.Module):
    def __init__(self, attention, class_tokens, size=16, depth=2):
        super().__init__()
        tokens = (size // PATCH) ** 2 + class_tokens
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.tokens = nn.Parameter(torch.zeros(1, class_tokens, WIDTH)) if class_tokens else None
        self.position = nn.Parameter(torch.zeros(1, tokens, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))
        self.attentions = nn.ModuleList(attention(tokens) for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 6)

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        if self.tokens is not None:
            x = torch.cat((self.tokens.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.position
        for norm, attention in zip(self.norms, self.attentions):
            x = x + attention(norm(x))
        x = self.norm(x)
        # A softmax that is no attention.
        return F.softmax(self.head(x[:, 0] if self.tokens is not None else x.mean(1)), dim=-1)


def make(name):
    """(model, side of its images, layout of each layer: class tokens, columns, pixels of a cell, windows)"""
    if name == "multihead":
        model = VisionTransformer(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=6)
        return model, 16, [(1, 4, 4, 1)] * 2
    if name == "swin":
        model = SwinTransformer([2, 2], 8, [2, 1], [2, 4], [4, 4], mlp_ratio=1, stochastic_depth_prob=0.0, num_classes=6)
        return model, 32, [(0, 4, 2, 16)] * 2 + [(0, 4, 4, 4)]
    attention, class_tokens = {
        "unbound": (lambda tokens: Unbound(), 3),
        "batched": (lambda tokens: Batched(), 1),
        "divided": (Divided, 0),
        "guarded": (lambda tokens: Guarded(), 1),
    }[name]
    return Vit(attention, class_tokens), 16, [(class_tokens, 4, 4, 1)] * 2


def record_multihead(module):
    """Has nn.MultiheadAttention tell its probabilities, which it otherwise computes out of sight."""
    plain = module.forward

    def forward(query, key, value, **options):
        recorded.append(plain(query, key, value, need_weights=True, average_attn_weights=False)[1])
        return plain(query, key, value, **options)

    module.forward = forward


def measures(attention, class_tokens, columns, cell, renormalize=False, patches=False):
    """Straight from the definitions, in loops. [rows, heads, tokens, tokens]"""
    a = attention.numpy()
    rows, heads, tokens, _ = a.shape
    place = [divmod(i, columns) for i in range(tokens - class_tokens)]
    far = cell * np.array([[math.hypot(y - v, x - u) for v, u in place] for y, x in place])
    distance, entropy = np.zeros(heads), np.zeros(heads)
    divergence = 0.0
    for row in range(rows):
        for head in range(heads):
            inner = a[row, head, class_tokens:, class_tokens:]
            shares = inner / inner.sum(-1, keepdims=True)
            distance[head] += ((shares if renormalize else inner) * far).sum(-1).mean() / rows
            p = shares if patches else a[row, head]
            entropy[head] -= (p * np.log(p)).sum(-1).mean() / rows
            for other in range(heads):
                logs = np.log(a[row, head]) - np.log(np.maximum(a[row, other], FLOOR))
                divergence += (a[row, head] * logs).sum(-1).mean() / rows / (heads * (heads - 1))
    return {"distance": distance.tolist(), "entropy": entropy.tolist(), "divergence": divergence}


def export(model, example, names, fixed):
    """`fixed` fixes the number of images: a graph of windows is large if it reckons with it. Its weights are stored, folded as they are."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model.float(),
        example.float(),
        buffer,
        opset_version=17,
        do_constant_folding=fixed,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes=None if fixed else {"input": {0: "batch"}, "output": {0: "batch"}},
    )
    proto = onnx.load_from_string(buffer.getvalue())
    stored = {initializer.name: initializer for initializer in proto.graph.initializer}
    for name in [] if fixed else names:
        stored[name].ClearField("raw_data")
    short = {"input": "input", "output": "output"}
    for node in proto.graph.node:
        node.ClearField("doc_string")
        if fixed:
            # Hundreds of names that spell a path each.
            node.ClearField("name")
            node.input[:] = [short.get(value, value) for value in node.input]
            node.output[:] = [short.setdefault(value, f"v{len(short)}") for value in node.output]
    return proto


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for name in ["multihead", "unbound", "batched", "divided", "guarded", "swin"]:
        torch.manual_seed(0)
        model, size, layouts = make(name)
        model = model.double().eval()
        tensors = list(model.named_parameters())
        filled = rules.fill(tensors)
        example = rules.images(1, 3, size).float().double()
        with open(os.path.join(FOLDER, f"{name}.onnx"), "wb") as file:
            names = [rule["name"] for rule in filled]
            file.write(export(model, example, names, name == "swin").SerializeToString())
        model = model.double()
        rules.fill(tensors)
        recorded.clear()
        if name == "multihead":
            for module in model.modules():
                if isinstance(module, nn.MultiheadAttention):
                    record_multihead(module)
        torch_softmax = F.softmax
        if name == "swin":
            F.softmax = lambda scores, dim: (recorded.append(torch_softmax(scores, dim=dim)), recorded[-1])[1]
        with torch.no_grad():
            output = model(example)
        F.softmax = torch_softmax
        layers = []
        for attention, (class_tokens, columns, cell, windows) in zip(recorded, layouts):
            tokens = attention.shape[-1]
            attention = attention.reshape(3 * windows, -1, tokens, tokens)
            layer = measures(attention, class_tokens, columns, cell)
            layer["patches"] = measures(attention, class_tokens, columns, cell, renormalize=True, patches=True)
            layer.update(heads=attention.shape[1], tokens=tokens, classTokens=class_tokens, cell=cell, windows=windows)
            layers.append(layer)
        assert len(recorded) == len(layouts), (name, len(recorded))
        case = {"input": {"dims": list(example.shape), "seed": 1}, "tensors": [] if name == "swin" else filled, "layers": layers, "output": output.reshape(-1).tolist()}
        with open(os.path.join(FOLDER, f"{name}.json"), "w") as file:
            json.dump(case, file)
            file.write("\n")
        print(name, [(layer["distance"], layer["entropy"], layer["divergence"]) for layer in layers])


main()
