"""The peer of vit-step.mjs: the same vision transformer in PyTorch. Reads one command a line, answers with milliseconds.

gradient: forward and backward with the embedding's gradient given.  step: the same with the CLIP loss, and AdamW.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

shape = json.loads(sys.argv[1])
torch.set_num_threads(shape["threads"])
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = ((q * size**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, image, patch, width, depth, heads, out):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, out, bias=False)

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.projection(self.norm(x)[:, 0])


batch = shape["batch"]
model = Vit(shape["image"], shape["patch"], shape["width"], shape["depth"], shape["heads"], shape["out"])
optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
pixels = torch.randn(batch, 3, shape["image"], shape["image"])
given = torch.randn(batch, shape["out"]) / batch
text = F.normalize(torch.randn(batch, shape["out"]), dim=1)
labels = torch.arange(batch)


def gradient():
    model.zero_grad(set_to_none=False)
    model(pixels).backward(given)


def step():
    model.zero_grad(set_to_none=False)
    scores = 14.3 * F.normalize(model(pixels), dim=1) @ text.T
    loss = (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2
    loss.backward()
    optimiser.step()


print(json.dumps({"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}), flush=True)
for line in sys.stdin:
    run = {"gradient": gradient, "step": step}[line.strip()]
    start = time.perf_counter()
    run()
    print(1000 * (time.perf_counter() - start), flush=True)
