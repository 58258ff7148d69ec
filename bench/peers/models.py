"""The models of ts/src/bench/models.ts in PyTorch, with the same parameters, and their training steps."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads, mask=None):
        super().__init__()
        self.heads, self.mask = heads, mask
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        if hasattr(F, "scaled_dot_product_attention"):
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.mask is not None)
        else:
            scores = (q * size**-0.5) @ k.transpose(-1, -2)
            mixed = (scores if self.mask is None else scores + self.mask).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        hidden = self.fc1(self.norm2(x))
        return x + self.fc2(F.gelu(hidden) if self.mask is None else hidden * torch.sigmoid(1.702 * hidden))


class Vit(nn.Module):
    def __init__(self, image, patch, width, depth, heads, out):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, out, bias=False)

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        # Of the other tokens nothing is read.
        return self.projection(self.norm(x[:, 0]))


class Text(nn.Module):
    def __init__(self, vocabulary, length, width, depth, heads, out):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Parameter(torch.empty(length, width))
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.blocks = nn.ModuleList(Block(width, heads, mask) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, out, bias=False)

    def forward(self, tokens):
        x = self.token_embedding(tokens) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        return self.projection(self.norm(x[torch.arange(len(x)), tokens.argmax(1)]))


def torchvision(name, **options):
    import torchvision.models

    return getattr(torchvision.models, name)(**options)


MODELS = {
    "vit-w192": lambda out: Vit(64, 8, 192, 6, 3, out),
    "vit-w512": lambda out: Vit(64, 8, 512, 6, 8, out),
    "text-w512": lambda out: Text(49_408, 77, 512, 12, 8, out),
    "resnet18": lambda out: torchvision("resnet18", num_classes=out),
    "mobilenetv3-small": lambda out: torchvision("mobilenet_v3_small", num_classes=out, dropout=0),
}


def load(model, names, values):
    """Sets parameters and running statistics from one array that holds them in the order of `names`; linear weights are [in, out] there."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    if sorted(names) != sorted(state):
        raise ValueError(f"Expected parameters {sorted(state)} but received {sorted(names)}")
    at = 0
    for name in names:
        value = state[name]
        given = torch.from_numpy(values[at : at + value.numel()])
        value.copy_(given.view(value.shape[::-1]).T if name in linear else given.view(value.shape))
        at += value.numel()


def training(job, data, channels_last, bfloat16):
    """A step on one batch: forward, CLIP's loss between embeddings and targets, backward, AdamW. Returns the loss. With bfloat16 the
    model is run under autocast, which rounds what products multiply; parameters stay float32."""
    target = torch.from_numpy(data["target"])
    values = torch.from_numpy(data["input"])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if values.dtype == torch.float32:
        values = values.contiguous(memory_format=layout)
    model = MODELS[job["model"]](target.shape[1])
    load(model, job["names"], data["parameters"])
    model = model.to(memory_format=layout)
    optimiser = torch.optim.AdamW(model.parameters(), job["rate"], weight_decay=job["decay"])
    labels = torch.arange(len(target))

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            embeddings = model(values)
        scores = job["scale"] * F.normalize(embeddings.float(), dim=1) @ target.T
        loss = (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2
        loss.backward()
        optimiser.step()
        return loss.item()

    return step
